"""Reads which cores and how much memory this process may use: its affinity and the cgroup's limits (never `cpu_count`, which
knows neither)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tidegate.runtime.supervisor.rules.placement import Cores

_CGROUP = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")


def read_cores() -> Cores:
    return Cores(cpus=tuple(sorted(os.sched_getaffinity(0))), quota=read_quota(_CGROUP, _MEMBERSHIP))


def read_memory_bytes() -> int:
    return memory_bytes(_CGROUP, _MEMBERSHIP, _MEMINFO)


def memory_bytes(root: Path, membership: Path, meminfo: Path) -> int:
    """What the machine has, or the smallest limit on the way from our cgroup up to the root."""
    bounds: list[float] = [int(line.split()[1]) << 10 for line in _read(meminfo).splitlines() if line.startswith("MemTotal:")]
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bounds += _on_the_way(root, path, lambda group: _bytes(group / "memory.max"))
        elif "memory" in controllers.split(","):
            bounds += _on_the_way(root / "memory", path, lambda group: _bytes(group / "memory.limit_in_bytes"))
    return int(min(bounds, default=0))


def _bytes(path: Path) -> float | None:
    """`max` means none."""
    text = _read(path)
    return int(text) if text.isdecimal() else None


def read_quota(root: Path, membership: Path) -> float | None:
    """The smallest quota on the way from our cgroup up to the root, in cores; v2 first, then v1. Unreadable counts as none."""
    quotas: list[float] = []
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            quotas += _on_the_way(root, path, _quota_v2)
        elif "cpu" in controllers.split(","):
            quotas += _on_the_way(root / "cpu", path, _quota_v1) + _on_the_way(root / "cpu,cpuacct", path, _quota_v1)
    return min(quotas, default=None)


def _on_the_way(root: Path, path: str, quota: Callable[[Path], float | None]) -> list[float]:
    # Inside a container the path may be the host's and not exist here; the container's own limits then are at the root.
    group = root / path.strip("/")
    groups = [group, *(parent for parent in group.parents if parent.is_relative_to(root))]
    return [found for group in groups if (found := quota(group)) is not None]


def _quota_v2(group: Path) -> float | None:
    """`cpu.max` holds `max 100000` or `150000 100000`."""
    words = _read(group / "cpu.max").split()
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def _quota_v1(group: Path) -> float | None:
    """-1 means none."""
    return _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
