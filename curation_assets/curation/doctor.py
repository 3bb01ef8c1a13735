"""Doctor: what this machine has, and whether the warehouse can be written."""

from __future__ import annotations

import ctypes.util
import platform
import shutil
import sys
import tempfile
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from curation_assets.curation.splitters import missing_packages
from curation_assets.curation.warehouse import Warehouse
from curation_assets.engine.local import cpu_count
from curation_assets.media import nvdec
from curation_assets.settings import Config
from curation_assets.storage.errors import StoreError

_LEAST_FREE_BYTES = 5_000_000_000
_LEAST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    level: Literal["ok", "note", "bad"]
    seen: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def examine(config: Config) -> list[Finding]:
    """Look at Python, FFmpeg, the GPU, the packages of the splitters, the disk and the warehouse."""
    return [_python(), _ffmpeg(), _ffmpeg_program(), _gpu(), *_splitters(config), *_disks(config), _warehouse(config)]


def _python() -> Finding:
    level: Literal["ok", "bad"] = "ok" if sys.version_info[:2] >= _LEAST_PYTHON else "bad"
    return Finding("Python", level, f"{platform.python_version()} on {platform.system()} {platform.machine()}, {cpu_count()} CPUs")


def _ffmpeg() -> Finding:
    import av

    from curation_assets.media.encoders import ENCODERS, EncoderSpec, missing_encoder

    have = [name for name in ENCODERS if missing_encoder(EncoderSpec(name)) is None]
    missing = [name for name in ENCODERS if name not in have]
    text = f"FFmpeg {av.ffmpeg_version_info} in PyAV {av.__version__}, encoders that work {', '.join(have) or 'none'}"
    return Finding("FFmpeg", "ok" if "libx264" in have else "bad", text + (f"; without {', '.join(missing)}" if missing else ""))


def _ffmpeg_program() -> Finding:
    path = shutil.which("ffmpeg")
    return Finding("ffmpeg program", "ok" if path else "note", path or "none on the PATH; only the encoder libopenh264 needs it")


def _gpu() -> Finding:
    if ctypes.util.find_library("cuda") is None:
        return Finding("CUDA", "note", "no NVIDIA driver; everything runs on the CPU")
    driver = ctypes.CDLL("libcuda.so.1")
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return Finding("CUDA", "note", "the NVIDIA driver is there, but it finds no GPU")
    return Finding("CUDA", "ok", f"{count.value} GPU{'s' if count.value > 1 else ''}")


def _splitters(config: Config) -> list[Finding]:
    findings = []
    for method in ("transnetv2", "content"):
        missing = missing_packages(method)
        is_wanted = config.clips.splitter.method == method
        seen = f"pip install 'curation_assets[shots]' brings {', '.join(missing)}" if missing else "installed"
        findings.append(Finding(f"splitter {method}", ("bad" if is_wanted else "note") if missing else "ok", seen))
    reason = nvdec.why_missing()
    return [*findings, Finding("decoder nvdec", "note" if reason else "ok", f"{reason}; the CPU decodes" if reason else "there")]


def _disks(config: Config) -> list[Finding]:
    places = {"temporary files": Path(config.engine.cache_dir or tempfile.gettempdir())}
    if "://" not in config.warehouse:
        places["warehouse disk"] = Path(config.warehouse)
    findings = []
    for what, path in places.items():
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        findings.append(Finding(what, "ok" if free >= _LEAST_FREE_BYTES else "note", f"{free / 1e9:.1f} GB free at {existing}"))
    return findings


def _warehouse(config: Config) -> Finding:
    key = f"doctor-{uuid.uuid4()}"
    try:
        store = Warehouse.of(config).store
        store.put(key, b"doctor", create_only=True)
        found = store.get(key)
        store.delete(key)
    except StoreError as error:
        return Finding("warehouse", "bad", str(error))
    return Finding("warehouse", "ok" if found == b"doctor" else "bad", f"{config.warehouse} can be written and read")
