"""What callers may rely on, with a real service."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import tidegate
from conftest import Running

from shop import Stock


def test_what_is_added_can_be_sold(client: tidegate.SyncClient) -> None:
    tea = client.stub(Stock, "tea")
    assert tea(Stock.add, 3) == 3
    assert tea(Stock.sell, 2) == 1
    assert tea(Stock.left) == 1
    assert client.stub(Stock, "milk")(Stock.left) == 0


def test_what_is_not_there_is_not_sold(client: tidegate.SyncClient) -> None:
    tea = client.stub(Stock, "tea")
    tea(Stock.add, 1)
    with pytest.raises(ValueError, match="cannot sell 2 of 1"):
        tea(Stock.sell, 2)
    assert tea(Stock.left) == 1


def test_nobody_is_sold_the_same_piece_twice(client: tidegate.SyncClient) -> None:
    tea = client.stub(Stock, "tea")
    tea(Stock.add, 20)
    with ThreadPoolExecutor(8) as buyers:
        left = list(buyers.map(lambda _: tea(Stock.sell), range(20)))
    assert sorted(left) == list(range(20))


def test_what_was_answered_is_there_after_a_restart(running: Running) -> None:
    with running() as client:
        client.stub(Stock, "tea")(Stock.add, 5)
    with running() as client:
        assert client.stub(Stock, "tea")(Stock.left) == 5
