"""runtime/shares.py: one client alone gets half of all room, many get as much as is free, and it is seldom counted."""

from __future__ import annotations

from collections.abc import Iterable

from tidegate.runtime.shares import Shares

TOTAL = 1_600


class Room:
    """Who is in it, and how often that was counted."""

    def __init__(self) -> None:
        self.present: list[bytes] = []
        self.counted = 0
        self.shares = Shares(TOTAL, self.whose)

    def whose(self) -> Iterable[bytes]:
        self.counted += 1
        return self.present

    def enter(self, client: bytes, times: int = 1) -> int:
        """How many found room."""
        before = len(self.present)
        for _ in range(times):
            if self.shares.takes(client, len(self.present)):
                self.present.append(client)
        return len(self.present) - before


def test_one_client_alone_gets_half_and_the_others_still_find_room() -> None:
    room = Room()
    assert room.enter(b"greedy", 10 * TOTAL) == TOTAL // 2
    assert room.enter(b"polite", 10) == 10
    assert room.enter(b"greedy", 10) == 0


def test_clients_that_want_everything_get_the_same_and_leave_as_much_for_another() -> None:
    room = Room()
    for _ in range(TOTAL):
        for client in range(9):
            room.enter(b"%d" % client)
    each = [room.present.count(b"%d" % client) for client in range(9)]
    assert min(each) == TOTAL // 10
    assert max(each) <= TOTAL // 10 + 1
    assert room.enter(b"other", TOTAL) >= TOTAL // 20


def test_nobody_is_counted_while_half_is_free_nor_with_each_call_later() -> None:
    room = Room()
    room.enter(b"a", TOTAL // 2 - 1)
    assert room.counted == 0
    room.enter(b"b", 10 * TOTAL)
    room.enter(b"a", 10 * TOTAL)
    assert room.counted == 1


def test_who_has_been_answered_finds_room_again() -> None:
    room = Room()
    room.enter(b"greedy", TOTAL)
    room.enter(b"other", TOTAL // 4)
    assert room.enter(b"greedy") == 0
    del room.present[: TOTAL // 8]
    del room.present[-TOTAL // 8 :]
    assert room.enter(b"greedy", TOTAL) > 0


def test_what_is_the_own_of_a_process_is_bounded_by_the_whole_only() -> None:
    room = Room()
    assert room.enter(b"", 2 * TOTAL) == TOTAL
    assert room.enter(b"client") == 0
