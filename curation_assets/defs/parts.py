"""Parts: what one code location holds. One location holds all; on Kubernetes one holds what CPUs do, and another, with its own image, the models.

Two locations must not define the same asset, so the parts share none; what one needs of the other it names by its asset key.
"""

import os
from collections.abc import Sequence
from enum import StrEnum

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition  # not exported at the top level

from curation_assets.defs.pools import needs_gpu
from curation_assets.defs.stages import CurationStage
from curation_assets.schemas import names
from curation_assets.schemas.clip_scores import CLIP_SCORES_AESTHETIC
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import SettingsError

Job = dg.JobDefinition | UnresolvedAssetJobDefinition
PART_VARIABLE = "CURATION_PART"


class Part(StrEnum):
    """`cpu` is everything but the assets of models that are made for a GPU, `gpu` is those."""

    ALL = "all"
    CPU = "cpu"
    GPU = "gpu"

    def holds(self, spec: TableSpec) -> bool:
        """Say whether a table's asset belongs to this part."""
        return self is Part.ALL or (self is Part.GPU) == wants_gpu(spec)

    def tables(self, specs: Sequence[TableSpec]) -> list[TableSpec]:
        """Keep the tables of this part."""
        return [spec for spec in specs if self.holds(spec)]

    def stages(self, stages: Sequence[CurationStage]) -> list[CurationStage]:
        """Keep the stages of this part."""
        return [stage for stage in stages if self.holds(stage.tables[0].spec)]

    def jobs(self, jobs: Sequence[Job]) -> list[Job]:
        """Keep the jobs of this part: `gpu` has its half of `curate_source`, and `curate_sources` over its stages; `cpu` has all but that half."""
        gpu = ("curate_source_gpu", "curate_sources")
        return [job for job in jobs if self is Part.ALL or (job.name in gpu if self is Part.GPU else job.name != gpu[0])]

    def assets(self, assets: Sequence[dg.AssetsDefinition], specs: Sequence[TableSpec]) -> list[dg.AssetsDefinition]:
        """Keep the assets of this part.

        Args:
            assets: all of them.
            specs: of all tables that they make; an asset without a table belongs to `cpu`.
        """
        of_gpu = {dg.AssetKey(spec.asset_key) for spec in specs if wants_gpu(spec)}
        return [item for item in assets if self is Part.ALL or (self is Part.GPU) == bool(item.keys & of_gpu)]


def wants_gpu(spec: TableSpec) -> bool:
    """Say whether a table is made by a model that is made for a GPU; `fingerprint` is not."""
    if spec.asset == CLIP_SCORES_AESTHETIC.asset:
        return needs_gpu(None)
    return spec.asset.startswith(f"{names.EMBEDDINGS}/") and needs_gpu(spec.asset.partition("/")[2])


def part_of_environment() -> Part:
    """Read `CURATION_PART`; without it a location holds all.

    Raises:
        SettingsError: it names no part.
    """
    value = os.environ.get(PART_VARIABLE, Part.ALL)
    if value not in list(Part):
        raise SettingsError(f"{PART_VARIABLE} is {value!r}: it must be {', '.join(Part)}, or unset")
    return Part(value)
