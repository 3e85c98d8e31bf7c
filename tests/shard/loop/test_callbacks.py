"""Callbacks that object code schedules: the gate lets them in, in the section in which they were scheduled, or they never run."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.host_world import Call, World
from tests.support.objects import CONTROL, LOG, control, until
from tests.support.stage import Actor, act
from tests.support.storage_world import StorageWorld, finish
from tidegate.runtime.client.asynchronous import Client
from tidegate.runtime.errors import ObjectReset
from tidegate.runtime.limits import IDLE_EVICT_S, TIMERS_KEEP_S
from tidegate.shard.loop.libraries import FACING_OBJECTS, is_library, is_plumbing
from tidegate.shard.loop.task import ObjectTask
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.store.state.memory_state import MemoryState


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


# Every way in which object code can be called back.


def soon(callback: Callable[[], object]) -> Any:
    return asyncio.get_running_loop().call_soon(callback)


def later(callback: Callable[[], object]) -> Any:
    return asyncio.get_running_loop().call_later(0.001, callback)


def at(callback: Callable[[], object]) -> Any:
    loop = asyncio.get_running_loop()
    return loop.call_at(loop.time() + 0.001, callback)


def soon_with_arguments(callback: Callable[[], object]) -> Any:
    return asyncio.get_running_loop().call_soon(lambda *_: callback(), 1, 2)


def from_a_thread(callback: Callable[[], object]) -> Any:
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    return loop.run_in_executor(None, lambda: context.run(loop.call_soon_threadsafe, callback))


def when_a_future_is_done(callback: Callable[[], object]) -> Any:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    future.add_done_callback(lambda _: callback())
    return loop.call_soon(future.set_result, None, context=NEUTRAL)


def when_a_task_is_done(callback: Callable[[], object]) -> Any:
    task = asyncio.create_task(asyncio.sleep(0))
    task.add_done_callback(lambda _: callback())
    return task


def in_a_plain_task(callback: Callable[[], object]) -> Any:
    async def call() -> None:
        callback()

    return asyncio.Task(call())


Way = Callable[[Callable[[], object]], Any]
_WAYS = [soon, later, at, soon_with_arguments, from_a_thread, when_a_future_is_done, when_a_task_is_done, in_a_plain_task]
WAYS: dict[str, Way] = {way.__name__: way for way in _WAYS}
way_of_scheduling = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def add_one(actor: Actor, text: str = "called back") -> None:
    """A read-modify-write in a callback."""
    value = finish(actor.storage.get("n", 0))
    actor.storage.put("n", value + 1)
    LOG.append(text)


def scheduling(world: World, way: Way, count: int = 1) -> Call:
    async def schedule(actor: Actor) -> None:
        for _ in range(count):
            way(lambda: add_one(actor))

    return act(world, schedule)


def holding(world: World) -> Call:
    """The gate is closed until the test lets it go on."""

    async def hold(actor: Actor) -> None:
        async with actor.block_concurrency():
            LOG.append("in")
            await until("hold")
            LOG.append("out")

    return act(world, hold)


async def in_transaction(actor: Actor) -> None:
    async with actor.storage.transaction() as txn:
        value = await txn.get("n", 0)
        await asyncio.sleep(0.001)
        await txn.put("n", value + 1)


async def in_section(actor: Actor) -> None:
    async with actor.block_concurrency():
        value = await actor.storage.get("n", 0)
        await asyncio.sleep(0.001)
        await actor.storage.put("n", value + 1)


async def around_a_storage_operation_that_waits(actor: Actor) -> None:
    value = await actor.storage.get("n", 0)
    loop = actor._activation.host.loop
    await actor._activation.wait_fetched(lambda done: loop.call_later(0.001, done, None, None), lambda _: None, False)
    await actor.storage.put("n", value + 1)


# Input gate


@way_of_scheduling
@pytest.mark.parametrize("closing", [in_transaction, in_section, around_a_storage_operation_that_waits])
async def test_a_callback_that_reads_changes_and_writes_never_interleaves_with_a_method_that_keeps_the_gate_closed(
    way: Way, closing: Callable[[Actor], Any]
) -> None:
    world = World(Actor)
    calls = []
    for _ in range(10):
        calls += [scheduling(world, way, 3), act(world, closing)]
    await world.ask_all(calls)
    while len(LOG) < 30:
        await asyncio.sleep(0.001)
    assert await world.ask(Actor, "one", "get", "n") == 40


@way_of_scheduling
async def test_a_callback_waits_for_a_closed_gate_and_is_delivered_when_it_opens(way: Way) -> None:
    world = World(Actor)
    release = control("hold")

    async def schedule_and_be_closed(actor: Actor) -> None:
        way(lambda: add_one(actor))
        actor._activation.gate.lock(actor._activation.gate.root)

    await act(world, schedule_and_be_closed).reply
    await asyncio.sleep(0.02)
    assert LOG == []
    call = holding(world)
    gate = world.activation(Actor, "one").gate
    gate.unlock(gate.root)
    world.activation(Actor, "one").schedule_pump()
    await world.settle()
    assert LOG == ["called back", "in"] or (LOG == ["in"] and way is when_a_task_is_done), "first come, first served"
    release.set_result(None)
    await call.reply
    await world.settle()
    assert sorted(LOG) == ["called back", "in", "out"]


@way_of_scheduling
@pytest.mark.parametrize("kind", ["section", "transaction"])
@pytest.mark.parametrize("spawned", [False, True], ids=["by its body", "by a task that it spawned"])
async def test_a_callback_that_is_scheduled_in_a_critical_section_is_delivered_within_it(
    way: Way, kind: str, spawned: bool
) -> None:
    world = World(Actor)

    async def wait_for_a_callback(actor: Actor) -> str:
        called = asyncio.Event()

        def call() -> None:
            actor.storage.put("n", 1)
            called.set()

        async def schedule() -> None:
            way(call)

        async with actor.block_concurrency() if kind == "section" else actor.storage.transaction(), asyncio.timeout(5):
            await (actor.spawn(schedule()) if spawned else schedule())
            await called.wait()
            return "delivered"

    others = [world.call(Actor, "one", "put", "n", 2) for _ in range(3)]
    assert await act(world, wait_for_a_callback).reply == "delivered"
    await world.ask_all(others)
    assert await world.ask(Actor, "one", "get", "n") == 1, "they were there first"


@way_of_scheduling
async def test_a_callback_that_outlives_its_section_is_delivered_as_one_of_those_around_it(way: Way) -> None:
    world = World(Actor)

    async def leave_a_callback(actor: Actor) -> None:
        async with actor.block_concurrency(), actor.block_concurrency():
            way(lambda: add_one(actor))

    await act(world, leave_a_callback).reply
    while not LOG:
        await asyncio.sleep(0.001)
    assert await world.ask(Actor, "one", "get", "n") == 1


async def test_callbacks_and_calls_that_wait_are_delivered_in_the_order_in_which_they_came() -> None:
    world = World(Actor)
    release = control("hold")

    async def schedule(actor: Actor) -> None:
        for number in range(3):
            asyncio.get_running_loop().call_later(0.005 + number / 1_000, LOG.append, number)

    async def log_a_call(actor: Actor) -> None:
        LOG.append("call")

    calls = [act(world, schedule), holding(world)]
    await asyncio.sleep(0.05)
    calls.append(act(world, log_a_call))
    await world.settle()
    assert LOG == ["in"]
    release.set_result(None)
    await world.ask_all(calls)
    assert LOG == ["in", "out", 0, 1, 2, "call"]


async def test_what_a_callback_starts_and_schedules_passes_the_gate_too() -> None:
    world = World(Actor)

    async def schedule(actor: Actor) -> None:
        loop = asyncio.get_running_loop()

        async def task() -> None:
            LOG.append(type(asyncio.current_task()))

        def first() -> None:
            loop.call_soon(second)
            world.holding = holding(world)  # type: ignore[attr-defined]  # the test's own

        def second() -> None:
            LOG.append("second")
            asyncio.create_task(task()).add_done_callback(lambda _: LOG.append("done"))

        loop.call_soon(first)

    release = control("hold")
    await act(world, schedule).reply
    await world.settle()
    assert LOG in (["second", "in"], ["in"]), "the gate has closed before the task could go on, or before the second callback"
    release.set_result(None)
    await world.holding.reply  # type: ignore[attr-defined]  # the test's own
    await world.settle()
    assert [entry for entry in LOG if entry not in ("in", "out")] == ["second", ObjectTask, "done"]


async def test_a_callback_scheduled_by_init_passes_the_gate() -> None:
    class Early(DurableObject):
        def __init__(self) -> None:
            asyncio.get_running_loop().call_soon(LOG.append, "called back")
            asyncio.get_running_loop().call_soon(queue.Queue.put, RING, "of a library")

        async def on_start(self) -> None:
            await until("start")
            LOG.append("started")

        async def get(self) -> None: ...

    start = control("start")
    world = World(Early)
    call = world.call(Early, "a", "get")
    await world.settle()
    assert (LOG, RING.empty()) == ([], True)
    start.set_result(None)
    await call.reply
    await world.settle()
    assert (LOG, RING.get_nowait()) == (["started", "called back"], "of a library")


RING: queue.Queue[str] = queue.Queue()


# Handles


@pytest.mark.parametrize("way", [soon, later, at], ids=lambda way: way.__name__)
async def test_a_handle_that_was_cancelled_is_not_delivered_whether_it_waits_for_its_time_or_at_the_gate(way: Way) -> None:
    world = World(Actor)
    handles: list[Any] = []

    async def schedule(actor: Actor) -> None:
        handles.extend(way(lambda number=number: LOG.append(number)) for number in range(3))  # type: ignore[misc]  # its default
        handles[0].cancel()
        actor._activation.gate.lock(actor._activation.gate.root)

    await act(world, schedule).reply
    await asyncio.sleep(0.02)
    handles[1].cancel()
    gate = world.activation(Actor, "one").gate
    gate.unlock(gate.root)
    world.activation(Actor, "one").schedule_pump()
    await world.settle()
    assert LOG == [2]
    assert [handle.cancelled() for handle in handles] == [True, True, False]
    handles[2].cancel()
    handles[2].cancel()
    assert handles[2].cancelled(), "as any handle, also after it has run"
    assert not world.activation(Actor, "one").callbacks


async def test_a_handle_tells_its_time_and_its_context() -> None:
    world = World(Actor)

    async def schedule(actor: Actor) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        handles = [loop.call_at(now + 5, print), loop.call_later(5, print), loop.call_later(0, print)]
        assert [round(handle.when() - now) for handle in handles] == [5, 5, 0]
        context = contextvars.copy_context()
        handle: Any = loop.call_soon(LOG.append, 1, context=context)
        assert handle.get_context() is context
        with pytest.raises(AttributeError):
            handle.when()
        for each in (*handles, handle):
            each.cancel()

    await act(world, schedule).reply


async def test_a_callback_runs_in_the_context_in_which_it_was_scheduled() -> None:
    world = World(Actor)
    variable = contextvars.ContextVar("variable", default="none")

    async def schedule(actor: Actor) -> None:
        variable.set("then")
        for way in WAYS.values():
            way(lambda: LOG.append(variable.get()))
        variable.set("now")

    await act(world, schedule).reply
    while len(LOG) < len(WAYS):
        await asyncio.sleep(0.001)
    assert set(LOG) == {"then"}


# Output gate, errors


@way_of_scheduling
async def test_what_a_callback_writes_is_committed_and_messages_that_reveal_it_wait_for_that(way: Way) -> None:
    world = World(Actor, auto=False)
    scheduled = scheduling(world, way)
    while not LOG:
        await asyncio.sleep(0.001)
    await scheduled.reply
    read = world.call(Actor, "one", "get", "n")
    await world.settle()
    assert world.host.output_gate.can_cut
    assert not read.answered
    world.commit()
    assert read.result == 1
    assert world.durable(Actor, "one") == {"n": 1}


@way_of_scheduling
async def test_an_exception_in_a_callback_is_logged_with_the_name_of_the_object_and_resets_nothing(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(Actor)
    made: list[Any] = []

    async def schedule(actor: Actor) -> None:
        actor.kept = True  # type: ignore[attr-defined]  # the test's own

        def fail() -> None:
            raise SystemExit("this must not end the worker")

        made.append(way(fail))

    async def is_kept(actor: Actor) -> bool:
        return hasattr(actor, "kept")

    await act(world, schedule).reply
    await asyncio.sleep(0.02)
    if way is in_a_plain_task:  # Such a task keeps its exception for whoever looks.
        assert isinstance(made[0].exception(), SystemExit)
    else:
        (record,) = caplog.records
        assert record.getMessage().startswith("a callback failed: ")
        assert record.tidegate.object == "Actor/one"  # type: ignore[attr-defined]  # that of every record
        assert "this must not end the worker" in caplog.text
    assert await act(world, is_kept).reply is True


@pytest.mark.parametrize("way", _WAYS[:-1], ids=list(WAYS)[:-1])
async def test_a_callback_may_abort_its_object(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    world = World(Actor)

    async def schedule(actor: Actor) -> None:
        actor.storage.put("n", 1)
        way(lambda: actor.abort("enough"))
        await until("hold")

    control("hold")
    call = act(world, schedule)
    await asyncio.sleep(0.02)
    assert isinstance(call.error, ObjectReset)
    assert "enough" in str(call.error)
    assert [record.message for record in caplog.records] == ["Actor/one was reset: enough"]


# Objects that are gone


@pytest.mark.parametrize(
    ("end", "waits"),
    [
        ("reset", "for its time"),
        ("reset", "at the gate"),
        ("eviction", "for its time"),
        ("sleep", "for its time"),
        ("sleep and another instance", "for its time"),
    ],
)
async def test_a_callback_of_an_object_that_is_gone_does_not_run_but_a_library_s_may_serve_others(end: str, waits: str) -> None:
    world = World(Actor)
    future = asyncio.get_running_loop().create_future()

    async def schedule(actor: Actor) -> None:
        loop = asyncio.get_running_loop()
        delay_s = 0.05 if waits == "for its time" else 0
        loop.call_later(delay_s, lambda: LOG.append("timer"))
        loop.call_later(delay_s, functools.partial(queue.Queue.put, RING, "of a library"))
        future.add_done_callback(lambda _: LOG.append("future"))
        future.add_done_callback(functools.partial(queue.Queue.put, RING))
        if waits == "at the gate":
            actor._activation.gate.lock(actor._activation.gate.root)

    await act(world, schedule).reply
    await world.settle()
    activation = world.activation(Actor, "one")
    if end == "reset":
        activation.fail("so it is")
    elif end == "eviction":
        world.evict_idle()
    else:
        for later_s in (TIMERS_KEEP_S - 1, TIMERS_KEEP_S + IDLE_EVICT_S):
            world.host.table.evict_idle(world.loop.time() + later_s)
    assert len(world.host.table) == 0
    if end == "sleep and another instance":
        assert await world.ask(Actor, "one", "get", "n") is None
        assert world.activation(Actor, "one") is activation
    future.set_result(None)
    await asyncio.sleep(0.1)
    assert LOG == []
    assert [RING.get_nowait(), RING.get_nowait()].count("of a library") == 1
    assert not activation.callbacks
    assert await world.ask(Actor, "one", "get", "n") is None


async def test_code_that_cleans_up_after_a_reset_is_called_back_as_it_asks(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Actor)

    async def clean_up(actor: Actor) -> None:
        try:
            await until("hold")
        finally:
            called = asyncio.Event()
            asyncio.get_running_loop().call_later(0.001, called.set)
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.001, lambda: future.set_result("clean"))
            asyncio.get_running_loop().call_later(0.0005, add_one, actor)
            await called.wait()
            LOG.append(await future)

    control("hold")
    call = act(world, clean_up)
    await world.settle()
    world.activation(Actor, "one").fail("so it is")
    assert isinstance(call.error, ObjectReset)
    await asyncio.sleep(0.05)
    assert LOG == ["clean"]
    assert "a callback failed" in caplog.text, "what it writes is refused"


# Whose code it is


async def test_what_asyncio_and_the_runtime_schedule_is_told_from_code_of_objects_and_libraries() -> None:
    future = asyncio.get_running_loop().create_future()
    for callback in (future.set_result, future.cancel, asyncio.Event().set, asyncio.timeout(1).reschedule, ObjectTask.cancel):
        assert is_plumbing(callback)
    actor = Actor.__new__(Actor)
    store = StorageWorld().storage
    others: list[Any] = [add_one, functools.partial(add_one, actor), actor.abort, store.put, json.dumps, RING.put, [].append]
    for other in others:
        assert not is_plumbing(other)


async def test_code_of_the_standard_library_and_of_installed_packages_is_a_library_unless_it_is_the_object_s_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(Actor)
    await world.ask(Actor, "one", "get", "n")
    owner = world.activation(Actor, "one")
    runtime = (Client.close, MemoryState.get)  # Wherever it lies.
    assert all(is_library(each, owner) for each in (json.dumps, RING.put, pytest.raises, functools.partial(json.dumps), *runtime))
    actor: Any = owner.instance
    own = [add_one, functools.partial(add_one), actor.abort, actor.storage.put, actor.stub(Actor, "b").get]
    assert not any(is_library(each, owner) for each in own)
    for name in FACING_OBJECTS:
        monkeypatch.setattr(sys.modules[name], "__file__", queue.__file__)  # As where the runtime itself is installed.
    assert not any(is_library(each, owner) for each in own)
    owner.object_class.cls = type("Installed", (Actor,), {"__module__": "json.objects"})
    assert not is_library(json.dumps, owner)
    owner.object_class.cls = type("Measured", (Actor,), {"__module__": "tidegate.benchmarks.load.app"})
    assert is_library(Client.close, owner)


@pytest.mark.parametrize("own", [True, False], ids=["the object's own", "a library's"])
async def test_what_the_protocol_of_a_connection_schedules_waits_for_the_gate_only_if_it_is_the_object_s_own(own: bool) -> None:
    """A library may serve a critical section that waits for the connection; a listener is code of the object."""
    world = World(Actor)
    release = control("hold")
    call = holding(world)
    await world.settle()
    context = world.activation(Actor, "one").new_context()
    loop = asyncio.get_running_loop()

    def data_received() -> None:
        """As a transport calls it: in the context of the object that has connected, and in no task."""
        loop.call_soon(*((lambda: LOG.append("listener"),) if own else (queue.Queue.put, RING, "library")))

    loop.call_soon(context.run, data_received, context=NEUTRAL)
    await world.settle()
    assert LOG == ["in"]
    assert RING.empty() is own
    release.set_result(None)
    await call.reply
    await world.settle()
    assert (["in", "out", "listener"] if own else ["in", "out"]) == LOG
    assert RING.empty() or RING.get_nowait() == "library"


async def test_a_thread_that_runs_out_of_values_is_an_error_of_whoever_waits_for_it() -> None:
    """No future takes a StopIteration: before Python 3.12 the object waited for ever."""

    def first_of_none() -> int:
        return next(iter(()))

    class Threads(DurableObject):
        async def asked(self) -> list[str]:
            loop = asyncio.get_running_loop()
            ways = (asyncio.to_thread(first_of_none), loop.run_in_executor(None, first_of_none))
            return [repr(each) for each in await asyncio.gather(*ways, return_exceptions=True)]

    async with asyncio.timeout(20):
        told = await World(Threads).ask(Threads, "a", "asked")
    assert [each[:27] for each in told] == ["RuntimeError('StopIteration"] * 2
