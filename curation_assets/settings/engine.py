"""Engine: where work runs and what it may use."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from curation_assets.settings.base import Model, Seconds


class RaySettings(Model):
    """The Ray cluster, and what of it one piece and one model take."""

    address: str | None = Field(
        None,
        description="HOST:PORT of the cluster's head; auto: the cluster that runs on this machine. None: RAY_ADDRESS of the environment, or without it a "
        "cluster that is started on this machine for the run.",
    )
    num_cpus_per_task: float = Field(
        1.0, gt=0, le=1024, description="CPUs that one piece of work takes; decoder threads are frame_sets.num_cpus."
    )
    num_gpus_per_task: float = Field(
        0.0, ge=0, le=64, description="GPUs that one piece takes, for NVDEC and NVENC: Ray hides the others from it."
    )
    actors: int | None = Field(
        None, ge=1, le=4096, description="Processes that hold a model. None is one per GPU, or on a cluster without any, one per node."
    )
    num_cpus_per_actor: float = Field(1.0, gt=0, le=1024, description="CPUs that each takes; on the CPU also the model's threads.")
    num_gpus_per_actor: float | None = Field(
        None,
        ge=0,
        le=64,
        description="GPUs that each takes, where the model may use one. None is 1 where the cluster has any. Below 1, set embeddings.num_gpus_per_worker too.",
    )

    @field_validator("address")
    @classmethod
    def _no_client(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            raise ValueError(
                f"{value!r} is no address of a head; write HOST:PORT (the run is a process on a machine of the cluster) or auto"
            )
        return value


class EngineSettings(Model):
    """Where work runs and what it may use."""

    kind: Literal["local", "ray"] = Field(
        "local", description="local: processes of this machine; ray: the nodes of a Ray cluster (extra ray)."
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Worker processes; None is one per CPU, 0 works inside the run (no deadlines, no crash isolation; not on Ray).",
    )
    timeout_s: Seconds = Field(600.0, gt=0, description="Deadline for one piece of work (one video, or a few minutes of a long one).")
    clips_per_chunk: int = Field(8, ge=1, le=1024, description="A longer video is worked on, and committed, in pieces of so many clips.")
    cache_dir: str | None = Field(
        None,
        pattern=r"^/",
        description="Full path of a folder for remote objects that are read whole, on each machine's own disk; None is a folder under the system's temporary one.",
    )
    cache_bytes: int = Field(20_000_000_000, ge=0, description="Most bytes of remote objects kept there.")
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _ray_has_workers(self) -> EngineSettings:
        if self.kind == "ray" and self.workers == 0:
            raise ValueError(
                "engine.workers is 0, which works inside the run, and engine.kind is ray: leave workers out, or set kind: local"
            )
        return self
