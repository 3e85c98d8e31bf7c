"""Whether anybody listens is known within the time that was named, however many addresses there are."""

from __future__ import annotations

import types
from typing import Any

import pytest

from tidegate.runtime.cli import asking
from tidegate.runtime.cli.asking import check_somebody_listens
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.wire.access import ClientKey


class Clock:
    """Goes on by what is waited for; nobody answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, addresses: int) -> None:
        self.now = 0.0
        self.connected: list[str] = []
        found = [f"tcp://127.0.0.{number + 1}:7" for number in range(addresses)]

        def look_up(_: str, within_s: float) -> list[str]:
            self.now += within_s / 2
            return found

        def connect(address: tuple[str, int], timeout_s: float) -> Any:
            self.connected.append(address[0])
            self.now += timeout_s
            raise TimeoutError

        def is_greeted(_: str, until_s: float, __: ClientKey) -> bool:
            self.now = max(self.now, until_s)
            return False

        monkeypatch.setattr(asking, "time", types.SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(asking, "socket", types.SimpleNamespace(create_connection=connect))
        monkeypatch.setattr(asking, "look_up", look_up)
        monkeypatch.setattr(asking, "_is_greeted", is_greeted)


@pytest.mark.parametrize("key", [None, ClientKey("a", "b", "c")])
def test_all_addresses_of_a_name_together_are_given_the_time_that_was_named(
    monkeypatch: pytest.MonkeyPatch, key: ClientKey | None
) -> None:
    clock = Clock(monkeypatch, addresses=8)
    with pytest.raises(OperatorError, match="nobody answered within 2 s"):
        check_somebody_listens("tcp://shop.example:7", 2.0, key)
    assert clock.now == pytest.approx(2.0)
    assert len(clock.connected) == 8


def test_a_name_without_addresses_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, addresses=0)
    with pytest.raises(OperatorError, match="the name has no address"):
        check_somebody_listens("tcp://shop.example:7", 2.0)
