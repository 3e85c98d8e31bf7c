"""Tasks of objects: what asyncio promises, every resumption through the gate, and nothing that leaks from call to call."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.host_world import World
from tests.support.task_scenarios import LONG_S, SCENARIOS, VAR, nap
from tidegate.runtime.errors import MethodRaised, ObjectReset
from tidegate.shard.loop.context import CURRENT
from tidegate.shard.loop.task import ObjectTask
from tidegate.shard.objects.object import DurableObject


async def outcome_of(function: Callable[[], Any]) -> str:
    try:
        return repr(await function())
    except Exception as exc:
        return f"raised {exc!r}"


class Runner(DurableObject):
    async def run(self, name: str) -> str:
        return await outcome_of(SCENARIOS[name])

    async def run_in_background(self, name: str) -> str:
        assert isinstance(asyncio.current_task(), ObjectTask)
        return await self.spawn(outcome_of(SCENARIOS[name]))

    async def run_in_section(self, name: str) -> str:
        async with self.block_concurrency():
            return await outcome_of(SCENARIOS[name])

    async def run_in_transaction(self, name: str) -> str:
        async with self.storage.transaction():
            return await outcome_of(SCENARIOS[name])


@pytest.mark.parametrize("where", ["run", "run_in_background", "run_in_section", "run_in_transaction"])
@pytest.mark.parametrize("name", SCENARIOS)
async def test_asyncio_code_in_an_object_sees_what_it_sees_in_an_ordinary_task(name: str, where: str) -> None:
    expected = await asyncio.create_task(outcome_of(SCENARIOS[name]))
    assert not expected.startswith("raised")
    assert await World(Runner).ask(Runner, "a", where, name) == expected


# Every resumption waits at the gate

LOG: list[Any] = []
THINGS: dict[str, Any] = {}


class Other(DurableObject):
    async def answer(self) -> str:
        await THINGS["future"]
        return "answer"


async def _sub_task(waiter: Waiter) -> None:
    await asyncio.create_task(_append("sub", THINGS["future"]))


async def _append(text: str, future: asyncio.Future[None]) -> None:
    await asyncio.shield(future)
    LOG.append(text)


async def _read(waiter: Waiter) -> None:
    reader, writer = await asyncio.open_connection(sock=THINGS["socket"])
    await reader.readexactly(1)
    writer.close()


WAITS: dict[str, Callable[[Waiter], Any]] = {
    "a future": lambda _: asyncio.shield(THINGS["future"]),
    "a timer": lambda _: asyncio.sleep(0.005),
    "a sub-task": _sub_task,
    "a gather": lambda _: asyncio.gather(_append("one", THINGS["future"]), _append("two", THINGS["future"])),
    "a thread": lambda _: asyncio.to_thread(lambda: THINGS["thread"].result(5)),
    "an event": lambda _: THINGS["event"].wait(),
    "a queue": lambda _: THINGS["queue"].get(),
    "a socket": _read,
    "another object": lambda waiter: waiter.stub(Other, "x").answer(),
    "a timeout": lambda _: asyncio.wait_for(asyncio.shield(THINGS["future"]), 5),
    "its own call": lambda waiter: waiter.stub(Waiter, waiter.id.name).wait_for_future(),
}


class Waiter(DurableObject):
    async def wait(self, kind: str) -> None:
        LOG.append("waits")
        await WAITS[kind](self)
        LOG.append("resumed")

    async def wait_in_background(self, kind: str) -> None:
        self.spawn(self.wait(kind))

    async def wait_for_future(self) -> None:
        await asyncio.shield(THINGS["future"])

    async def wait_and_say(self, number: int) -> None:
        await THINGS[f"f{number}"]
        LOG.append(number)

    async def say(self, text: str) -> None:
        LOG.append(text)

    async def hold(self) -> None:
        async with self.block_concurrency():
            LOG.append("in")
            await THINGS["control"]
            await nap(times=5)
            LOG.append("out")


@pytest.fixture
def things() -> dict[str, Any]:
    LOG.clear()
    THINGS.clear()
    return THINGS


def complete_everything(other_end: socket.socket) -> None:
    THINGS["future"].set_result(None)
    THINGS["thread"].set_result(None)
    THINGS["event"].set()
    THINGS["queue"].put_nowait(1)
    other_end.send(b"x")


@pytest.mark.parametrize("kind", WAITS)
@pytest.mark.parametrize("method", ["wait", "wait_in_background"])
async def test_whatever_a_task_waits_for_it_goes_on_only_when_the_gate_is_open(
    things: dict[str, Any], kind: str, method: str
) -> None:
    import concurrent.futures

    world = World(Waiter, Other)
    mine, other_end = socket.socketpair()
    loop = asyncio.get_running_loop()
    things.update(
        future=loop.create_future(), control=loop.create_future(), thread=concurrent.futures.Future(),
        event=asyncio.Event(), queue=asyncio.Queue(), socket=mine,
    )  # fmt: skip
    waiting = world.call(Waiter, "a", method, kind)
    await world.settle()
    holding = world.call(Waiter, "a", "hold")
    await world.settle()
    assert LOG == ["waits", "in"]
    complete_everything(other_end)
    await asyncio.sleep(0.03)  # Time for timers and threads to do what must not be seen.
    await world.settle()
    assert LOG == ["waits", "in"]
    things["control"].set_result(None)
    await holding.reply
    await waiting.reply
    while "resumed" not in LOG:
        await asyncio.sleep(0.001)
    assert LOG[:3] == ["waits", "in", "out"]
    assert LOG[-1] == "resumed"
    other_end.close()
    mine.close()
    await world.settle()


async def test_what_waited_at_the_gate_goes_on_in_the_order_in_which_it_happened(things: dict[str, Any]) -> None:
    world = World(Waiter)
    loop = asyncio.get_running_loop()
    order = [3, 0, 4, 1, 2]
    things.update({f"f{number}": loop.create_future() for number in order}, control=loop.create_future())
    calls = [world.call(Waiter, "a", "wait_and_say", number) for number in range(5)]
    await world.settle()
    calls.append(world.call(Waiter, "a", "hold"))
    await world.settle()
    for at, number in enumerate(order):
        things[f"f{number}"].set_result(None)
        await world.settle()
        calls.append(world.call(Waiter, "a", "say", f"call {at}"))
        await world.settle()
    things["control"].set_result(None)
    await world.ask_all(calls)
    assert LOG == ["in", "out", 3, "call 0", 0, "call 1", 4, "call 2", 1, "call 3", 2, "call 4"]


async def test_a_lock_of_a_storage_operation_keeps_every_resumption_out(things: dict[str, Any]) -> None:
    world = World(Waiter)
    things["f0"] = asyncio.get_running_loop().create_future()
    call = world.call(Waiter, "a", "wait_and_say", 0)
    await world.settle()
    activation = world.activation(Waiter, "a")
    activation.gate.lock(activation.gate.root)
    things["f0"].set_result(None)
    await world.settle()
    assert LOG == []
    activation.gate.unlock(activation.gate.root)
    activation.schedule_pump()
    await call.reply
    assert LOG == [0]


async def test_events_of_other_objects_are_not_held_up(things: dict[str, Any]) -> None:
    world = World(Waiter)
    things["control"] = asyncio.get_running_loop().create_future()
    holding = world.call(Waiter, "a", "hold")
    await world.ask(Waiter, "b", "say", "b")
    assert LOG == ["in", "b"]
    things["control"].set_result(None)
    await holding.reply


# Nothing leaks from one call to the next

KEPT: list[Any] = []


class Leaky(DurableObject):
    async def set_var(self, value: str, times: int = 0) -> None:
        VAR.set(value)
        await nap(times=times)
        assert VAR.get() == value

    async def get_var(self, times: int = 0) -> str:
        await nap(times=times)
        return VAR.get()

    async def name_task(self, name: str) -> None:
        current = asyncio.current_task()
        assert current is not None
        current.set_name(name)

    async def task_name(self) -> str:
        current = asyncio.current_task()
        assert current is not None
        return current.get_name()

    async def keep_task(self, times: int = 0) -> int:
        KEPT.append(asyncio.current_task())
        await nap(times=times)
        return 5

    async def keep_task_and_fail(self) -> None:
        KEPT.append(asyncio.current_task())
        raise ValueError("kept")

    async def await_kept(self) -> Any:
        return await asyncio.wait_for(asyncio.shield(KEPT[0]), 1)

    async def keep_weakly(self) -> int:
        KEPT.append(weakref.ref(asyncio.current_task()))
        return len(KEPT)

    async def when_done(self, text: str) -> None:
        current = asyncio.current_task()
        assert current is not None
        current.add_done_callback(lambda _: KEPT.append(text))

    async def cancel_myself(self) -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()

    async def cancelling(self) -> int:
        current = asyncio.current_task()
        assert current is not None
        await nap()
        return current.cancelling()

    async def owner(self) -> str:
        return str(CURRENT.get().id)


@pytest.fixture
def leaks() -> list[Any]:
    KEPT.clear()
    return KEPT


@pytest.mark.parametrize("times", [0, 1])
async def test_context_variables_set_by_a_call_are_not_seen_by_another(times: int) -> None:
    world = World(Leaky)
    calls = [world.call(Leaky, "a", "set_var", "x", times), world.call(Leaky, "a", "get_var", times)]
    await world.ask_all(calls)
    assert calls[1].result == "unset"
    assert await world.ask(Leaky, "a", "get_var", times) == "unset"
    assert VAR.get() == "unset"


async def test_the_name_given_to_a_task_is_not_seen_by_another_call() -> None:
    world = World(Leaky)
    await world.ask(Leaky, "a", "name_task", "secret")
    assert await world.ask(Leaky, "b", "task_name") != "secret"
    assert await world.ask(Leaky, "b", "task_name") != await world.ask(Leaky, "b", "task_name")


@pytest.mark.parametrize("times", [0, 1])
async def test_the_task_of_a_call_that_was_kept_is_done_when_the_call_is(leaks: list[Any], times: int) -> None:
    world = World(Leaky)
    await world.ask(Leaky, "a", "keep_task", times)
    assert leaks[0].done()
    assert leaks[0].result() == 5
    assert await world.ask(Leaky, "a", "await_kept") == 5
    await world.ask(Leaky, "a", "keep_task", times)
    assert leaks[0] is not leaks[1]


async def test_the_kept_task_of_a_call_that_failed_has_its_exception(leaks: list[Any]) -> None:
    world = World(Leaky)
    with pytest.raises(MethodRaised):
        await world.ask(Leaky, "a", "keep_task_and_fail")
    assert isinstance(leaks[0].exception(), ValueError)


async def test_a_task_known_by_a_weak_reference_is_not_the_next_callers(leaks: list[Any]) -> None:
    world = World(Leaky)
    await world.ask(Leaky, "a", "keep_weakly")
    await world.ask(Leaky, "b", "keep_weakly")
    first, second = leaks
    assert first() is None or first() is not second()


async def test_a_callback_on_the_task_of_a_call_runs_when_that_call_is_done(leaks: list[Any]) -> None:
    world = World(Leaky)
    await world.ask(Leaky, "a", "when_done", "mine")
    await world.settle()
    assert leaks == ["mine"]
    await world.ask(Leaky, "b", "cancelling")
    assert leaks == ["mine"]


async def test_a_call_that_cancels_itself_does_not_cancel_the_next_one() -> None:
    world = World(Leaky)
    with pytest.raises(MethodRaised):
        await world.ask(Leaky, "a", "cancel_myself")
    assert await world.ask(Leaky, "a", "cancelling") == 0


async def test_each_call_belongs_to_its_own_object() -> None:
    world = World(Leaky)
    calls = [world.call(Leaky, name, "owner") for name in "abab"]
    assert await world.ask_all(calls) == ["Leaky/a", "Leaky/b", "Leaky/a", "Leaky/b"]
    assert CURRENT.get(None) is None


# Object code that misbehaves

ERRORS: dict[str, type[BaseException]] = {
    cls.__name__: cls for cls in (SystemExit, KeyboardInterrupt, GeneratorExit, StopAsyncIteration, RecursionError, MemoryError)
}


class Rude(DurableObject):
    async def raise_at(self, kind: str, times: int) -> None:
        await nap(times=times)
        raise ERRORS[kind]("rude")

    async def raise_in_sub_task(self, kind: str) -> str:
        sub = asyncio.create_task(self.raise_at(kind, 1))
        try:
            await sub
        except Exception as exc:
            return f"{type(exc).__name__} {exc}"
        return "nothing"

    async def stop_iteration(self) -> None:
        raise StopIteration(5)

    async def fine(self) -> str:
        return "fine"

    async def swallow(self) -> None:
        while True:
            try:
                await asyncio.sleep(LONG_S)
            except asyncio.CancelledError:
                KEPT.append("swallowed")
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.001)
                KEPT.append("cleaned up")
                return

    async def clean_up(self) -> None:
        try:
            await asyncio.gather(asyncio.sleep(LONG_S), asyncio.shield(THINGS["future"]))
        finally:
            KEPT.append("first")
            await nap(times=3)
            await asyncio.sleep(0.001)
            KEPT.append("second")

    async def clean_up_after_a_sync(self) -> None:
        try:
            self.storage.put("a", 1)
            await self.storage.sync()
        finally:
            KEPT.append("first")
            await asyncio.sleep(0.001)
            KEPT.append("second")

    async def clean_up_after_a_bare_yield(self) -> None:
        try:
            while True:
                await asyncio.sleep(0)
        finally:
            KEPT.append("first")
            await asyncio.sleep(0.001)
            KEPT.append("second")

    async def abort_now(self) -> None:
        self.abort("enough")

    async def abort_and_clean_up(self) -> None:
        try:
            self.abort("enough")
        finally:
            await asyncio.sleep(0.001)
            KEPT.append("second")


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("times", [0, 1])
async def test_whatever_a_method_raises_is_answered_and_the_worker_lives(kind: str, times: int) -> None:
    world = World(Rude)
    with pytest.raises(MethodRaised, match="rude"):
        await world.ask(Rude, "a", "raise_at", kind, times)
    assert await world.ask(Rude, "a", "fine") == "fine"


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
async def test_an_exit_in_a_sub_task_reaches_who_waits_for_it_and_not_the_worker(kind: str) -> None:
    world = World(Rude)
    assert "rude" in await world.ask(Rude, "a", "raise_in_sub_task", kind)


async def test_stop_iteration_out_of_a_method_is_an_ordinary_error() -> None:
    world = World(Rude)
    with pytest.raises(MethodRaised) as caught:
        await world.ask(Rude, "a", "stop_iteration")
    assert caught.value.type == "RuntimeError"


CLEANERS = ["clean_up", "clean_up_after_a_sync", "clean_up_after_a_bare_yield"]


@pytest.mark.parametrize("method", CLEANERS)
async def test_code_of_an_object_that_is_reset_may_clean_up_in_peace(
    things: dict[str, Any], leaks: list[Any], method: str
) -> None:
    things["future"] = asyncio.get_running_loop().create_future()
    world = World(Rude, auto=False)
    call = world.call(Rude, "a", method)
    await world.settle(3)
    abort = world.call(Rude, "a", "abort_now")
    await world.settle(3)
    assert isinstance(call.error, ObjectReset)
    assert isinstance(abort.error, ObjectReset)
    while "second" not in leaks:
        await asyncio.sleep(0.001)
    assert leaks == ["first", "second"]


async def test_code_that_aborts_its_object_is_cancelled_where_it_waits_next(leaks: list[Any]) -> None:
    world = World(Rude)
    call = world.call(Rude, "a", "abort_and_clean_up")
    with pytest.raises(ObjectReset, match="enough"):
        await call.reply
    await asyncio.sleep(0.01)
    assert leaks == []


async def test_a_finished_call_leaves_no_task_behind() -> None:
    world = World(Rude, Leaky)
    await world.ask(Leaky, "a", "get_var", 3)
    assert not world.activation(Leaky, "a").tasks
    gc.collect()
    assert not [each for each in asyncio.all_tasks() if isinstance(each, ObjectTask)]
