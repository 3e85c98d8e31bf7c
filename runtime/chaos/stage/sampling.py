"""What the processes of the service take, of all hosts together, and its data on the disk, sampled as time goes on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tidegate.runtime.chaos.stage.service import ChaosService
from tidegate.runtime.chaos.verdict.flatness import Trend, trend

ROLES = {"supervisor": "supervisor", "router": "routers", "shard": "workers"}
_UNITS = {"memory": ("MiB", 16.0), "descriptors": ("", 8.0), "threads": ("", 4.0), "log": ("MiB", 64.0), "LMDB": ("MiB", 16.0)}
"""By figure: its unit, and which rise counts for nothing."""


class Sampler:
    def __init__(self, services: Sequence[ChaosService], every_s: float) -> None:
        self.every_s = every_s
        self.samples: list[dict[str, float]] = []
        """Each with `at_s`, seconds since the first, and a figure for each role. Memory is what belongs to the processes: pages
        of files, LMDB's above all, are the kernel's, which takes them back when it needs them."""
        self._services = services
        self._began_at = time.monotonic()
        self._next_at = self._began_at

    def sample_if_due(self) -> bool:
        now = time.monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + self.every_s
        sample = {"at_s": round(now - self._began_at, 1)}
        for role, name in ROLES.items():
            for figure in ("memory", "descriptors", "threads"):
                sample[f"{figure} of {name}"] = 0.0
            for pid in (pid for service in self._services for pid in service.pids_of(role)):
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    taken = process.memory_info()
                    sample[f"memory of {name}"] += round((taken.rss - taken.shared) / (1 << 20), 1)
                    sample[f"descriptors of {name}"] += process.num_fds()
                    sample[f"threads of {name}"] += process.num_threads()
        sample["log"] = sum(_size_mib(service.data / "log") for service in self._services)
        sample["LMDB"] = sum(_size_mib(service.data / "shards") for service in self._services)
        self.samples.append(sample)
        return True

    def trends(self) -> list[Trend]:
        """Of every figure, once there are enough samples."""
        found = []
        for what in self.samples[0] if self.samples else ():
            if what == "at_s":
                continue
            unit, floor = _UNITS[what.split(" ")[0]]
            line = trend(what, unit, [(sample["at_s"], sample[what]) for sample in self.samples], floor)
            if line is not None:
                found.append(line)
        return found


def _size_mib(folder: Path) -> float:
    """What it takes on the disk: blocks, not lengths. Files may come and go meanwhile."""
    blocks = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                blocks += os.stat(os.path.join(inner, name)).st_blocks
    return round(blocks * 512 / (1 << 20), 1)
