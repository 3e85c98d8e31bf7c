"""Transactions over the cache and the store (scenarios 152 to 179, what tests/shard does not have)."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.support.host_world import World
from tests.support.stage import Actor, act, asked, durable_and_evicted, held
from tests.support.storage_world import StorageWorld, finish, run
from tidegate.runtime.errors import ObjectReset
from tidegate.runtime.limits import VALUE_BYTES_MAX


def test_reads_in_a_transaction_fall_through_and_are_cached() -> None:
    """Scenario 152."""
    world = durable_and_evicted(foo=1)

    async def scenario() -> None:
        async with world.storage.transaction() as txn:
            assert await txn.get("foo") == 1
            assert await txn.get("none") is None

    run(scenario())
    with asked(world) as keys:
        assert (world.get("foo"), world.get("none")) == (1, None)
    assert keys == []


def test_deletes_in_a_transaction_count_what_is_only_in_the_store_and_what_the_transaction_wrote() -> None:
    """Scenarios 154 and 179."""
    world = durable_and_evicted(a=1, b=2, c=3)

    async def scenario() -> None:
        async with world.storage.transaction() as txn:
            assert await txn.delete("a") is True
            assert await txn.delete("a") is False
            assert await txn.delete_many(["a", "b", "c", "none"]) == 2
            txn.put("k", 1)
            assert await txn.delete("k") is True
            assert await txn.list() == {}
            assert not world.output_gate.can_cut

    run(scenario())
    world.commit()
    assert world.durable() == {}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_limited_list_in_a_transaction_is_full_though_it_has_deleted_rows_of_the_range(reverse: bool) -> None:
    """Scenario 155."""
    world = durable_and_evicted(**{f"k{n}": n for n in range(10)})

    async def scenario() -> None:
        async with world.storage.transaction() as txn:
            await txn.delete_many(["k0", "k1", "k8"])
            txn.put("k55", "new")
            listed = await txn.list(start="k", end="z", limit=5, reverse=reverse)
            present = ["k2", "k3", "k4", "k5", "k55", "k6", "k7", "k9"]
            assert list(listed) == (present[::-1] if reverse else present)[:5]

    run(scenario())


async def test_writes_of_one_transaction_made_in_different_turns_are_one_commit() -> None:
    """Scenario 160."""
    world = World(Actor)

    async def five_puts(actor: Actor) -> None:
        async with actor.storage.transaction() as txn:
            for number in range(5):
                await txn.put(f"k{number}", number)
                await asyncio.sleep(0.001)

    await act(world, five_puts).reply
    assert world.commits == 1
    assert world.durable(Actor, "one") == {f"k{n}": n for n in range(5)}


def test_a_put_many_with_one_value_too_large_writes_none_and_an_earlier_put_stays() -> None:
    """Scenario 170."""
    world = StorageWorld()
    too_much = {"a": 1, "b": "x" * VALUE_BYTES_MAX, "c": 3}
    world.put("before", 1)
    with pytest.raises(ValueError, match=r"bytes|MiB"):
        world.storage.put_many(too_much)
    assert world.list() == {"before": 1}

    async def scenario() -> None:
        async with world.storage.transaction() as txn:
            txn.put("inside", 1)
            with pytest.raises(ValueError):
                txn.put_many(too_much)
            txn.put_many({"joins": 1})

    run(scenario())
    assert world.list() == {"before": 1, "inside": 1, "joins": 1}


@pytest.mark.parametrize("confirmed", [(), (0,), (1,), (2,), (0, 2)], ids=str)
@pytest.mark.parametrize("rolled_back", [None, 2], ids=["all kept", "innermost rolled back"])
def test_messages_wait_after_the_root_commit_if_any_kept_level_wrote_something_confirmed(
    confirmed: tuple[int, ...], rolled_back: int | None
) -> None:
    """Scenarios 159 and 174."""
    world = StorageWorld()

    async def level(depth: int) -> None:
        with contextlib.suppress(KeyError):
            async with world.storage.transaction() as txn:
                txn.put(f"level{depth}", depth, allow_unconfirmed=depth not in confirmed)
                if depth < 2:
                    await level(depth + 1)
                assert not world.held, "nothing is held before the root commits"
                if depth == rolled_back:
                    raise KeyError

    run(level(0))
    assert world.held == bool(set(confirmed) - {rolled_back})


WRITES = {
    "put": lambda txn, option: txn.put("k", 1, **option),
    "put_many": lambda txn, option: txn.put_many({"k": 1}, **option),
    "delete": lambda txn, option: txn.delete("old", **option),
    "delete_many": lambda txn, option: txn.delete_many(["old"], **option),
    "delete_all": lambda txn, option: txn.delete_all(**option),
    "set_alarm": lambda txn, option: txn.set_alarm(9_999_999_999, **option),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("unconfirmed", [False, True], ids=["confirmed", "unconfirmed"])
@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "in a transaction"])
def test_every_write_holds_messages_from_when_it_takes_effect_unless_it_is_unconfirmed(
    write: str, unconfirmed: bool, in_transaction: bool
) -> None:
    """Scenarios 175, 282 and 284."""
    world = durable_and_evicted(old=1)
    option = {"allow_unconfirmed": True} if unconfirmed else {}

    async def scenario() -> None:
        async with world.storage.transaction() as txn:
            await WRITES[write](txn, option)
            assert not world.held

    if in_transaction:
        run(scenario())
    else:
        finish(WRITES[write](world.storage, option))
    assert world.held is not unconfirmed
    world.commit()
    assert world.done == 2
    assert not world.held


def test_one_confirmed_write_among_unconfirmed_ones_holds_messages() -> None:
    """Scenario 284."""
    world = StorageWorld()
    world.put("a", 1, allow_unconfirmed=True)
    assert not world.held
    world.put("b", 1)
    world.put("c", 1, allow_unconfirmed=True)
    assert world.held


async def test_a_commit_that_fails_while_a_transaction_is_open_takes_the_transaction_with_it() -> None:
    """Scenario 177."""
    world = World(Actor, auto=False)
    go_on = asyncio.Event()
    seen: list[str] = []

    async def write_then_transact(actor: Actor) -> None:
        actor.storage.put("before", 1)
        with contextlib.suppress(asyncio.CancelledError):
            async with actor.storage.transaction() as txn:
                txn.put("inside", 1)
                try:
                    await go_on.wait()
                finally:
                    for use in (lambda: txn.put("more", 1), lambda: txn.get("before")):
                        try:
                            use()
                        except ObjectReset:
                            seen.append("refused")

    call = act(world, write_then_transact)
    await world.settle()
    assert held(world)
    world.fail_commit()
    with pytest.raises(ObjectReset):
        await call.reply
    await world.settle()
    assert world.durable(Actor, "one") == {}
    assert await world.ask(Actor, "one", "get", "inside") is None
    assert "refused" in seen
