"""Books of accounts after any crash: all money is somewhere, and once."""

from __future__ import annotations

from typing import Any

from tidegate.runtime.chaos.verdict.money import find_money


def accounts(**books: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"a": {"balance": 1_000}, "b": {"balance": 1_000}, **books}


def test_money_that_has_arrived_is_all_there() -> None:
    a = {"balance": 900, "sent/b": 1}
    assert find_money(accounts(a=a, b={"balance": 1_100, "last/a": 1, "missing/a": []}), 0) == []


def test_money_that_left_and_never_came_is_in_doubt_and_not_lost() -> None:
    assert find_money(accounts(a={"balance": 900, "sent/b": 1, "doubt/b/1": 100}), 0) == []
    a = {"balance": 850, "sent/b": 2, "doubt/b/1": 100}
    assert find_money(accounts(a=a, b={"balance": 1_050, "last/a": 2, "missing/a": [1]}), 0) == []


def test_money_in_doubt_that_did_come_is_counted_once() -> None:
    a = {"balance": 900, "sent/b": 1, "doubt/b/1": 100}
    assert find_money(accounts(a=a, b={"balance": 1_100, "last/a": 1, "missing/a": []}), 0) == []


def test_money_that_is_nowhere_is_missed() -> None:
    (wrong,) = find_money(accounts(a={"balance": 900, "sent/b": 1}), 0)
    assert wrong == "2 accounts hold 1900, 0 more have left and not come: that is not 2000"


def test_a_deposit_that_was_refused_and_came_nevertheless_makes_money() -> None:
    a = {"balance": 1_000, "sent/b": 1}  # Taken back.
    assert len(find_money(accounts(a=a, b={"balance": 1_100, "last/a": 1, "missing/a": []}), 0)) == 1


def test_a_deposit_that_came_twice_is_told() -> None:
    a = {"balance": 900, "sent/b": 1}
    found = find_money(accounts(a=a, b={"balance": 1_200, "last/a": 1, "missing/a": [], "repeated": 1}), 0)
    assert found[0] == "Account/b was given 1 deposits twice"


def test_a_deposit_whose_transfer_was_lost_by_its_sender_is_told() -> None:
    found = find_money(accounts(b={"balance": 1_100, "last/a": 3, "missing/a": [1, 2]}), 0)
    assert found[0] == "Account/b was given transfer 3, which a has never sent"


def test_a_payment_of_unknown_outcome_may_have_been_received_and_not_yet_paid() -> None:
    books = accounts(b={"balance": 1_050})
    assert len(find_money(books, 0)) == 1
    assert len(find_money(books, 49)) == 1
    assert find_money(books, 50) == []
    assert len(find_money(accounts(a={"balance": 950}), 50)) == 1, "paid and not received"
