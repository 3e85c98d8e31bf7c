"""Messages that do not end: who is turned out, and who never is."""

from __future__ import annotations

import random

from tidegate.runtime.limits import UNFINISHED_AT_ONCE
from tidegate.runtime.sockets.unfinished import SLACK_BYTES, Unfinished

MIB = 1 << 20


class World:
    """Connections, what the kernel gave of each, and a socket that comes round to all between two looks."""

    def __init__(self, message_mib: int = 16, all_mib: int = 64) -> None:
        self.taken: dict[int, int | None] = {}
        self.unfinished = Unfinished(message_mib * MIB, all_mib * MIB)
        self.rounds = 0

    def come(self, fd: int, *, mib: float = 0) -> None:
        self.unfinished.came(fd)
        self.taken[fd] = int(mib * MIB)

    def send(self, fd: int, mib: float) -> None:
        found = self.taken[fd]
        assert found is not None
        self.taken[fd] = found + int(mib * MIB)

    def read(self, client: bytes, mib: float) -> None:
        self.unfinished.read[client] += int(mib * MIB)

    def look(self, rounds: int = 1) -> list[int]:
        self.rounds += rounds
        return [fd for fd, _ in self.unfinished.look(self.taken.__getitem__, self.rounds)]

    def make_room(self, too_much_mib: int) -> list[int]:
        """After a look."""
        assert self.look() == []
        return [fd for fd, _ in self.unfinished.make_room(too_much_mib * MIB)]

    def look_at_suspects(self) -> list[int]:
        self.rounds += 1
        return [fd for fd, _ in self.unfinished.look_at_suspects(self.taken.__getitem__, self.rounds)]


def test_a_message_that_grows_beyond_what_one_may_have_ends_its_connection() -> None:
    world = World()
    world.come(5, mib=18)
    assert [world.look() for _ in range(3)] == [[], [], [5]]
    assert (world.unfinished.turned_out, len(world.unfinished)) == (1, 0)


def test_suspects_are_looked_at_again_without_the_others() -> None:
    world = World()
    for fd in range(10):
        world.come(fd)
    world.send(5, 18)
    assert not world.unfinished.suspects
    assert world.look_at_suspects() == []
    assert world.look() == []
    assert world.unfinished.suspects
    world.send(6, 18)
    assert [world.look_at_suspects() for _ in range(4)] == [[], [5], [], []]
    assert [world.look() for _ in range(3)] == [[], [], [6]]


def test_one_that_is_as_large_as_it_may_be_is_waited_for() -> None:
    world = World()
    world.come(5, mib=16.5)
    assert not any(world.look() for _ in range(10))


def test_what_was_not_read_because_nobody_came_round_is_no_unfinished_message() -> None:
    world = World()
    world.come(5, mib=60)
    assert not any(world.look(rounds=0) for _ in range(10))
    assert [world.look(), world.look()] == [[], [5]]


def test_a_client_whose_messages_are_read_is_left_alone_however_much_it_sends() -> None:
    world = World()
    world.come(5)
    world.unfinished.met(b"a", 5)
    for _ in range(100):
        world.send(5, 40)
        world.read(b"a", 39.9)
        assert world.look() == []
    for _ in range(10):
        world.read(b"a", 0.2)
        assert world.look() == []


def test_small_frames_are_no_credit_for_a_message_that_does_not_end() -> None:
    world = World()
    world.come(5, mib=1)
    world.unfinished.met(b"a", 5)
    world.read(b"a", 500)  # Heads of frames are counted as large as they can be.
    assert world.look() == []
    world.send(5, 18)
    assert [world.look() for _ in range(3)] == [[], [], [5]]


def test_of_many_that_have_begun_a_message_those_that_go_on_are_kept() -> None:
    world = World(all_mib=64)
    for fd in range(10):
        world.come(fd, mib=10)
    found = []
    for _ in range(4):
        for fd in range(3, 10):
            world.send(fd, 0.01)
        found.append(sorted(world.look()))
    assert found[:2] == [[], []]
    gone = {fd for closed in found for fd in closed}
    assert {0, 1, 2} <= gone
    assert len(gone) == 4, "6 x 10 MiB fit"
    assert not world.look()


