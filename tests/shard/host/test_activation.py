"""Critical sections, transactions and background tasks of one object: who is let in, who is reset, who is not."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from tests.support.host_world import World
from tests.support.objects import CONTROL, LOG, control, until
from tests.support.task_scenarios import nap
from tidegate.runtime.errors import MethodRaised, ObjectReset
from tidegate.runtime.limits import SECTION_DEPTH_MAX
from tidegate.shard.core.input_gate import SectionsTooDeep
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.objects.storage import TransactionOver


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


class Sections(DurableObject):
    async def log(self, text: str) -> None:
        LOG.append(text)

    async def hold(self, name: str = "s") -> None:
        async with self.block_concurrency():
            LOG.append(f"{name} in")
            await until(name)
            LOG.append(f"{name} out")

    async def hold_transaction(self, name: str = "t") -> None:
        async with self.storage.transaction() as txn:
            LOG.append(f"{name} in")
            txn.put("k", name)
            await until(name)
            LOG.append(f"{name} out")

    async def get(self, key: str) -> Any:
        return await self.storage.get(key)

    async def put(self, key: str, value: Any) -> None:
        await self.storage.put(key, value)

    async def sub_tasks(self) -> list[int]:
        async with self.block_concurrency():
            results: list[int] = await asyncio.gather(*[nap(number, number) for number in range(5)])
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0.001))
            await asyncio.to_thread(lambda: None)
        return results

    async def nested(self, depth: int) -> int:
        if depth == 0:
            await nap()
            return 0
        async with self.block_concurrency():
            return 1 + await self.nested(depth - 1)

    async def too_deep(self) -> str:
        with contextlib.suppress(SectionsTooDeep):
            await self.nested(SECTION_DEPTH_MAX + 1)
        return "unharmed"

    async def fail_in_section(self, caught: bool = False) -> None:
        self.storage.put("k", "section")
        try:
            async with self.block_concurrency():
                raise ValueError("in section")
        except ValueError:
            if not caught:
                raise

    async def fail_in_nested_section(self) -> None:
        async with self.block_concurrency():
            with contextlib.suppress(KeyError):
                async with self.block_concurrency():
                    raise KeyError("inner")

    async def fail_in_transaction(self, caught: bool = False) -> str:
        try:
            async with self.storage.transaction() as txn:
                txn.put("k", "transaction")
                raise ValueError("in transaction")
        except ValueError:
            if not caught:
                raise
        return "caught"

    async def enter_twice(self) -> None:
        section = self.block_concurrency()
        async with section:
            pass
        async with section:
            pass

    async def outlive(self) -> None:
        """Work that begins in a section and ends after it."""
        async with self.block_concurrency():
            self.spawn(self._log_later())
        LOG.append("section over")

    async def _log_later(self) -> None:
        await until("later")
        LOG.append("later")

    async def cancelled_waiter(self) -> None:
        waiting = asyncio.create_task(self.hold("s2"))
        await nap(times=2)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        LOG.append("cancelled")

    async def time_out_in_section(self) -> None:
        async with asyncio.timeout(0.005):
            await self.hold("s")

    async def read_modify_write(self, section: bool) -> int:
        entered = self.block_concurrency() if section else self.storage.transaction()
        async with entered:
            value: int = await self.storage.get("n", 0)
            await asyncio.sleep(0.0005)
            await self.storage.put("n", value + 1)
        return value

    async def rollback_then_write(self) -> dict[str, Any]:
        async with self.storage.transaction() as txn:
            txn.put("a", 1)
            txn.rollback()
            self.storage.put("b", 1)
        return await self.storage.list()

    async def keep_transaction(self) -> None:
        async with self.storage.transaction() as txn:
            self.txn = txn

    async def use_kept(self) -> None:
        self.txn.put("a", 1)

    async def parallel_transactions(self) -> dict[str, Any]:
        async def one(name: str) -> None:
            async with self.storage.transaction() as txn:
                seen = await txn.get("shared", 0)
                await nap(times=3)
                txn.put("shared", seen + 1)
                if name == "bad":
                    raise KeyError(name)
                txn.put(name, seen)

        await asyncio.gather(one("a"), one("bad"), one("b"), return_exceptions=True)
        return await self.storage.list()


async def test_while_a_section_runs_only_its_own_events_are_delivered() -> None:
    world = World(Sections)
    control("s")
    holding = world.call(Sections, "a", "hold")
    await world.settle()
    outside = world.call(Sections, "a", "log", "outside")
    await world.settle()
    assert LOG == ["s in"]
    CONTROL["s"].set_result(None)
    await world.ask_all([holding, outside])
    assert LOG == ["s in", "s out", "outside"]


async def test_a_section_may_use_tasks_timers_groups_and_threads_of_its_own() -> None:
    assert await World(Sections).ask(Sections, "a", "sub_tasks") == list(range(5))


async def test_a_section_is_asked_for_when_its_task_is_let_in_and_not_before() -> None:
    class Late(Sections):
        async def wait_then_section(self) -> None:
            await until("go")
            async with self.block_concurrency():
                LOG.append("section")

    world = World(Late)
    go = control("go")
    waiting = world.call(Late, "a", "wait_then_section")
    await world.settle()
    activation = world.activation(Late, "a")
    running, now = activation.gate.enter(activation.gate.root, None)
    assert now
    call = world.call(Late, "a", "log", "call")
    go.set_result(None)
    await world.settle()
    activation.gate.leave(running)
    activation.schedule_pump()
    await world.ask_all([waiting, call])
    assert LOG == ["call", "section"]


@pytest.mark.parametrize("section", [True, False])
async def test_read_modify_write_around_a_timer_is_atomic_in_a_section_and_in_a_transaction(section: bool) -> None:
    world = World(Sections)
    calls = [world.call(Sections, "a", "read_modify_write", section) for _ in range(20)]
    assert sorted(await world.ask_all(calls)) == list(range(20))


async def test_sections_nest_as_deep_as_allowed_and_one_more_is_an_error_that_harms_nothing() -> None:
    world = World(Sections)
    assert await world.ask(Sections, "a", "nested", SECTION_DEPTH_MAX) == SECTION_DEPTH_MAX
    before = world.activation(Sections, "a")
    control("s").set_result(None)
    with pytest.raises(ObjectReset):  # It escapes from the sections around it, which is what resets.
        await world.ask(Sections, "a", "too_deep")
    assert world.host.statistics().resets == 1
    assert before.broken is not None
    await world.ask(Sections, "a", "hold")
    assert LOG == ["s in", "s out"]


async def test_the_error_of_too_many_sections_can_be_caught_where_it_is_raised() -> None:
    class Deep(DurableObject):
        async def dig(self, depth: int = 0) -> int:
            section = self.block_concurrency()
            try:
                await section.__aenter__()
            except SectionsTooDeep:
                return depth
            try:
                return await self.dig(depth + 1)
            finally:
                await section.__aexit__(None, None, None)

    world = World(Deep)
    assert await world.ask(Deep, "a", "dig") == SECTION_DEPTH_MAX
    assert world.host.statistics().resets == 0


@pytest.mark.parametrize("caught", [False, True])
async def test_an_exception_that_escapes_a_section_resets_the_object_even_if_it_is_caught_later(caught: bool) -> None:
    world = World(Sections)
    with pytest.raises(ObjectReset, match="in section"):
        await world.ask(Sections, "a", "fail_in_section", caught)
    assert await world.ask(Sections, "a", "get", "k") is None


async def test_an_exception_that_escapes_an_inner_section_resets_the_object_too() -> None:
    world = World(Sections)
    with pytest.raises(ObjectReset, match="inner"):
        await world.ask(Sections, "a", "fail_in_nested_section")


async def test_calls_that_waited_for_a_section_that_fails_go_to_the_next_instance() -> None:
    class Failing(Sections):
        async def hold_and_fail(self) -> None:
            async with self.block_concurrency():
                await until("s")
                raise ValueError

    world = World(Failing)
    control("s")
    failing = world.call(Failing, "a", "hold_and_fail")
    await world.settle()
    waiting = [world.call(Failing, "a", "log", text) for text in "12"]
    await world.settle()
    CONTROL["s"].set_result(None)
    await world.ask_all(waiting)
    assert isinstance(failing.error, ObjectReset)
    assert LOG == ["1", "2"]


async def test_a_section_that_takes_too_long_resets_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.gate_watch.SECTION_TIMEOUT_S", 0.02)
    world = World(Sections)
    control("s")
    with pytest.raises(ObjectReset, match="longer than"):
        await world.ask(Sections, "a", "hold")
    await world.ask(Sections, "a", "log", "goes on")
    assert LOG == ["s in", "goes on"]


async def test_the_time_of_a_section_counts_from_when_its_body_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.gate_watch.SECTION_TIMEOUT_S", 0.3)
    world = World(Sections)
    for name in ("t", "s"):
        control(name)
    first = world.call(Sections, "a", "hold_transaction")
    second = world.call(Sections, "a", "hold")
    await asyncio.sleep(0.2)
    CONTROL["t"].set_result(None)
    await asyncio.sleep(0.2)
    CONTROL["s"].set_result(None)
    await world.ask_all([first, second])
    assert LOG == ["t in", "t out", "s in", "s out"]


async def test_a_method_that_raises_does_not_reset_its_object() -> None:
    world = World(Sections)
    await world.ask(Sections, "a", "put", "k", 1)
    before = world.activation(Sections, "a")
    with pytest.raises(MethodRaised):
        await world.ask(Sections, "a", "enter_twice")
    assert world.activation(Sections, "a") is before


@pytest.mark.parametrize("caught", [False, True])
async def test_a_transaction_that_raises_is_rolled_back_and_does_not_reset_its_object(caught: bool) -> None:
    world = World(Sections)
    await world.ask(Sections, "a", "put", "k", "before")
    before = world.activation(Sections, "a")
    call = world.call(Sections, "a", "fail_in_transaction", caught)
    await world.settle()
    assert call.result == "caught" if caught else isinstance(call.error, MethodRaised)
    assert world.activation(Sections, "a") is before
    assert await world.ask(Sections, "a", "get", "k") == "before"


async def test_nothing_of_an_open_transaction_is_seen_by_other_events_or_committed() -> None:
    world = World(Sections, auto=False)
    control("t")
    holding = world.call(Sections, "a", "hold_transaction")
    await world.settle()
    reading = world.call(Sections, "a", "get", "k")
    await world.settle()
    assert not reading.answered
    assert not world.host.output_gate.can_cut
    CONTROL["t"].set_result(None)
    await world.settle()
    world.commit()
    assert await reading.reply == "t"
    await holding.reply


async def test_transactions_of_one_call_run_one_after_the_other_and_a_failed_one_leaves_nothing() -> None:
    assert await World(Sections).ask(Sections, "a", "parallel_transactions") == {"shared": 2, "a": 0, "b": 1}


async def test_after_a_rollback_the_storage_works_on_without_the_transaction() -> None:
    assert await World(Sections).ask(Sections, "a", "rollback_then_write") == {"b": 1}


async def test_a_transaction_kept_beyond_its_end_says_that_it_is_over() -> None:
    world = World(Sections)
    await world.ask(Sections, "a", "keep_transaction")
    with pytest.raises(MethodRaised, match="over") as caught:
        await world.ask(Sections, "a", "use_kept")
    assert caught.value.type == TransactionOver.__name__


async def test_work_that_outlives_its_section_neither_deadlocks_nor_keeps_others_out() -> None:
    world = World(Sections)
    control("later")
    await world.ask(Sections, "a", "outlive")
    await world.ask(Sections, "a", "log", "others")
    CONTROL["later"].set_result(None)
    await world.settle()
    assert LOG == ["section over", "others", "later"]


@pytest.mark.parametrize("synced", [False, True])
async def test_a_section_that_fails_takes_with_it_what_was_put_before_it_and_is_in_no_commit_yet(synced: bool) -> None:
    class Writing(DurableObject):
        async def write_and_fail(self) -> None:
            await self.storage.put("k", 1)
            if synced:
                await self.storage.sync()
            async with self.block_concurrency():
                raise ValueError("in section")

    world = World(Writing)
    with pytest.raises(ObjectReset):
        await world.ask(Writing, "a", "write_and_fail")
    assert world.durable(Writing, "a") == ({"k": 1} if synced else {})


@pytest.mark.parametrize("kind", ["section", "transaction"])
@pytest.mark.parametrize("way", ["spawn", "create_task"])
async def test_a_task_that_is_started_right_before_a_section_begins_after_it(kind: str, way: str) -> None:
    class Starting(DurableObject):
        async def run(self) -> None:
            task = self.spawn(self._work("before")) if way == "spawn" else asyncio.create_task(self._work("before"))
            async with self.block_concurrency() if kind == "section" else self.storage.transaction():
                inside = self.spawn(self._work("inside")) if way == "spawn" else asyncio.create_task(self._work("inside"))
                await nap(times=3)
                await inside
                LOG.append("section over")
            await task

        async def _work(self, text: str) -> None:
            LOG.append(text)

    await World(Starting).ask(Starting, "a", "run")
    assert LOG == ["inside", "section over", "before"]


async def test_a_waiter_for_a_section_that_is_cancelled_lets_the_next_one_start() -> None:
    world = World(Sections)
    control("s")
    holding = world.call(Sections, "a", "hold")
    await world.settle()
    cancelling = world.call(Sections, "a", "cancelled_waiter")
    await world.settle()
    CONTROL["s"].set_result(None)
    control("s2").set_result(None)
    await world.ask_all([holding, cancelling])
    await world.ask(Sections, "a", "log", "next")
    assert LOG[-1] == "next"
    world.check()


@pytest.mark.parametrize("turns", range(8))
async def test_cancelling_a_waiter_for_a_section_at_any_instant_leaves_the_gate_whole(turns: int) -> None:
    class Cancelling(DurableObject):
        async def run(self) -> str:
            async def section(name: str) -> None:
                async with self.storage.transaction():
                    LOG.append(name)
                    await nap(times=2)

            first, second, third = (asyncio.create_task(section(name)) for name in "123")
            await nap(times=turns)
            second.cancel()
            await asyncio.gather(first, second, third, return_exceptions=True)
            return "".join(LOG)

    world = World(Cancelling)
    assert await world.ask(Cancelling, "a", "run") in ("13", "123")
    world.check()
    assert world.activation(Cancelling, "a").gate.open


async def test_a_cancellation_that_escapes_a_section_resets_the_object() -> None:
    world = World(Sections)
    control("s")
    with pytest.raises(ObjectReset, match="CancelledError"):
        await world.ask(Sections, "a", "time_out_in_section")


async def test_sections_belong_to_the_code_of_their_object_only() -> None:
    world = World(Sections)
    await world.ask(Sections, "a", "log", "x")
    with pytest.raises(RuntimeError, match="in a task of the object only"):
        async with world.activation(Sections, "a").instance.block_concurrency():
            pass
    assert world.activation(Sections, "a").gate.open


# Background tasks


class Background(DurableObject):
    async def start(self, name: str) -> None:
        self.spawn(self._work(name))

    async def _work(self, name: str) -> None:
        try:
            await until(name)
            self.storage.put("done", name)
            LOG.append(name)
        except asyncio.CancelledError:
            LOG.append("cancelled")
            raise

    async def start_failing(self) -> None:
        self.spawn(self._fail())

    async def _fail(self) -> None:
        raise ValueError("in the background")

    async def stop(self) -> None:
        self.abort("stop")

    async def result(self) -> int:
        number: int = await self.spawn(nap(7, 2))
        return number


async def test_a_background_task_keeps_its_object_in_memory_until_it_ends() -> None:
    world = World(Background)
    control("job")
    await world.ask(Background, "a", "start", "job")
    world.evict_idle()
    assert "a" in world.host.classes["Background"].activations
    CONTROL["job"].set_result(None)
    await world.settle()
    assert world.durable(Background, "a") == {"done": "job"}
    world.evict_idle()
    assert "a" not in world.host.classes["Background"].activations


async def test_a_background_task_is_cancelled_when_its_object_is_reset() -> None:
    world = World(Background)
    control("job")
    await world.ask(Background, "a", "start", "job")
    with pytest.raises(ObjectReset):
        await world.ask(Background, "a", "stop")
    await world.settle()
    assert LOG == ["cancelled"]


async def test_a_background_task_that_fails_is_logged_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Background)
    await world.ask(Background, "a", "start_failing")
    await world.settle()
    assert "in the background" in caplog.text
    assert caplog.records[0].tidegate.object == "Background/a"  # type: ignore[attr-defined]  # that of every record
    assert world.host.statistics().resets == 0
    assert await world.ask(Background, "a", "result") == 7


async def test_code_of_a_reset_object_cannot_write_call_or_answer_any_longer() -> None:
    class Zombie(DurableObject):
        async def linger(self) -> str:
            try:
                await until("never")
            except asyncio.CancelledError:
                for attempt in (
                    lambda: self.storage.put("k", "zombie"),
                    lambda: self.storage.delete_all(),
                    lambda: self.storage.get("k"),
                ):
                    try:
                        attempt()
                        LOG.append("it worked")
                    except ObjectReset:
                        LOG.append("refused")
                try:
                    await self.stub(Background, "b").result()
                except ObjectReset:
                    LOG.append("no call")
            return "answer"

        async def stop(self) -> None:
            self.abort("stop")

        async def put(self) -> Any:
            await self.storage.put("k", "new")

    world = World(Zombie, Background)
    control("never")
    lingering = world.call(Zombie, "a", "linger")
    await world.settle()
    with pytest.raises(ObjectReset):
        await world.ask(Zombie, "a", "stop")
    await world.ask(Zombie, "a", "put")
    await world.settle()
    assert LOG == ["refused"] * 3 + ["no call"]
    assert isinstance(lingering.error, ObjectReset)
    assert world.durable(Zombie, "a") == {"k": "new"}
