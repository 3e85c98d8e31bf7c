"""Settings with which a stream may be trusted; test_stream.py has real ones."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.shard.replicated.settings import ABSENT, stream_settings, wrong_settings

WANTED = stream_settings("ours", "tidegate.log.ours", 3, -1)


def test_a_stream_as_it_is_made_is_right_whatever_room_it_has() -> None:
    assert wrong_settings(WANTED, WANTED) == []
    assert wrong_settings({**WANTED, "max_bytes": 1, "placement": {"tags": ["ssd"]}, "compression": "none"}, WANTED) == []


@pytest.mark.parametrize("key", [key for key in WANTED if key != "max_bytes"])
def test_what_is_other_or_not_said_is_wrong(key: str) -> None:
    assert wrong_settings({**WANTED, key: "other"}, WANTED) == [f"{key} is 'other' instead of {WANTED[key]!r}"]
    without = {each: value for each, value in WANTED.items() if each != key}
    assert wrong_settings(without, WANTED) == [f"{key} is None instead of {WANTED[key]!r}"]


@pytest.mark.parametrize("key", ABSENT)
def test_what_must_not_be_there_is_wrong_with_the_reason(key: str) -> None:
    assert wrong_settings({**WANTED, key: True}, WANTED) == [f"{key} is True: {ABSENT[key]}"]


@pytest.mark.parametrize("absent", [None, False, 0, "", []])
def test_absent_is_whatever_says_so(absent: Any) -> None:
    assert wrong_settings({**WANTED, **dict.fromkeys(ABSENT, absent)}, WANTED) == []


@pytest.mark.parametrize(("size", "is_wrong"), [(-1, False), (0, False), (1_000_000, True)])
def test_messages_may_be_as_large_as_the_servers_take_them(size: int, is_wrong: bool) -> None:
    assert bool(wrong_settings({**WANTED, "max_msg_size": size}, WANTED)) == is_wrong
