"""Calls with a key: one runs, all are answered the same, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from typing import Any

import msgspec
import pytest

import tidegate.shard.host.host as host
import tidegate.shard.host.keyed_calls as keyed_calls
import tidegate.shard.objects.storage as storage
from tests.support.host_world import SHARDS, World
from tests.support.objects import CONTROL, LOG, control, until
from tidegate.runtime.errors import BadRequest, Interrupted, MethodRaised, ObjectReset, TooLarge
from tidegate.runtime.limits import KEPT_RESULT_BYTES_MAX
from tidegate.runtime.wire.protocol import OK
from tidegate.runtime.wire.supervisor_messages import KeyBounds
from tidegate.shard.loop.context import keyed_here
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.store.interface import ShardCommit


@pytest.fixture(autouse=True)
def _forget() -> None:
    CONTROL.clear()
    LOG.clear()


class Purse(DurableObject):
    async def pay(self, amount: int) -> int:
        LOG.append(amount)
        paid: int = await self.storage.get("paid", 0)
        self.storage.put("paid", paid + amount)
        return paid + amount

    async def refuse(self, amount: int) -> None:
        self.storage.put("refused", await self.storage.get("refused", 0) + amount)
        raise ValueError(f"not {amount}")

    async def paid(self) -> int:
        LOG.append("read")
        return int(await self.storage.get("paid", 0))

    async def pay_if_rich(self) -> int:
        paid: int = await self.storage.get("paid", 0)
        if paid < 100:
            raise ValueError("not enough money")
        self.storage.put("paid", paid - 100)
        return 0

    async def pay_slowly(self, amount: int) -> int:
        LOG.append("slowly")
        await until("go on")
        return await self.pay(amount)

    async def pay_twice(self, amount: int) -> int:
        """In two groups."""
        await self.pay(amount)
        LOG.append("half")
        await until("go on")
        return await self.pay(amount)

    async def pay_hastily(self) -> int:
        paid: int = await self.storage.get("paid", 0) + 1
        self.storage.put("paid", paid, allow_unconfirmed=True)
        return paid

    async def leave_context(self) -> int:
        self.left = contextvars.copy_context()
        return 0

    async def in_context_left(self) -> str | None:
        keyed = self.left.run(keyed_here)
        return None if keyed is None else keyed.label

    async def read_slowly(self) -> int:
        LOG.append("reading")
        await until("go on")
        return int(await self.storage.get("paid", 0))

    async def forget_all(self) -> str:
        await self.storage.delete_all()
        return "forgotten"

    async def much(self, size: int) -> bytes:
        self.storage.put("much", await self.storage.get("much", 0) + 1)
        return b"x" * size

    async def pay_and_answer(self, what: str) -> Any:
        await self.pay(1)
        return {"large": 2**70, "small": -(2**63) - 1, "half": "\ud800", "largest": 2**64 - 1, "text": "é", "list": [1, "é"]}[
            what
        ]

    async def stop(self) -> None:
        self.storage.put("paid", 1_000)
        self.abort("told to")

    async def pay_others(self, *names: str) -> list[int]:
        """A call that writes nothing itself."""
        LOG.append("parent")
        results = [await self.stub(Purse, name).pay(1) for name in names]
        if "go on" in CONTROL:
            await until("go on")
        return results

    async def stop_once(self) -> None:
        if CONTROL.pop("stop", None):
            self.abort("as if its worker had died")

    async def ask_and_pay(self, name: str) -> int:
        LOG.append("parent")
        await self.stub(Purse, name).stop_once()
        return await self.pay(1)

    async def pay_and_ask(self, name: str) -> int:
        LOG.append("parent")
        paid = await self.pay(1)
        await self.stub(Purse, name).stop_once()
        return paid

    async def pay_both_ways(self, name: str) -> int:
        other = self.stub(Purse, name)
        return sum(await asyncio.gather(other.pay(1), other.pay(2), other.pay(1)))

    async def start(self, how: str) -> None:
        """Something that goes on when other calls have come and gone."""
        await self.storage.put("started", how)
        loop = asyncio.get_running_loop()
        if how == "task":
            self.task = asyncio.create_task(self._goes_on())
        elif how == "spawned":
            self.spawn(self._goes_on())
        elif how == "soon":
            loop.call_soon(self._calls_back, how)
        elif how == "later":
            loop.call_later(0.01, self._calls_back, how)
        elif how == "in a copy":
            context = contextvars.copy_context()
            await asyncio.sleep(0.01)
            context.run(self._calls_back, how)
        elif how == "future":
            loop.create_future().add_done_callback(lambda _: None)
            ready = control("ready")
            ready.add_done_callback(self._calls_back)
            await self._goes_on()

    async def _goes_on(self) -> None:
        await asyncio.sleep(0.01)
        self._calls_back("after a sleep")

    def _calls_back(self, _: Any) -> None:
        keyed = keyed_here()
        LOG.append(keyed.key if isinstance(keyed, keyed_calls.KeyedRun) else keyed)

    async def make_ready(self) -> None:
        if "ready" in CONTROL and not CONTROL["ready"].done():
            CONTROL["ready"].set_result(None)


class Careful(DurableObject):
    async def pay(self, amount: int) -> int:
        await self.storage.put("paid", amount)
        await self.storage.put("paid at", 17)
        return amount


class Plain(DurableObject):
    async def structure(self) -> dict[str, Any]:
        self.storage.put("n", await self.storage.get("n", 0) + 1)
        return {"b": b"\0\xff", "list": [1, None, 2.5]}


SESSION = {"key": "Client-1.0", "answered": 0}


def session(number: int, answered: int = 0) -> dict[str, Any]:
    return {"key": f"Client-1.{number}", "answered": answered}


def statuses(part: ShardCommit) -> list[int]:
    """Of the answers in it."""
    return [answer.status for answer in part.answers] + [OK for roll in part.rolls for _ in range(roll.count)]


KEYS = pytest.mark.parametrize("key", [{"key": "order 17"}, SESSION], ids=["plain", "session"])


@KEYS
async def test_a_repeated_key_is_answered_the_first_result_and_does_not_run(key: dict[str, Any]) -> None:
    world = World(Purse)
    assert await world.ask(Purse, "a", "pay", 5, **key) == 5
    assert await world.ask(Purse, "a", "pay", 5, **key) == 5
    assert await world.ask(Purse, "a", "pay", 5) == 10
    assert await world.ask(Purse, "a", "pay", 5, **key) == 5
    assert LOG == [5, 5]


@KEYS
async def test_a_repeated_key_is_answered_the_first_result_after_a_crash(key: dict[str, Any]) -> None:
    world = World(Purse)
    assert await world.ask(Purse, "a", "pay", 5, **key) == 5
    world.crash()
    assert await world.ask(Purse, "a", "pay", 5, **key) == 5
    assert world.durable(Purse, "a") == {"paid": 5}


@KEYS
async def test_what_the_first_attempt_raised_is_raised_again_also_after_a_crash(key: dict[str, Any]) -> None:
    world = World(Purse)
    for _ in range(3):
        with pytest.raises(MethodRaised, match="not 5") as raised:
            await world.ask(Purse, "a", "refuse", 5, **key)
        assert raised.value.details["type"] == "ValueError"
        world.crash()
    assert world.durable(Purse, "a") == {"refused": 5}


@KEYS
async def test_the_answer_outlives_eviction_reset_and_delete_all_of_its_object(key: dict[str, Any]) -> None:
    world = World(Purse)
    assert await world.ask(Purse, "a", "pay", 5, **key) == 5
    world.evict_idle()
    assert await world.ask(Purse, "a", "pay", 5, **key) == 5
    with pytest.raises(ObjectReset):
        await world.ask(Purse, "a", "stop")
    assert await world.ask(Purse, "a", "pay", 5, **key) == 5
    await world.ask(Purse, "a", "forget_all")
    assert await world.ask(Purse, "a", "pay", 5, **key) == 5
    assert world.durable(Purse, "a") == {}


@KEYS
async def test_the_answer_is_in_the_same_commit_as_the_writes(key: dict[str, Any]) -> None:
    world = World(Purse, auto=False)
    call = world.call(Purse, "a", "pay", 5, **key)
    await world.settle()
    commit = world.host.cut()
    (part,) = commit.shards
    assert (len(part.objects), statuses(part)) == (1, [0])
    assert not call.answered
    world.committed()
    await world.settle()
    assert call.result == 5


@KEYS
async def test_a_repeat_is_answered_only_when_the_first_result_is_durable(key: dict[str, Any]) -> None:
    world = World(Purse, auto=False)
    first = world.call(Purse, "a", "pay", 5, **key)
    await world.settle()
    early = world.call(Purse, "a", "pay", 5, **key)
    await world.settle()
    world.cut()
    late = world.call(Purse, "a", "pay", 5, **key)
    await world.settle()
    assert not early.answered
    assert not late.answered
    world.committed()
    await world.settle()
    assert [call.result for call in (first, early, late)] == [5, 5, 5]
    assert LOG == [5]


@KEYS
async def test_repeats_of_a_call_that_runs_wait_for_its_answer(key: dict[str, Any]) -> None:
    world = World(Purse)
    go_on = control("go on")
    calls = [world.call(Purse, "a", "pay_slowly", 5, **key) for _ in range(3)]
    await world.settle()
    world.check()
    assert LOG == ["slowly"]
    assert world.host.book.known_to(b"test") == set(world.calls)
    go_on.set_result(None)
    assert await world.ask_all(calls) == [5, 5, 5]
    assert LOG == ["slowly", 5]
    world.expect_nothing_forgotten()


@KEYS
async def test_if_the_first_is_reset_with_a_failed_write_the_next_one_runs(key: dict[str, Any]) -> None:
    world = World(Purse, auto=False)
    first = world.call(Purse, "a", "pay", 5, **key)
    await world.settle()
    repeat = world.call(Purse, "a", "pay", 5, **key)
    await world.settle()
    world.cut()
    another = world.call(Purse, "a", "pay", 5, **key)
    await world.settle()
    world.fail_commit()
    await world.settle()
    assert isinstance(first.error, ObjectReset)
    assert not repeat.answered
    world.commit()
    await world.settle()
    assert [repeat.result, another.result] == [5, 5]
    assert world.durable(Purse, "a") == {"paid": 5}
    assert LOG == [5, 5]
    world.expect_nothing_forgotten()


@KEYS
async def test_if_the_first_is_reset_before_its_commit_the_repeats_that_wait_run_anew(key: dict[str, Any]) -> None:
    world = World(Purse, auto=False)
    control("go on")
    first = world.call(Purse, "a", "pay_slowly", 5, **key)
    await world.settle()
    repeats = [world.call(Purse, "a", "pay_slowly", 5, **key) for _ in range(2)]
    stop = world.call(Purse, "a", "stop")
    await world.settle()
    assert isinstance(first.error, ObjectReset)
    assert isinstance(stop.error, ObjectReset)
    CONTROL["go on"].set_result(None)
    await world.settle()
    world.commit()
    await world.settle()
    assert [call.result for call in repeats] == [5, 5]
    assert LOG == ["slowly", "slowly", 5]


@KEYS
async def test_an_answer_that_was_given_and_lost_by_a_reset_of_its_object_is_none(key: dict[str, Any]) -> None:
    world = World(Purse, auto=False)
    first = world.call(Purse, "a", "pay", 5, **key)
    await world.settle()
    repeat = world.call(Purse, "a", "pay", 5, **key)
    stop = world.call(Purse, "a", "stop")
    await world.settle()
    assert isinstance(first.error, ObjectReset)
    assert isinstance(stop.error, ObjectReset)
    while world.host.output_gate.can_cut:
        world.commit()
        await world.settle()
    assert repeat.result == 5
    assert LOG == [5, 5]
    assert world.durable(Purse, "a") == {"paid": 5}


@KEYS
async def test_a_key_with_another_method_or_other_arguments_is_refused(key: dict[str, Any]) -> None:
    world = World(Purse)
    assert await world.ask(Purse, "a", "pay", 5, **key) == 5
    for method, args in (("pay", (6,)), ("refuse", (5,))):
        with pytest.raises(BadRequest, match="another method or for other arguments"):
            await world.ask(Purse, "a", method, *args, **key)
    assert world.durable(Purse, "a") == {"paid": 5}


@KEYS
@pytest.mark.parametrize("json_first", [False, True])
async def test_a_key_that_comes_again_in_the_other_codec_is_refused_and_nothing_runs_twice(
    key: dict[str, Any], json_first: bool
) -> None:
    world = World(Purse)
    for number, json in enumerate((json_first, not json_first)):
        (call,) = world.message([[number, "Purse", "a", "pay", [5], key]], json=json)
        await world.settle()
        assert isinstance(call.error, BadRequest) if number else call.result == 5
    assert world.durable(Purse, "a") == {"paid": 5}


async def test_a_plain_key_is_a_key_of_its_object_and_a_session_key_of_one_call() -> None:
    world = World(Purse)
    assert await world.ask(Purse, "a", "pay", 5, key="k") == 5
    assert await world.ask(Purse, "b", "pay", 5, key="k") == 5
    assert await world.ask(Purse, "a", "pay", 5, **session(1)) == 10
    same_shard = next(name for name in map(str, range(99)) if world.shard_of("Purse", name) == world.shard_of("Purse", "a"))
    with pytest.raises(BadRequest):
        await world.ask(Purse, same_shard, "pay", 5, **session(1))


async def test_a_call_of_a_session_that_writes_nothing_costs_no_commit_and_may_run_again() -> None:
    world = World(Purse)
    await world.ask(Purse, "a", "pay", 5)
    commits = world.commits
    assert [await world.ask(Purse, "a", "paid", **session(1)) for _ in range(2)] == [5, 5]
    assert world.commits == commits
    assert LOG == [5, "read"], "while it is remembered it does not"
    world.crash()
    assert await world.ask(Purse, "a", "paid", **session(1)) == 5
    assert LOG == [5, "read", "read"]


async def test_a_call_that_was_told_no_does_not_do_it_when_another_copy_of_it_comes_late() -> None:
    world = World(Purse)
    with pytest.raises(MethodRaised):
        await world.ask(Purse, "a", "pay_if_rich", **session(1))
    await world.ask(Purse, "a", "pay", 100)
    with pytest.raises(MethodRaised):
        await world.ask(Purse, "a", "pay_if_rich", **session(1))
    assert world.durable(Purse, "a") == {"paid": 100}


async def test_what_a_call_has_seen_that_is_not_durable_is_told_to_no_repeat_before_it_is() -> None:
    world = World(Purse, auto=False)
    world.call(Purse, "a", "pay", 5)
    first = world.call(Purse, "a", "paid", **session(1))
    again = world.call(Purse, "a", "paid", **session(1))
    await world.settle()
    world.cut()
    late = world.call(Purse, "a", "paid", **session(1))
    await world.settle()
    assert not any(call.answered for call in (first, again, late))
    world.committed()
    assert [call.result for call in (first, again, late)] == [5, 5, 5]
    assert await world.ask(Purse, "a", "paid", **session(1)) == 5
    assert LOG == [5, "read"]


@pytest.mark.parametrize("is_cut", [False, True])
async def test_what_a_call_has_seen_and_is_lost_is_told_to_no_repeat(is_cut: bool) -> None:
    world = World(Purse, auto=False)
    paid = world.call(Purse, "a", "pay", 5)
    first = world.call(Purse, "a", "paid", **session(1))
    await world.settle()
    if is_cut:
        world.cut()
    again = world.call(Purse, "a", "paid", **session(1))
    await world.settle()
    world.fail_commit()
    await world.settle()
    assert isinstance(paid.error, ObjectReset)
    assert isinstance(first.error, ObjectReset)
    assert again.result == 0, "it has run itself"
    assert await world.ask(Purse, "a", "paid", **session(1)) == 0


async def test_a_plain_key_is_kept_for_a_call_that_writes_nothing() -> None:
    world = World(Purse)
    assert await world.ask(Purse, "a", "paid", key="k") == 0
    await world.ask(Purse, "a", "pay", 5)
    world.crash()
    assert await world.ask(Purse, "a", "paid", key="k") == 0


async def test_a_session_frees_the_answers_that_it_says_have_arrived() -> None:
    world = World(Purse)
    for number in range(50):
        await world.ask(Purse, "a", "pay", 1, **session(number, answered=max(0, number - 2)))
    answers = world.stores[world.shard_of("Purse", "a")].answers
    assert answers.count == 3
    assert answers.dropped == 0
    with pytest.raises(BadRequest, match="answered long ago") as refused:
        await world.ask(Purse, "a", "pay", 1, **session(5))
    assert refused.value.outcome == "unknown"
    assert world.durable(Purse, "a") == {"paid": 50}
    assert await world.ask(Purse, "a", "pay", 1, **session(48)) == 49


@pytest.mark.parametrize(
    "key", ["nothing", "a b.1", "x.y", "x.-1", "x.01", "x.1.1x", ".1", "x." + "9" * 19, "x" * 23 + ".1", "x.٣"]
)
async def test_a_key_that_is_none_of_a_session_is_refused_with_answered(key: str) -> None:
    world = World(Purse)
    await world.ask(Purse, "a", "pay", 5, key="x.1", answered=0)
    with pytest.raises(BadRequest, match=r"SESSION\.NUMBER"):
        await world.ask(Purse, "a", "pay", 5, key=key, answered=0)


@KEYS
async def test_a_large_result_is_not_kept_and_a_repeat_says_that_the_call_was_executed(key: dict[str, Any]) -> None:
    world = World(Purse)
    size = KEPT_RESULT_BYTES_MAX + 1
    assert len(await world.ask(Purse, "a", "much", size, **key)) == size
    with pytest.raises(TooLarge, match="was not kept") as refused:
        await world.ask(Purse, "a", "much", size, **key)
    assert refused.value.outcome == "executed"
    assert world.durable(Purse, "a") == {"much": 1}


@KEYS
async def test_a_call_that_is_late_goes_on_and_its_repeat_gets_its_answer(key: dict[str, Any]) -> None:
    world = World(Purse)
    go_on = control("go on")
    late = world.call(Purse, "a", "pay_slowly", 5, deadline_ms=100, **key)
    await asyncio.wait([late.reply])
    assert late.error.outcome == "unknown"
    repeat = world.call(Purse, "a", "pay_slowly", 5, **key)
    await world.settle()
    go_on.set_result(None)
    assert await repeat.reply == 5
    world.crash()
    assert await world.ask(Purse, "a", "pay_slowly", 5, **key) == 5
    assert LOG == ["slowly", 5]


@KEYS
async def test_results_that_are_no_scalars_come_back_in_the_codec_of_the_call(key: dict[str, Any]) -> None:
    world = World(Plain)
    first = await world.ask(Plain, "a", "structure", **key)
    assert await world.ask(Plain, "a", "structure", **key) == first == {"b": b"\0\xff", "list": [1, None, 2.5]}
    assert world.durable(Plain, "a") == {"n": 1}


@pytest.mark.parametrize("method", ["structure", "missing"])
async def test_a_caller_that_speaks_json_gets_the_same_text_again(method: str) -> None:
    world = World(Plain)
    texts = []
    for _ in range(2):
        call = world.call_json(Plain, "a", method, key="k")
        await world.settle()
        texts.append(msgspec.json.encode(call.result if not call.reply.exception() else str(call.error)))
        world.crash()
    assert texts[0] == texts[1]


# Calls in several commits


@KEYS
async def test_a_call_that_was_interrupted_between_its_commits_does_not_run_again(key: dict[str, Any]) -> None:
    world = World(Purse)
    control("go on")
    first = world.call(Purse, "a", "pay_twice", 5, **key)
    await world.settle()
    assert world.durable(Purse, "a") == {"paid": 5}
    world.crash()
    with pytest.raises(Interrupted) as refused:
        await world.ask(Purse, "a", "pay_twice", 5, **key)
    assert (refused.value.outcome, refused.value.retryable) == ("unknown", False)
    assert world.durable(Purse, "a") == {"paid": 5}
    assert not first.answered


@KEYS
async def test_a_call_in_several_commits_that_comes_to_its_end_is_kept_as_any_other(key: dict[str, Any]) -> None:
    world = World(Purse)
    go_on = control("go on")
    first = world.call(Purse, "a", "pay_twice", 5, **key)
    await world.settle()
    go_on.set_result(None)
    assert await first.reply == 10
    world.crash()
    assert await world.ask(Purse, "a", "pay_twice", 5, **key) == 10
    assert world.durable(Purse, "a") == {"paid": 10}


@KEYS
async def test_a_call_that_only_waits_while_others_write_runs_again_after_a_crash(key: dict[str, Any]) -> None:
    world = World(Purse)
    control("go on")
    world.call(Purse, "a", "pay_slowly", 5, **key)
    await world.settle()
    assert await world.ask(Purse, "a", "pay", 1) == 1
    world.crash()
    go_on = control("go on")
    again = world.call(Purse, "a", "pay_slowly", 5, **key)
    await world.settle()
    go_on.set_result(None)
    assert await again.reply == 6


@KEYS
async def test_a_call_that_writes_waits_for_no_disk_that_is_behind_so_that_it_stays_one_group(
    key: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "UNDURABLE_BYTES_MAX", 0)
    world = World(Careful, auto=False)
    call = world.call(Careful, "a", "pay", 5, **key)
    await world.settle()
    (part,) = world.host.cut().shards
    assert statuses(part) == [0], "not only a mark"
    world.committed()
    await world.settle()
    assert call.result == 5


# Calls of calls


@KEYS
async def test_a_call_that_runs_again_does_not_do_twice_what_it_asks_of_others(key: dict[str, Any]) -> None:
    world = World(Purse)
    control("go on")
    world.call(Purse, "a", "pay_others", "b", "c", **key)
    await world.settle(50)
    assert world.durable(Purse, "c") == {"paid": 1}
    world.crash()
    del CONTROL["go on"]
    assert await world.ask(Purse, "a", "pay_others", "b", "c", **key) == [1, 1]
    assert LOG == ["parent", 1, 1, "parent"]
    assert world.durable(Purse, "b") == world.durable(Purse, "c") == {"paid": 1}
    assert await world.ask(Purse, "a", "pay_others", "b", "c", **key) == [1, 1]
    assert LOG == ["parent", 1, 1, "parent"]


@KEYS
async def test_a_call_that_fails_because_another_object_was_lost_and_has_written_nothing_runs_again(key: dict[str, Any]) -> None:
    world = World(Purse)
    control("stop")
    with pytest.raises(ObjectReset):
        await world.ask(Purse, "a", "ask_and_pay", "b", **key)
    assert await world.ask(Purse, "a", "ask_and_pay", "b", **key) == 1
    assert await world.ask(Purse, "a", "ask_and_pay", "b", **key) == 1
    assert LOG == ["parent", "parent", 1]
    assert world.durable(Purse, "a") == {"paid": 1}


@KEYS
async def test_a_call_that_has_written_and_then_fails_because_another_object_was_lost_does_not_run_again(
    key: dict[str, Any],
) -> None:
    world = World(Purse)
    control("stop")
    for _ in range(2):
        with pytest.raises(MethodRaised, match="as if its worker had died"):
            await world.ask(Purse, "a", "pay_and_ask", "b", **key)
    assert LOG == ["parent", 1]
    assert world.durable(Purse, "a") == {"paid": 1}


@KEYS
async def test_several_calls_of_one_call_to_one_object_are_different_calls(key: dict[str, Any]) -> None:
    world = World(Purse)
    assert await world.ask(Purse, "a", "pay_both_ways", "b", **key) == 1 + 3 + 4
    assert await world.ask(Purse, "a", "pay_both_ways", "b", **key) == 1 + 3 + 4
    assert world.durable(Purse, "b") == {"paid": 4}


async def test_what_a_session_asked_of_others_is_freed_with_its_call() -> None:
    world = World(Purse)
    for number in range(5):
        await world.ask(Purse, "a", "pay_others", "a2", **session(number, answered=number))
    kept = sum(store.answers.count for store in world.stores.values())
    assert kept <= 4
    for store in world.stores.values():
        store.answers.check_invariants()


@pytest.mark.parametrize("how", ["task", "spawned", "soon", "later", "in a copy", "future"])
async def test_what_a_call_starts_counts_to_it_when_others_of_its_object_have_come_since(how: str) -> None:
    world = World(Purse)
    await world.ask_all(world.session([pay(1, 5)]))
    calls = [[2, "Purse", "a", "start", [how]], [3, "Purse", "a", "make_ready"], *(pay(number, 1) for number in range(4, 9))]
    first = world.session(calls)
    await world.settle()
    await world.ask_all(world.session([pay(number, 1) for number in range(10, 20)]))
    await world.ask_all(first)
    await asyncio.sleep(0.05)
    await world.settle(50)
    keys = [each for each in LOG if each != 5 and each != 1]
    assert keys
    assert set(keys) == {2} if how != "spawned" else set(keys) == {None}, keys


# Batches behind the head of a session


def pay(number: int, amount: int, name: str = "a", options: Any = None) -> list[Any]:
    return [number, "Purse", name, "pay", [amount], options]


JSON = pytest.mark.parametrize("json", [False, True], ids=["msgpack", "json"])


@JSON
async def test_calls_of_a_batch_have_their_ids_as_keys_and_a_batch_that_comes_again_runs_nothing(json: bool) -> None:
    world = World(Purse)
    rows = [pay(1, 5), pay(2, 7), pay(3, 1, "b"), [4, "Purse", "a", "paid"]]
    assert await world.ask_all(world.session(rows, json=json)) == [5, 12, 1, 12]
    ran = list(LOG)
    assert await world.ask_all(world.session(rows, json=json)) == [5, 12, 1, 12]
    world.crash()
    assert await world.ask_all(world.session(rows[:3], json=json)) == [5, 12, 1]
    assert ran == LOG
    assert await world.ask_all(world.session([pay(5, 1)], json=json)) == [13]


async def test_batches_of_both_codecs_come_one_after_the_other() -> None:
    world = World(Purse)
    for number, json in enumerate([True, False, True, False], 1):
        rows = [[10 * number, "Purse", "a", "pay", [1]], [10 * number + 1, "Purse", "a", "paid"]]
        assert await world.ask_all(world.session(rows, name=f"Client-{json}", json=json)) == [number, number]


async def test_a_write_that_is_not_waited_for_is_with_its_answer_in_one_commit() -> None:
    world = World(Purse, auto=False)
    first = world.session([[1, "Purse", "a", "pay_hastily"]])
    await world.settle()
    assert not first[0].answered, "who repeats the call is told what it was answered, so that must be durable"
    world.commit()
    world.crash()
    again = world.session([[1, "Purse", "a", "pay_hastily"]])
    await world.settle()
    assert [call.result for call in [*first, *again]] == [1, 1]


async def test_what_a_call_has_left_behind_of_its_context_counts_to_the_call_in_which_it_runs() -> None:
    world = World(Purse)
    for number in range(0, 4, 2):  # In memory, and then in the first step of a batch.
        rows = [[number + 1, "Purse", "a", "leave_context"], [number + 2, "Purse", "b", "leave_context"]]
        assert await world.ask_all(world.session(rows)) == [0, 0]
    assert await world.ask(Purse, "a", "in_context_left") is None


async def test_what_comes_again_while_its_answer_is_not_durable_waits_for_that() -> None:
    world = World(Purse, auto=False)
    first = world.session([pay(101, 5), pay(102, 7)])
    await world.settle()
    again = world.call(Purse, "a", "pay", 5, **session(101))
    await world.settle()
    world.cut()
    last = world.call(Purse, "a", "pay", 7, **session(102))
    await world.settle()
    assert not any(call.answered for call in [*first, again, last])
    world.committed()
    await world.settle()
    assert [call.result for call in [*first, again, last]] == [5, 12, 5, 12]
    assert LOG == [5, 7]


async def test_numbers_may_come_in_any_order_and_each_runs_once() -> None:
    world = World(Purse)
    assert await world.ask_all(world.session([pay(9, 1)])) == [1]
    assert await world.ask_all(world.session([pay(4, 1), pay(12, 1), pay(2, 1)])) == [2, 3, 4]
    assert await world.ask_all(world.session([pay(2, 1), pay(4, 1), pay(9, 1), pay(12, 1)])) == [4, 2, 1, 3]
    assert len(LOG) == 4


async def test_calls_of_a_commit_that_failed_run_when_they_come_again() -> None:
    world = World(Purse, auto=False)
    lost = world.session([pay(1, 5), pay(2, 7, "b")])
    await world.settle()
    world.fail_commit()
    for call in lost:
        assert isinstance(call.error, ObjectReset)
    again = world.session([pay(1, 5), pay(2, 7, "b")])
    await world.settle()
    world.commit()
    assert [call.result for call in again] == [5, 7]
    assert LOG == [5, 7, 5, 7]


async def test_of_the_calls_of_one_commit_those_of_an_object_that_is_reset_are_in_it_no_more() -> None:
    world = World(Purse, auto=False)
    calls = world.session([pay(1, 5), pay(2, 7, "b"), pay(3, 9, "c")])
    await world.settle()
    stopped = world.session([[4, "Purse", "b", "stop"]])
    await world.settle()
    world.commit()
    assert [calls[0].result, calls[2].result] == [5, 9]
    assert isinstance(calls[1].error, ObjectReset)
    assert isinstance(stopped[0].error, ObjectReset)
    again = world.session([pay(1, 5), pay(2, 7, "b"), pay(3, 9, "c")])
    await world.settle()
    world.commit()
    assert [call.result for call in again] == [5, 7, 9]
    assert LOG == [5, 7, 9, 7]


async def test_when_all_answers_of_a_commit_are_lost_the_next_ones_take_none_of_them_along() -> None:
    world = World(Purse, auto=False)
    names = [f"purse {number}" for number in range(20)]
    shard = world.shard_of("Purse", names[0])
    other = next(name for name in names if world.shard_of("Purse", name) != shard)
    world.session([pay(1, 5, names[0])])
    await world.settle()
    world.session([[2, "Purse", names[0], "stop"]])
    await world.settle()
    world.session([pay(3, 7, other)])
    await world.settle()
    world.commit()
    (again,) = world.session([pay(1, 5, names[0])])
    await world.settle()
    world.commit()
    assert again.result == 5
    assert LOG == [5, 7, 5]


async def test_answers_of_a_commit_that_takes_not_all_follow_the_writes_of_their_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "COMMIT_BYTES_MAX", 300)
    world = World(Purse, auto=False)
    rows = [pay(number, number, f"purse {number}") for number in range(1, 21)]
    world.session(rows)
    await world.settle()
    commits = 0
    while world.host.output_gate.can_cut:
        world.cut()
        commits += 1
        for part in world.host.output_gate.in_flight.shards:  # type: ignore[union-attr]
            assert len(statuses(part)) == len(part.objects)
        world.committed()
    assert commits > 3
    world.crash()
    again = world.session(rows)
    await world.settle()
    assert [call.result for call in again] == list(range(1, 21))
    assert len(LOG) == 20


async def test_a_call_of_a_batch_may_have_a_key_of_its_own_and_a_deadline() -> None:
    world = World(Purse)
    rows = [pay(1, 5, options={"key": "order 17"}), pay(2, 7, options={"deadline_ms": 10_000})]
    assert await world.ask_all(world.session(rows)) == [5, 12]
    rows = [pay(3, 5, options={"key": "order 17"}), pay(2, 7, options={"deadline_ms": 5_000})]
    assert await world.ask_all(world.session(rows)) == [5, 12]
    assert await world.ask(Purse, "a", "pay", 7, **session(2)) == 12, "the same key, in its options"
    assert LOG == [5, 7]


@JSON
@pytest.mark.parametrize(
    ("name", "answered"), [("", 0), ("a session with spaces", 0), ("x" * 23, 0), ("s", -1), ("s", "1"), ("s", None), ("s", 2**63)]
)
async def test_a_batch_whose_head_is_wrong_is_refused_as_a_whole(json: bool, name: str, answered: Any) -> None:
    world = World(Purse)
    for call in world.session([pay(1, 5), pay(2, 7)], name=name, answered=answered, json=json):
        with pytest.raises(BadRequest, match="the head of a session"):
            await call.reply
    assert LOG == []


@JSON
@pytest.mark.parametrize("wrong", ["1", -1, 10**18])
async def test_an_id_that_is_no_number_of_a_session_is_refused_and_those_beside_it_run(json: bool, wrong: Any) -> None:
    world = World(Purse)
    good, bad, last = world.session([pay(1, 5), pay(wrong, 7), pay(2, 9)], json=json)
    with pytest.raises(BadRequest, match="its number"):
        await bad.reply
    assert (await good.reply, await last.reply) == (5, 14)


async def test_a_number_that_was_answered_is_freed_and_never_runs_again() -> None:
    world = World(Purse)
    await world.ask_all(world.session([pay(number, 1) for number in range(1, 101)]))
    await world.ask_all(world.session([pay(101, 1)], answered=101))
    assert sum(store.answers.count for store in world.stores.values()) == 1
    for boots in range(2):
        (late,) = world.session([pay(50, 1)])
        with pytest.raises(BadRequest, match="answered long ago"):
            await late.reply
        if not boots:
            world.crash()
    assert len(LOG) == 101


async def test_a_call_of_a_session_that_had_to_leave_does_not_run_again_after_a_restart() -> None:
    """The memory for answers is full, and nothing is kept of the session but its floor."""
    world = World(Purse, keys=KeyBounds(bytes_max=SHARDS * 6_000))
    await world.ask_all(world.session([pay(number, 1) for number in range(1, 4)], answered=1))
    (store,) = (store for store in world.stores.values() if "Client-1" in store.answers.groups)
    others = itertools.count()
    while "Client-1" in store.answers.groups:
        await world.ask(Purse, "a", "much", 1_000, key=f"Other-{next(others)}.1", answered=0)
    ran = len(LOG)
    for _ in range(2):
        world.crash()
        for number in (2, 3):
            (late,) = world.session([pay(number, 1)], answered=1)
            with pytest.raises(BadRequest, match="answered long ago"):
                await late.reply
        assert len(LOG) == ran
    (fresh,) = world.session([pay(4, 1)], answered=1)
    await fresh.reply
    assert len(LOG) == ran + 1


@KEYS
@pytest.mark.parametrize("what", ["large", "small", "half"])
async def test_a_result_that_cannot_be_sent_is_the_error_of_its_call_alone(key: dict[str, Any], what: str) -> None:
    world = World(Purse, auto=False)
    bad, good = world.call(Purse, "a", "pay_and_answer", what, **key), world.call(Purse, "b", "pay", 7)
    await world.settle()
    world.commit()
    assert good.result == 7
    world.crash()
    again = world.call(Purse, "a", "pay_and_answer", what, **key)
    await world.settle()
    with pytest.raises(MethodRaised, match="the result cannot be sent"):
        await again.reply
    assert LOG == [1, 7], "it has run, and does not run again"
    assert bad.answered


@pytest.mark.parametrize("numbers", [(1, 2, 3), (2, 1, 3), (1, 3)], ids=["among others", "first", "alone"])
async def test_a_number_that_cannot_be_sent_is_the_error_of_its_call_alone_in_a_batch_too(numbers: tuple[int, ...]) -> None:
    world = World(Purse, auto=False)
    large = [[number, "Purse", "b", "pay_and_answer", ["large"]] for number in numbers if number != 2]
    rows = sorted([*large, *([pay(2, 7)] if 2 in numbers else [])], key=lambda row: numbers.index(row[0]))
    world.session(rows)
    await world.settle()
    world.commit()
    ran = list(LOG)
    assert len(ran) == len(rows)
    for _ in range(2):
        again = world.session(rows)
        await world.settle()
        for number, call in zip(numbers, again, strict=True):
            if number == 2:
                assert call.result == 7
            else:
                with pytest.raises(MethodRaised, match="the result cannot be sent"):
                    await call.reply
        world.crash()
    assert ran == LOG, "they have run, and do not run again"


@KEYS
@pytest.mark.parametrize(("what", "result"), [("largest", 2**64 - 1), ("text", "é"), ("list", [1, "é"])])
async def test_a_result_comes_again_as_it_was(key: dict[str, Any], what: str, result: Any) -> None:
    world = World(Purse)
    assert await world.ask(Purse, "a", "pay_and_answer", what, **key) == result
    assert await world.ask(Purse, "a", "pay_and_answer", what, **key) == result
    world.crash()
    assert await world.ask(Purse, "a", "pay_and_answer", what, **key) == result
    assert LOG == [1]


@pytest.mark.parametrize("how", ["plain", "session", "batch"])
@pytest.mark.parametrize(("what", "result"), [("large", 2**70), ("small", -(2**63) - 1)])
async def test_an_integer_that_only_json_carries_comes_again_as_it_was(how: str, what: str, result: int) -> None:
    world = World(Purse)
    options = {"plain": {"key": "order 17"}, "session": session(1), "batch": None}[how]
    rows = [[1, "Purse", "a", "pay_and_answer", [what], options], pay(2, 7, "b")]
    for crash in (False, True, False, True):
        calls = world.session(rows, json=True) if how == "batch" else world.message(rows[:1], json=True)
        assert await world.ask_all(calls) == [result, 7][: len(calls)]
        if crash:
            world.crash()
    assert LOG[:2] == ([1, 7] if how == "batch" else [1]), "it does not run again"
    assert LOG.count(1) == 1


async def test_a_session_is_known_to_the_end_of_its_batch_however_many_others_come_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_calls, "SESSIONS_KNOWN_MAX", 2)
    world = World(Purse)
    await world.ask_all([*world.session([pay(101, 1)], name="a"), *world.session([pay(102, 1)], name="b")])
    world.auto = False
    first = world.session([pay(103, 1, options={"key": "other.1", "answered": 0}), pay(104, 7)], name="a")
    await world.settle()
    world.session([pay(104, 7)], name="a")
    await world.settle()
    assert LOG == [1, 1, 1, 7]
    world.lost_calls.add(104)  # Answered twice.
    del world.calls[104]
    world.commit()
    assert await first[0].reply == 3


@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_session_is_known_while_what_it_was_answered_is_not_durable(
    monkeypatch: pytest.MonkeyPatch, *, is_cut: bool
) -> None:
    """However many others come up. Its calls once ran twice, when a client repeated its batch then."""
    monkeypatch.setattr(keyed_calls, "SESSIONS_KNOWN_MAX", 2)
    world = World(Purse)
    await world.ask(Purse, "a", "pay", 1)
    world.auto = False
    world.session([pay(107, 7), pay(108, 8)], name="a")
    await world.settle()
    if is_cut:
        world.cut()
    for name in "bcd":
        world.session([pay(ord(name), 1)], name=name)
        await world.settle()
    world.lost_calls |= {107, 108}  # Answered twice.
    world.session([pay(107, 7), pay(108, 8)], name="a")
    await world.settle()
    assert LOG == [1, 7, 8, 1, 1, 1]
    if is_cut:
        world.committed()
    world.commit()
    assert LOG == [1, 7, 8, 1, 1, 1]
    for number in (107, 108):
        del world.calls[number]


async def test_a_number_that_its_session_says_was_answered_does_not_run_however_it_comes() -> None:
    world = World(Purse)
    await world.ask(Purse, "a", "pay", 1)
    in_batch, runs = world.session([pay(105, 7), pay(110, 9)], answered=110)
    in_options = world.call(Purse, "a", "pay", 8, **session(115, answered=120))
    for call in (in_batch, in_options):
        with pytest.raises(BadRequest, match="answered long ago"):
            await call.reply
    assert await runs.reply == 10
    assert LOG == [1, 9]
