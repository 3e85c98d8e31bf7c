"""Results that are kept: what was measured, by which commit, on which machine. One JSON object a line."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import zmq

from tidegate.benchmarks.figures.compare import Ratio, Summary
from tidegate.benchmarks.plan import Measurement
from tidegate.benchmarks.processes import REPOSITORY
from tidegate.benchmarks.syncs import SyncCount

IS_TREE = (REPOSITORY / "pyproject.toml").is_file()
RESULTS = REPOSITORY / "benchmarks" / "results" if IS_TREE else Path("benchmark-results")
_SYNCS = 200
_SYNC_BYTES = 4096


class Result(msgspec.Struct, frozen=True):
    command: str
    at: str
    """UTC."""
    commit: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    summaries: list[Summary]
    ratios: list[Ratio]
    measurements: list[Measurement]
    syncs: list[SyncCount] = []
    skipped: dict[str, str] = {}
    """Why a peer was not measured."""


def now_utc() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> str:
    """The commit that was measured, with `+` if files differ from it; of what is installed, the version."""
    if not IS_TREE:
        return importlib.metadata.version("tidegate")
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        return f"{name}+" if _git("status", "--porcelain") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def read_all(folder: Path = RESULTS) -> list[Result]:
    """Everything that was kept, in the order in which it was measured."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()]
    return sorted((msgspec.json.decode(line, type=Result) for line in lines), key=lambda result: result.at)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def machine_facts(folder: Path) -> dict[str, Any]:
    """What a reader must know to judge the figures; `folder` is where the data lie."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        **{name: importlib.metadata.version(name) for name in ("pyzmq", "msgspec", "uvloop", "lmdb")},
        "filesystem": _filesystem(folder),
        "fdatasync_ms_p50": fdatasync_ms(folder),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _filesystem(folder: Path) -> str:
    """A tmpfs would make every figure a lie."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    resolved = str(folder.resolve())
    holding = [(point, kind) for point, kind in mounts if resolved == point or resolved.startswith(point.rstrip("/") + "/")]
    return max(holding, key=lambda mount: len(mount[0]))[1] if holding else "unknown"


def fdatasync_ms(folder: Path) -> float:
    """Median time of writing 4 KiB over bytes written before and making them durable: what one commit costs at least."""
    path = folder / "fdatasync"
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.write(file, bytes(_SYNCS * _SYNC_BYTES))
        os.fsync(file)
        spent = []
        for number in range(_SYNCS):
            started = time.perf_counter()
            os.pwrite(file, b"x" * _SYNC_BYTES, number * _SYNC_BYTES)
            os.fdatasync(file)
            spent.append(time.perf_counter() - started)
    finally:
        os.close(file)
        path.unlink()
    return round(statistics.median(spent) * 1e3, 3)


def append(result: Result, folder: Path = RESULTS) -> Path:
    """Adds a line to the file of the command. Returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.command}.jsonl"
    with path.open("ab") as file:
        file.write(msgspec.json.encode(result) + b"\n")
    return path
