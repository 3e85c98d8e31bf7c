"""Work is handed to another thread and back: once each, in order, and the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import cast

import pytest

from tidegate.shard.worker.handover import Delegation, Handover


async def test_work_runs_in_the_helper_and_its_end_is_told_on_the_loop_once_for_each_piece() -> None:
    seen: list[tuple[str, bool]] = []
    here = threading.get_ident()
    told = asyncio.Event()

    def done() -> None:
        seen.append(("done", threading.get_ident() == here))
        told.set()

    helper = Handover(asyncio.get_running_loop(), "t", lambda: seen.append(("work", threading.get_ident() == here)), done)
    for _ in range(100):
        helper.give()
        await told.wait()
        told.clear()
    helper.close()
    assert seen == [("work", False), ("done", True)] * 100


async def test_the_loop_goes_on_while_the_helper_is_blocked() -> None:
    gate, told = threading.Event(), asyncio.Event()
    helper = Handover(asyncio.get_running_loop(), "t", lambda: cast("None", gate.wait(10)), told.set)
    helper.give()
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert not told.is_set()
    gate.set()
    await told.wait()
    helper.close()


async def test_a_closed_helper_leaves_neither_thread_nor_descriptor() -> None:
    helper = Handover(asyncio.get_running_loop(), "left over", lambda: None, lambda: None)
    helper.close()
    assert "left over" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(helper._bell._fd)


async def test_a_delegation_is_told_on_the_loop_whoever_has_done_it() -> None:
    seen: list[bool] = []
    here = threading.get_ident()
    told = asyncio.Event()
    by_another: list[Callable[[], None]] = []

    def done() -> None:
        seen.append(threading.get_ident() == here)
        told.set()

    delegation = Delegation(asyncio.get_running_loop(), by_another.append, done)
    for _ in range(10):
        delegation.give()
        threading.Thread(target=by_another.pop()).start()
        await told.wait()
        told.clear()
    delegation.give()
    by_another.pop()()  # On the loop itself, before `give` has returned or not.
    assert seen == [True] * 10, "not within the call"
    await told.wait()
    delegation.close()
    assert seen == [True] * 11
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(delegation._bell._fd)
