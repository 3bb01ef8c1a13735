"""Resources: the settings and the engine, as every asset of a run gets them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from curation_assets.configuration import check_narrower_settings, find_config, load_config, merge, resolve_settings, untaken_keys
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.engines import EngineKey, build_engine, engine_key
from curation_assets.curation.incremental import Engine
from curation_assets.curation.progress import Listener, ProgressUpdate
from curation_assets.curation.warehouse import SourceRun, Warehouse
from curation_assets.defs.pools import sleep_while_pools_are_full
from curation_assets.defs.processes import mark_worker
from curation_assets.engine.local import return_freed_memory
from curation_assets.models import shared
from curation_assets.settings import Config, SettingsError

_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Pass the progress of runs in this process to a listener too: the command line's bar."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class CurationResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Settings of `curation.yaml`, with this run's overrides, and the worker processes that all steps of the run share."""

    config_path: str | None = None
    settings: dict[str, Any] = {}  # noqa: RUF012 - Dagster's config fields are declared so
    project: dict[str, Any] = {}  # noqa: RUF012 - settings of the whole project that the definitions were built with; only who builds these may set it
    limit: int | None = None
    retry_failed: bool = False

    _engines: dict[EngineKey, Engine] = PrivateAttr(default_factory=dict)
    _config: Config | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["CurationResource"]:
        """Give the resource to a run; worker processes and the model that it holds end with it."""
        return_freed_memory()
        sleep_while_pools_are_full()
        if context.run is not None and context.instance is not None:
            mark_worker(context.instance, context.run)
        try:
            yield self
        finally:
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()
            shared.release()

    def config(self) -> Config:
        """Read the settings file, once per run.

        Raises:
            SettingsError: the file is wrong, or the run's limit is.
        """
        if self.limit is not None and self.limit < 1:
            raise SettingsError(f"limit is {self.limit}; it must be at least 1, or left out")
        check_narrower_settings(self.settings, where="settings of this run")
        if self._config is None:
            self._config = load_config(find_config(self.config_path))
        return self._config

    def _overrides(self) -> dict[str, Any]:
        return merge(self.project, self.settings)

    def corpus_run(self, context: dg.AssetExecutionContext) -> CorpusRun:
        """Prepare all sources for the tables that are made as a whole.

        Raises:
            SettingsError: a wrong override.
        """
        self.config()
        return CorpusRun(
            load_config(find_config(self.config_path), self._overrides()),
            overrides=self._overrides(),
            run_id=context.run_id,
            log=context.log.info,
        )

    def source_run(self, name: str, context: dg.OpExecutionContext | dg.AssetExecutionContext) -> SourceRun:
        """Prepare one source: its record, its settings with all overrides, its tables.

        Raises:
            SettingsError: no such source, or a wrong override.
        """
        config = self.config()
        warehouse = Warehouse.of(config)
        record = warehouse.registry.get(name)
        settings = resolve_settings(config.processing(), record.settings, self._overrides(), where=f"settings of source {name!r}")
        for untaken in sorted(untaken_keys(self.settings, settings.clips.splitter)):
            context.log.warning(f"source {name!r} has the splitter {settings.clips.splitter.method}, which does not take {untaken}")
        key = engine_key(settings.engine, record, warehouse)
        if key not in self._engines:
            self._engines[key] = build_engine(settings.engine, record, warehouse)

        def tell(update: ProgressUpdate) -> None:
            context.log.info(str(update))
            for listener in _listeners:
                listener(update)

        return SourceRun(
            record,
            settings,
            warehouse,
            self._engines[key],
            run_id=context.run_id,
            limit=self.limit,
            retry_failed=self.retry_failed,
            listener=tell,
            log=context.log.info,
        )
