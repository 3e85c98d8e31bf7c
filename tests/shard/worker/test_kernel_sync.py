"""The kernel syncs a file, and says when it is done: to whoever waits for a moment, or on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tidegate.shard.worker.kernel_sync import KernelSync, SyncRefused


@pytest.fixture
def fd(tmp_path: Path) -> int:
    return os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)


async def test_a_sync_that_is_waited_for_is_told_there_and_not_on_the_loop(fd: int) -> None:
    told: list[str] = []
    kernel = KernelSync(asyncio.get_running_loop(), lambda: told.append("done"))
    for number in range(100):
        os.pwrite(fd, b"x" * 10_000, number * 10_000)
        assert kernel.begin(fd, 10_000)
        assert kernel.problem() is None
    await asyncio.sleep(0.01)
    assert told == []
    kernel.close()


async def test_a_sync_that_takes_longer_is_told_on_the_loop_once(fd: int) -> None:
    told = asyncio.Event()
    kernel = KernelSync(asyncio.get_running_loop(), told.set)
    seen = 0
    for number in range(100):
        os.pwrite(fd, b"x" * 1_000_000, number * 1_000_000)
        if not kernel.begin(fd, 0):
            await asyncio.wait_for(told.wait(), 20)
            told.clear()
            seen += 1
        assert kernel.problem() is None
    await asyncio.sleep(0.01)
    assert not told.is_set()
    assert seen > 0
    kernel.close()


async def test_what_cannot_be_synced_is_refused_and_the_next_one_is_not(fd: int) -> None:
    kernel = KernelSync(asyncio.get_running_loop(), lambda: None)
    reading, writing = os.pipe()
    with pytest.raises(SyncRefused):
        kernel.begin(writing, 1)
    os.close(writing)
    os.close(reading)
    assert kernel.begin(fd, 10_000)
    assert kernel.problem() is None
    kernel.close()


@pytest.mark.root
async def test_where_the_kernel_or_the_machine_has_no_such_orders_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "caio.linux_aio", None)  # As if that had raised ImportError, which it does then.
    with pytest.raises(SyncRefused):
        KernelSync(asyncio.get_running_loop(), lambda: None)


async def test_programs_that_the_worker_starts_inherit_nothing_of_it() -> None:
    kernel = KernelSync(asyncio.get_running_loop(), lambda: None)
    assert not os.get_inheritable(kernel._context.fileno)
    kernel.close()


async def test_a_sync_that_fails_says_why(tmp_path: Path) -> None:
    """On a file system that believes to have more room than there is."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a loop device")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    under, upon = tmp_path / "under", tmp_path / "upon"
    with contextlib.ExitStack() as stack:

        def mount(what: Sequence[str | Path], where: Path) -> None:
            where.mkdir()
            subprocess.run(["mount", *what, where], check=True)
            stack.callback(lambda: subprocess.run(["umount", where], check=True))

        mount(["-t", "tmpfs", "-o", "size=16m", "none"], under)
        subprocess.run(["truncate", "-s", "100m", under / "image"], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", under / "image"], check=True)
        mount(["-o", "loop", under / "image"], upon)
        kernel = KernelSync(asyncio.get_running_loop(), lambda: None)
        file = os.open(upon / "file", os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, file)
        problem = None
        for number in range(40):
            os.pwrite(file, os.urandom(1 << 20), number << 20)
            assert kernel.begin(file, 20_000)
            if (problem := kernel.problem()) is not None:
                break
        kernel.close()
    assert str(problem) in ("No space left on device", "Input/output error")
