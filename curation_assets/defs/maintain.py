"""Maintenance: the job `maintain_warehouse`, which keeps the warehouse small, and its weekly schedule, which is off until somebody turns it on."""

from datetime import timedelta

import dagster as dg

from curation_assets.curation.maintain import MaintainOptions, maintain
from curation_assets.defs.resources import CurationResource


class MaintainWarehouse(dg.Config):
    """What to do; the settings' maintenance.older_than_days where no days are given."""

    older_than_days: float | None = None
    remove_left_over: bool = False
    dry_run: bool = False


@dg.op
def maintain_warehouse_op(context: dg.OpExecutionContext, config: MaintainWarehouse, curation: CurationResource) -> None:
    """Merge small files of tables, drop old versions, remove files that nothing names; tables that a run is writing are left for the next time."""
    settings = curation.config()
    days = settings.maintenance.older_than_days if config.older_than_days is None else config.older_than_days
    options = MaintainOptions(older_than=timedelta(days=days), is_dry_run=config.dry_run, remove_left_over=config.remove_left_over)
    report = maintain(settings, options, log=context.log.info)
    document = report.as_dict()
    context.add_output_metadata(
        {
            **{name: document[name] for name in ("bytes_freed", "versions_dropped", "files_removed", "fragments_merged")},
            **{name: document[name] for name in ("temporary_removed", "leases_removed")},
            **{state: len(report.of_state(state)) for state in ("busy", "left_over", "removed", "failed")},
        }
    )
    if failed := report.of_state("failed"):
        raise dg.Failure("; ".join(f"{table.table}: {table.detail}" for table in failed), allow_retries=False)


@dg.job(
    executor_def=dg.in_process_executor,
    description="Merges small files of tables, drops old versions, removes files that nothing names. Safe beside other runs.",
)
def maintain_warehouse() -> None:
    """Run the one step."""
    maintain_warehouse_op()


weekly_maintenance_schedule = dg.ScheduleDefinition(
    name="weekly_maintenance_schedule",
    job=maintain_warehouse,
    cron_schedule="0 4 * * 0",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Keeps the warehouse small, on Sundays at 4 in the morning, UTC.",
)
