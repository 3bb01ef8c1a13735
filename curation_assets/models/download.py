"""Download: fetch a model's files from the Hugging Face Hub at their pinned commits, and check what came.

The library does the fetching: it goes on after a cut connection, keeps whole files of an interrupted download, and puts a file in place only when it is
complete. The token comes from the environment alone (HF_TOKEN), the address too (HF_ENDPOINT).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from curation_assets.models.weights import (
    Problem,
    WeightsError,
    WeightsSpec,
    as_specs,
    describe_problems,
    find_problems,
    hub_cache,
    listed,
    repo_folder,
    snapshot_folder,
)


def download_weights(
    weights: WeightsSpec | Sequence[WeightsSpec],
    *,
    model: str,
    cache_dir: str | Path | None = None,
    is_offline: bool = False,
    shows_progress: bool = False,
) -> list[Path]:
    """Bring a model's files into the cache; those that are there and as published are not fetched again.

    Args:
        weights: the repositories.
        model: registry name, for messages.
        cache_dir: the Hugging Face cache, None for its default.
        is_offline: fetch nothing; then everything must be there.
        shows_progress: show the library's progress bars on stderr.

    Returns:
        The snapshot folders, in the order of the repositories.

    Raises:
        WeightsError: offline, no access, no connection, no such repository, no room on the disk, a cache that is no folder, files that
            cannot be replaced, or other content than what is pinned; says what to do.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise WeightsError("huggingface_hub is not installed here: pip install 'curation_assets[models]'")
    specs = as_specs(weights)
    if (place := hub_cache(cache_dir)).exists() and not place.is_dir():
        raise WeightsError(f"{model}: the cache {place} is a file, not a folder; name another with models.cache_dir")
    wrong = [(spec, problems) for spec in specs if (problems := find_problems(spec, cache_dir))]
    if wrong and is_offline:
        said = describe_problems(wrong, model=model, cache_dir=cache_dir)
        raise WeightsError(f"{said}; models.offline is true: set it to false, or copy the cache from a machine that has them")
    for spec, problems in wrong:
        _remove(spec, problems, model, cache_dir)
        _fetch(spec, model, cache_dir, shows_progress=shows_progress)
        left = find_problems(spec, cache_dir)
        if left:
            _remove(spec, left, model, cache_dir)  # so that the next attempt fetches them anew
            raise WeightsError(
                f"{model}: what came from {_endpoint()} is not what {spec.repo} published at {spec.revision[:8]}: {listed(left)}; "
                f"it was not kept. Try again: curation-assets models download {model}; if it stays so, something on the way changes the files"
            )
    return [snapshot_folder(spec, cache_dir) for spec in specs]


def _remove(spec: WeightsSpec, problems: Sequence[Problem], model: str, cache_dir: str | Path | None) -> None:
    """Delete bad files and their content, else the library would take them for what they should be.

    Raises:
        WeightsError: one cannot be deleted: it is a folder, the cache is a file, or there is no right to it.
    """
    for problem in problems:
        path = snapshot_folder(spec, cache_dir) / problem.name
        try:
            if path.is_symlink() and path.resolve().parent == (repo_folder(spec, cache_dir) / "blobs").resolve():
                path.resolve().unlink(missing_ok=True)  # content of the cache's own, nothing elsewhere
            path.unlink(missing_ok=True)
        except OSError as error:
            why = "is a folder" if path.is_dir() else f"cannot be replaced ({error.strerror or error})"
            raise WeightsError(f"{model}: {path} {why}; remove it, then: curation-assets models download {model}") from error


def _fetch(spec: WeightsSpec, model: str, cache_dir: str | Path | None, *, shows_progress: bool) -> None:
    import httpx2
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not shows_progress:
        disable_progress_bars()
    try:
        snapshot_download(
            spec.repo,
            revision=spec.revision,
            cache_dir=cache_dir,
            allow_patterns=[file.name for file in spec.files],
            token=os.environ.get("HF_TOKEN") or False,  # False: never one that a login left on the disk
            endpoint=_endpoint(),
            library_name="curation_assets",
        )
    except (httpx2.HTTPError, errors.XetDownloadError, OSError) as error:  # the library's own errors are among them
        raise WeightsError(_explain(error, spec, model)) from error


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _explain(error: BaseException, spec: WeightsSpec, model: str) -> str:
    """Say what went wrong, from the innermost HTTP status, and what to do."""
    from huggingface_hub import errors

    again = f"then: curation-assets models download {model}"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, errors.HfHubHTTPError):
        cause = cause.__cause__
    status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"{model}: {spec.repo} at {_endpoint()} has no commit {spec.revision}; the repository was rewritten, or HF_ENDPOINT is not a full mirror"
    if isinstance(cause, errors.GatedRepoError) or status in (401, 403):
        token = "HF_TOKEN is not set" if not os.environ.get("HF_TOKEN") else "the account of HF_TOKEN has no access"
        return f"{model}: {spec.repo} refuses the download ({status}), {token}; accept its terms at {spec.url}, set HF_TOKEN to a token of that account, {again}"
    if status == 404:
        return f"{model}: there is no repository {spec.repo}, or no such file in it, at {_endpoint()}"
    if isinstance(error, errors.OfflineModeIsEnabled) or isinstance(error.__cause__, errors.OfflineModeIsEnabled):
        return f"{model}: HF_HUB_OFFLINE forbids the download; unset it, {again}"
    reason = str(error.__cause__ or error).strip().partition("\n")[0]
    return f"{model}: downloading {spec.repo} from {_endpoint()} failed: {reason}; whole files are kept. Mend the connection or the disk, {again}"
