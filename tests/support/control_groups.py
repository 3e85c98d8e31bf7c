"""Real control groups with limits, of version 1 or 2, into which a command is put."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

ROOT = Path("/sys/fs/cgroup")
MEMORY_BYTES = 1 << 30
CORES = 1


@contextlib.contextmanager
def limited_group() -> Iterator[list[str]]:
    """What goes before a command so that it, and what it starts, has one core and 1 GiB. Skips the test where nobody may make
    such a group."""
    name = f"tidegate-{uuid.uuid4().hex}"
    if (ROOT / "cgroup.controllers").exists():
        limits = {ROOT / name: {"cpu.max": "100000 100000", "memory.max": str(MEMORY_BYTES)}}
    else:
        cpu, memory = {"cpu.cfs_quota_us": "100000"}, {"memory.limit_in_bytes": str(MEMORY_BYTES)}
        limits = {ROOT / "cpu" / name: cpu, ROOT / "memory" / name: memory}
    try:
        try:
            for group, values in limits.items():
                group.mkdir()
                for file, value in values.items():
                    (group / file).write_text(value)
        except OSError as error:
            pytest.skip(f"this machine lets nobody limit a control group: {error}")
        enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in limits)
        yield ["sh", "-euc", f'{enter} exec "$@"', "sh"]
    finally:
        for group in limits:
            wait_until(partial(_is_removed, group), f"that nobody is in {group}")


def _is_removed(group: Path) -> bool:
    with contextlib.suppress(OSError):
        os.rmdir(group)
    return not group.exists()
