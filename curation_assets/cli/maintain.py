"""Maintain: `maintain`, which keeps the warehouse small."""

from __future__ import annotations

from datetime import timedelta

import click

from curation_assets.cli.base import EXIT_RUN_FAILED, cli, err, out, print_json, settings_of, with_json


@cli.command()
@click.option(
    "--older-than", "days", type=float, metavar="DAYS", help="Drop versions of tables replaced so long ago; default: the settings'."
)
@click.option("--source", "names", multiple=True, help="Only tables of these sources.")
@click.option("--remove-left-over", is_flag=True, help="Delete tables and media that no source, model or stage of the settings makes.")
@click.option("--alone", is_flag=True, help="Nothing else uses the warehouse: any --older-than; leftovers of killed writes go at once.")
@click.option("--dry-run", is_flag=True, help="Say what would be freed; change nothing.")
@with_json
@click.pass_context
def maintain(
    context: click.Context, days: float | None, names: tuple[str, ...], remove_left_over: bool, alone: bool, dry_run: bool, as_json: bool
) -> None:
    """Keep the warehouse small: merge small files of tables, drop old versions, remove files that nothing names. Safe beside runs."""
    from curation_assets.curation.maintain import MaintainOptions
    from curation_assets.curation.maintain import maintain as maintain_warehouse

    config = settings_of(context)[1]
    options = MaintainOptions(
        older_than=timedelta(days=config.maintenance.older_than_days if days is None else days),
        is_dry_run=dry_run,
        is_alone=alone,
        remove_left_over=remove_left_over,
        sources=names,
    )
    report = maintain_warehouse(config, options, log=lambda line: err.print(line, markup=False, soft_wrap=True))
    if as_json:
        print_json(report.as_dict())
    else:
        sums = report.as_dict()
        out.print(
            f"{'would free' if dry_run else 'freed'} {sums['bytes_freed'] / 1e6:,.1f} MB in {len(report.tables)} tables: "
            f"{sums['versions_dropped']:,} old versions, {sums['files_removed']:,} files that nothing names, "
            f"{report.temporary_removed:,} of killed writes, {report.leases_removed:,} leases; {sums['fragments_merged']:,} small files merged"
        )
        for state, what in (("busy", "in use, left for the next time"), ("left_over", "left over; --remove-left-over deletes them")):
            if tables := report.of_state(state):
                size = f", {sum(table.bytes_freed for table in tables) / 1e6:,.1f} MB" if state == "left_over" else ""
                out.print(f"{len(tables)} tables are {what}{size}")
    if failed := report.of_state("failed"):
        for table in failed:
            err.print(f"error: {table.table}: {table.detail}", markup=False, soft_wrap=True)
        context.exit(EXIT_RUN_FAILED)
