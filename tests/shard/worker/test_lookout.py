"""Code that holds up the loop is named while it runs, interrupted wherever the interpreter lets it, and its object reset; nothing
else of the process notices."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from inspect import CO_COROUTINE
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from tests.support.host_world import World
from tidegate import AlarmInfo
from tidegate.runtime.child.witness import Witness, take_testimony
from tidegate.runtime.errors import MethodRaised, ObjectReset, StartFailed
from tidegate.runtime.logs.line import Speaker
from tidegate.runtime.wire.supervisor_messages import HeldUp, Running
from tidegate.shard.loop.cpython import this_frame
from tidegate.shard.loop.loop import new_worker_loop
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.worker import occupant as occupants
from tidegate.shard.worker.lookout import Lookout
from tidegate.shard.worker.occupant import frames_of_thread, frames_out_to, occupant
from tidegate.shard.worker.patience import Patience
from tidegate.shard.worker.watch import exit_at_once, name_exits

LIMIT_S = 0.6
SLOW_STARTS: list[bool] = []


class Ends(BaseException):
    """In the place of the end of the process."""


class Misbehaves:
    def __call__(self) -> None:
        time.sleep(60)

    def __bool__(self) -> bool:
        raise ValueError

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class Busy(DurableObject):
    def __init__(self) -> None:
        if SLOW_STARTS:
            spin()

    async def hello(self) -> str:
        return "hello"

    async def get(self) -> Any:
        return await self.storage.get("k")

    async def spins(self) -> None:
        await self.storage.put("k", "lost")
        while True:
            pass

    async def sleeps(self) -> None:
        time.sleep(60)  # noqa: ASYNC251  # what it is about

    async def waits_for_a_lock(self) -> None:
        lock = threading.Lock()
        with lock:
            lock.acquire()

    async def spins_later(self) -> None:
        await asyncio.sleep(0.001)
        while True:
            pass

    async def spins_in_a_task(self) -> None:
        await self.spawn(self.spins_later())

    async def asks_storage_for_ever(self) -> None:
        while True:
            await self.storage.get("k")

    async def spins_in_a_transaction(self) -> None:
        async with self.storage.transaction():
            await self.storage.put("k", "lost")
            while True:
                pass

    async def blocks_in_a_callback(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(time.sleep, 60)
        await asyncio.sleep(60)

    async def blocks_in_a_callable_that_raises_when_it_is_asked(self) -> None:
        asyncio.get_running_loop().call_soon(Misbehaves())
        await asyncio.sleep(60)

    async def swallows(self) -> None:
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass

    async def wake(self) -> None:
        await self.storage.set_alarm(timedelta(0))

    async def alarm(self, info: AlarmInfo) -> None:
        await self.storage.put("k", "lost")
        while True:
            pass

    async def slow(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251

    async def slow_until_written(self, path: str) -> None:
        while written_by_now(Path(path)) is None:
            time.sleep(0.01)  # noqa: ASYNC251


def written_by_now(path: Path) -> Running | None:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    return take_testimony(copy)


def spin() -> None:
    while True:
        pass


def ends() -> NoReturn:
    raise Ends


def loop_frame() -> FrameType:
    """That which runs the loop on which this is asked."""
    frame: FrameType | None = this_frame(1)
    while frame is not None and frame.f_code.co_flags & CO_COROUTINE:
        frame = frame.f_back
    assert frame is not None
    return frame


class Watched:
    """A world whose loop a lookout looks at."""

    def __init__(self, base: FrameType, folder: Path, limit_s: float = LIMIT_S) -> None:
        self.world = World(Busy)
        self.lines: list[tuple[int, str, Speaker | None]] = []
        self.held_up: list[HeldUp] = []
        self.path = folder / "witness"
        self.ended = threading.Event()
        self.lookout = Lookout(
            Patience(limit_s),
            lambda *line: self.lines.append(line),
            Witness(self.path),
            self.held_up.append,
            self._end,
        )
        self.lookout.start(base)

    def _end(self) -> NoReturn:
        self.ended.set()
        raise SystemExit

    @property
    def text(self) -> str:
        return "\n".join(f"{speaker}: {text}" for _, text, speaker in self.lines)


@pytest.fixture(autouse=True)
def no_slow_starts() -> Iterator[None]:
    SLOW_STARTS.clear()
    yield
    SLOW_STARTS.clear()


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("spins", "spins"),
        ("sleeps", "sleeps"),
        ("waits_for_a_lock", "waits_for_a_lock"),
        ("spins_later", "spins_later"),
        ("spins_in_a_task", "spins_later"),
        ("asks_storage_for_ever", "asks_storage_for_ever"),
        ("spins_in_a_transaction", "spins_in_a_transaction"),
        ("blocks_in_a_callback", "sleep"),
        ("blocks_in_a_callable_that_raises_when_it_is_asked", "code without a name"),
    ],
)
async def test_code_that_holds_up_the_loop_is_named_with_its_stack_interrupted_and_its_object_reset(
    tmp_path: Path, method: str, code: str
) -> None:
    watched = Watched(loop_frame(), tmp_path)
    world = watched.world
    other = world.call(Busy, "b", "hello")
    call = world.call(Busy, "a", method)
    began_s = time.monotonic()
    with pytest.raises(ObjectReset, match=rf"Busy/a was reset: its code held up the worker for .* s in {code} \("):
        await call.reply
    assert time.monotonic() - began_s < 4 * LIMIT_S
    assert await other.reply == "hello"
    assert await world.ask(Busy, "a", "get") is None, "what was written and not durable is gone"
    while written_by_now(watched.path) is not None:
        await asyncio.sleep(0.01)
    watched.lookout.close()
    assert f"Busy/a {code}: held up its worker for" in watched.text
    assert "test_lookout.py" in watched.text or code == "sleep"
    assert {each.running for each in watched.held_up} == {Running("Busy", "a", code)}
    assert not watched.ended.is_set()


async def test_an_alarm_that_holds_up_the_loop_is_interrupted_and_its_object_reset(tmp_path: Path) -> None:
    """It was not, and went on until the supervisor took the worker for one that hangs, half a minute later."""
    watched = Watched(loop_frame(), tmp_path)
    world = watched.world
    world.host.alarms.start()
    await world.ask(Busy, "a", "wake")
    while not watched.held_up:
        await asyncio.sleep(0.01)
    assert await world.ask(Busy, "a", "get") is None, "what was written and not durable is gone"
    watched.lookout.close()
    world.host.alarms.stop()
    assert "Busy/a alarm: held up its worker for" in watched.text
    assert "ring.py" not in watched.text
    assert watched.held_up[0].running == Running("Busy", "a", "alarm")
    assert not watched.ended.is_set()


async def test_a_start_that_holds_up_the_loop_is_interrupted_and_fails(tmp_path: Path) -> None:
    watched = Watched(loop_frame(), tmp_path)
    SLOW_STARTS.append(True)
    with pytest.raises(StartFailed, match="held up the worker"):
        await watched.world.ask(Busy, "a", "hello")
    SLOW_STARTS.clear()
    assert await watched.world.ask(Busy, "a", "hello") == "hello"
    watched.lookout.close()


async def test_a_slow_step_is_named_once_it_is_over_and_those_of_its_kind_are_counted(tmp_path: Path) -> None:
    watched = Watched(loop_frame(), tmp_path, limit_s=math.inf)
    for name in "abc":
        await watched.world.ask(Busy, name, "slow", 0.35)
        await asyncio.sleep(0.25)
    watched.lookout.close()
    [(level, line, speaker)] = watched.lines
    assert speaker == Speaker("Busy/a", "slow")
    assert level == logging.WARNING
    assert line.startswith("held up its worker for 0.")
    assert watched.lookout._told["Busy", "slow"][1] == 2


async def test_a_fault_of_the_lookouts_own_is_told_once_and_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[bool] = []

    def fails(*_: Any) -> Any:
        faults.append(True)
        raise RuntimeError("a fault of ours")

    watched = Watched(loop_frame(), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("tidegate.shard.worker.lookout.occupant", fails)
        while len(faults) < 3:
            await asyncio.sleep(0.01)
    with pytest.raises(ObjectReset, match="held up the worker"):
        await watched.world.ask(Busy, "a", "spins")
    watched.lookout.close()
    told = [text for _, text, _ in watched.lines if "a fault of ours" in text]
    assert len(told) == 1
    assert told[0].startswith("nobody could look whether the event loop is held up\nTraceback")


async def test_who_holds_up_the_loop_is_written_down_while_it_does(tmp_path: Path) -> None:
    watched = Watched(loop_frame(), tmp_path, limit_s=math.inf)
    await watched.world.ask(Busy, "a", "slow_until_written", str(watched.path))
    assert written_by_now(watched.path) == Running("Busy", "a", "slow_until_written")
    while written_by_now(watched.path) is not None:
        await asyncio.sleep(0.01)
    watched.lookout.close()


def test_an_object_that_ends_its_process_is_written_down_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.worker.watch.exit_at_once", lambda status: ends())
    monkeypatch.setattr("os._exit", exit_at_once)
    path = tmp_path / "witness"
    name_exits(Witness(path))

    class Quits(DurableObject):
        async def quit(self) -> None:
            import os

            os._exit(3)

    async def call() -> None:
        world = World(Quits)
        with pytest.raises(MethodRaised):
            await world.ask(Quits, "q", "quit")

    loop = new_worker_loop()
    loop.run_until_complete(call())
    loop.close()
    assert take_testimony(path) == Running("Quits", "q", "quit")


async def test_the_loop_between_two_steps_and_code_of_no_object_have_no_owner(tmp_path: Path) -> None:
    base = loop_frame()
    assert frames_out_to(base, base) == []
    assert occupant([]) is None
    frames = frames_out_to(base, this_frame())
    assert frames is not None
    found = occupant(frames)
    assert found is not None
    assert found.owner is None
    assert not found.interruptible


def test_a_stack_is_looked_at_again_where_a_coroutine_in_it_has_ended_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frame leads nowhere then: the line of the app was missing in the log, and the step was taken for another one."""

    def coroutine() -> Iterator[FrameType]:
        yield this_frame()

    base, now = this_frame(1), this_frame()
    over = next(coroutine())
    samples = [over] * 3 + [now]
    monkeypatch.setattr(occupants, "frame_of_thread", lambda _: samples.pop(0))
    assert frames_of_thread(threading.get_ident(), base) == [now]
    samples = [over] * 100
    assert frames_of_thread(threading.get_ident(), base) is None