def test_where_a_process_has_too_much_room_is_made_by_the_slowest() -> None:
    """Whatever has come of their messages, for each there is the room of all of it."""
    world = World(all_mib=85)
    for fd in range(10):
        world.come(fd, mib=2)
    assert [world.make_room(30), world.make_room(30)] == [[], []], "they may just not be read yet"
    assert world.unfinished.to_come == 0
    for fd in range(10):
        world.send(fd, 0.1 * (10 - fd))
    assert world.make_room(30) == [9, 8], "of 16 MiB each"
    assert world.make_room(30) == [], "the library has not closed them yet"
    world.unfinished.left(9)
    world.unfinished.left(8)
    for fd in range(8):
        world.send(fd, 0.1 * (10 - fd))
    assert world.make_room(10) == [7]
    assert world.unfinished.turned_out == 3
    world.unfinished.left(7)
    assert world.make_room(1_000) == [6, 5]
    assert [world.make_room(1_000), world.look()] == [[], []], "five have room"
    assert world.unfinished.to_come == 0


def test_whoever_has_stopped_in_the_middle_makes_room_first() -> None:
    world = World(all_mib=64)
    for fd in range(5):
        world.come(fd, mib=2 + fd)
    for _ in range(30):
        for fd in range(4):
            world.send(fd, 0.01)
        world.look()
    assert world.make_room(1) == [4]


def test_who_sends_a_byte_now_and_then_makes_room_before_who_has_just_begun() -> None:
    world = World(all_mib=34)
    for fd in range(3):
        world.come(fd, mib=2 if fd == 1 else 12)
    for _ in range(30):
        world.send(0, 1 / MIB)
        world.send(1, 0.002)
        world.send(2, 1 / MIB)
        world.look()
    assert world.make_room(1)[0] in (0, 2)


def test_a_slow_honest_sender_is_not_turned_out_for_heads_of_frames_that_others_send_and_leave() -> None:
    """The library has taken room for all of those frames; who has sent such a head looks like somebody who has not."""
    world = World(all_mib=256)
    for fd in range(300):
        world.come(fd, mib=200 / MIB)
    world.come(400, mib=1)
    for _ in range(100):
        world.send(400, 0.1)
        assert world.make_room(10_000) == []


def test_nobody_whose_messages_are_read_makes_room() -> None:
    world = World(all_mib=0)
    world.come(5)
    world.unfinished.met(b"a", 5)
    for _ in range(10):
        world.send(5, 10)
        world.read(b"a", 9)
        assert world.make_room(500) == []


def test_where_the_kernel_does_not_say_nobody_is_looked_at() -> None:
    world = World()
    world.unfinished.came(3)
    world.taken[3] = None
    assert not any(world.look() for _ in range(5))
    assert len(world.unfinished) == 0


def test_a_number_that_is_given_again_begins_anew() -> None:
    world = World()
    world.come(5, mib=12)
    world.unfinished.met(b"a", 5)
    world.read(b"a", 12)
    world.unfinished.left(5)
    assert b"a" not in world.unfinished.read
    world.come(5, mib=12)
    world.unfinished.met(b"b", 5)
    world.read(b"b", 12)
    assert not any(world.look() for _ in range(5))
    world.unfinished.met(b"a", 5)  # A message of the one that has gone.
    world.unfinished.met(b"b", 5)
    assert list(world.unfinished.read) == [b"b"]


def test_a_message_that_does_not_end_is_found_among_very_many_connections() -> None:
    world = World()
    for fd in range(3 * UNFINISHED_AT_ONCE):
        world.come(fd, mib=0.5)
    bad = random.Random(1).randrange(3 * UNFINISHED_AT_ONCE)
    world.send(bad, 40)
    closed = [fd for _ in range(9) for fd in world.look()]
    assert closed == [bad]


def test_little_is_nobodys_affair() -> None:
    world = World(message_mib=0, all_mib=0)
    world.come(5)
    world.taken[5] = SLACK_BYTES
    assert not any(world.look() for _ in range(5))
