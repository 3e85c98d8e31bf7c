"""Money is neither lost nor made, whoever dies when."""

import pytest
from bank import Account, Bank

from tidegate.testing import Objects, explore


@explore(schedules=60)
async def test_a_transfer_arrives_once_under_every_schedule(objects: Objects) -> None:
    bank = objects(Bank, "main")
    await bank.open("alice", 100)
    await bank.open("bob", 0)
    for _ in range(2):  # Its caller asks again, with the same id.
        await objects.attempt(bank.transfer("alice", "bob", 30, "rent"))
    await objects.clock.advance("1m")
    assert [await objects(Account, name).balance() for name in ("alice", "bob")] == [70, 30]
    assert await bank.total() == 100


async def test_what_is_not_there_is_not_sent(objects: Objects) -> None:
    bank = objects(Bank, "main")
    await bank.open("alice", 10)
    with pytest.raises(ValueError, match="alice has 10, not 30"):
        await bank.transfer("alice", "bob", 30, "rent")
    with pytest.raises(ValueError, match="cannot be"):
        await bank.transfer("alice", "alice", 1, "loop")
    assert await bank.total() == 10


async def test_transfers_without_an_id_are_numbered(objects: Objects) -> None:
    bank = objects(Bank, "main")
    await bank.open("alice", 10)
    for _ in range(2):
        await bank.transfer("alice", "bob", 1)
    assert await objects(Account, "bob").balance() == 2


@pytest.mark.tidegate(workers=2)
async def test_an_account_that_could_not_be_reached_is_paid_by_the_alarm(objects: Objects) -> None:
    alice, bob = objects(Account, "alice"), objects(Account, "bob")
    await alice.receive(100, "salary")
    objects.crash(at="call", of=bob)
    with pytest.raises(Exception, match="crashed"):
        await alice.send("bob", 30, "rent")
    assert (await alice.balance(), await alice.holdings(), await bob.balance()) == (70, 100, 0)
    await objects.clock.advance("2s")
    assert (await alice.holdings(), await bob.balance()) == (70, 30)
