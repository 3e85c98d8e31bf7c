"""shard/objects/offload.py: whoever offloads is answered, also where the system has no process for it. (What goes right, over a
service: `tests/service/test_offload.py`.)"""

from __future__ import annotations

import asyncio
import errno
import operator
import os
import sys
import threading
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NoReturn

import pytest

from tidegate.runtime.errors import Overloaded
from tidegate.shard.objects.offload import Offload
from tidegate.testing.offload import OffloadHere


async def test_whoever_offloads_is_told_when_no_process_can_be_started_and_the_next_one_gets_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its future was never settled, and a seat was lost each time."""

    def no_fork() -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    offload = Offload(asyncio.get_running_loop(), 1, 60.0)
    try:
        async with asyncio.timeout(20):
            with monkeypatch.context() as patch:
                patch.setattr(os, "fork", no_fork)
                calls = [asyncio.create_task(offload.run(operator.add, (1, each), {})) for each in range(3)]
                for call in calls:
                    with pytest.raises(Overloaded, match=r"add has not begun.*temporarily unavailable"):
                        await call
            assert await asyncio.gather(*(offload.run(operator.add, (1, each), {}) for each in range(3))) == [1, 2, 3]
    finally:
        offload.close()


class Two(Exception):
    """Made of other arguments than those it hands on: pickle cannot put it together again."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} {why}")


class Locked(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class OneWay:
    """It goes into bytes and never comes out of them."""

    def __reduce__(self) -> Any:
        return operator.truediv, (1, 0)


def first_of_none() -> int:
    return next(iter(()))


def ends() -> None:
    sys.exit("done")


def is_interrupted() -> None:
    raise KeyboardInterrupt


def is_cancelled() -> None:
    raise asyncio.CancelledError


def raises(kind: type[Exception], *args: str) -> None:
    raise kind(*args)


def breaks_a_pool_of_its_own() -> None:
    raise BrokenProcessPool("mine")


def one_way(inside: bool) -> OneWay | None:
    return OneWay() if inside else None


def a_lock() -> Any:
    return threading.Lock()


TOLD: list[tuple[Any, tuple[Any, ...], type[Exception], str]] = [
    (first_of_none, (), RuntimeError, "StopIteration"),
    (ends, (), RuntimeError, "SystemExit: done"),
    (is_interrupted, (), RuntimeError, "KeyboardInterrupt"),
    (is_cancelled, (), RuntimeError, "CancelledError"),
    (breaks_a_pool_of_its_own, (), BrokenProcessPool, "mine"),
    (raises, (Two, "no", "way"), RuntimeError, "raises has raised Two: no way, an exception that cannot come back"),
    (raises, (Locked, "shut"), RuntimeError, "raises has raised Locked: shut, an exception that cannot come back"),
    (raises, (KeyError, "k"), KeyError, "'k'"),
    (a_lock, (), RuntimeError, "a_lock has returned a value that cannot come back from another process: TypeError"),
    (one_way, (True,), RuntimeError, "one_way has returned a value that cannot come back.*ZeroDivisionError"),
    (print, (OneWay(),), TypeError, "print or its arguments cannot be sent to another process: division by zero"),
]


@pytest.mark.parametrize("kind", [Offload, OffloadHere], ids=["in a service", "in a test"])
async def test_whatever_comes_of_a_function_is_told_as_what_it_is(kind: type[Offload]) -> None:
    """A StopIteration left its caller without an answer, and a seat was lost; an exception or a result that cannot be put
    together again was told as the end of the process, which ended the next one's too."""
    offload = kind(asyncio.get_running_loop(), 1, 60.0)
    try:
        async with asyncio.timeout(60):
            for function, args, error, text in TOLD:
                with pytest.raises(error, match=text) as raised:
                    await offload.run(function, args, {})
                assert type(raised.value) is error, function
            assert await offload.run(operator.add, (1, 2), {}) == 3  # The one process is free for the next.
    finally:
        offload.close()


async def test_the_traceback_of_another_process_is_the_cause_of_what_it_raised() -> None:
    offload = Offload(asyncio.get_running_loop(), 1, 60.0)
    try:
        for kind, args in ((KeyError, ("k",)), (Two, ("no", "way"))):
            with pytest.raises((KeyError, RuntimeError)) as raised:
                await offload.run(raises, (kind, *args), {})
            assert "raise kind(*args)" in str(raised.value.__cause__)
    finally:
        offload.close()
