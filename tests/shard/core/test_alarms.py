"""The rules of alarms: times, retries, and which alarms are due, against plain models."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable
from datetime import UTC
from random import Random
from typing import Any

import pytest

from tests.support.cold_world import checkpoint
from tidegate.shard.core import alarms
from tidegate.shard.core.alarms import (
    INDEX_KEY,
    RETRIES_MAX,
    WINDOW_ROWS,
    Alarm,
    Due,
    ShardAlarms,
    index_row_key,
    index_writes,
    info_of,
    retried,
    to_datetime,
    to_unix_us,
)
from tidegate.shard.store.interface import Done, Fetch, ObjectWrites, Snapshot
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.store import ShardStore

NOW_US = 1_700_000_000_123_456
HOUR = datetime.timedelta(hours=1)


@pytest.mark.parametrize(
    ("when", "unix_us"),
    [
        (datetime.datetime(2023, 11, 14, 22, 13, 20, 5, UTC), 1_700_000_000_000_005),
        (datetime.datetime(2023, 11, 15, 0, 13, 20, tzinfo=datetime.timezone(2 * HOUR)), 1_700_000_000_000_000),
        (datetime.timedelta(seconds=2.5), NOW_US + 2_500_000),
        (datetime.timedelta(0), NOW_US),
        (-HOUR, NOW_US - 3_600_000_000),
        (1_700_000_000, 1_700_000_000_000_000),
        (1_700_000_000.25, 1_700_000_000_250_000),
        (1_000_000_000, 10**15),
        (253_402_300_799, 253_402_300_799_000_000),
        (datetime.datetime(1970, 1, 1, tzinfo=UTC), 0),
    ],
)
def test_a_time_is_a_datetime_a_timedelta_or_unix_seconds(when: Any, unix_us: int) -> None:
    assert to_unix_us(when, NOW_US) == unix_us


@pytest.mark.parametrize("when", ["2030-01-01", None, True, False, b"1", 1j, datetime.date(2030, 1, 1), [1], {}])
def test_what_is_no_time_is_a_type_error(when: Any) -> None:
    with pytest.raises(TypeError, match=f"a datetime, a timedelta or Unix seconds, not {type(when).__name__}"):
        to_unix_us(when, NOW_US)


def test_a_datetime_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        to_unix_us(datetime.datetime(2030, 1, 1), NOW_US)


@pytest.mark.parametrize(
    "when",
    [
        *(float("nan"), float("inf"), float("-inf"), 1e300, -1e18, 10**400, 253_402_300_800),
        *(datetime.timedelta.max, datetime.timedelta.min, datetime.timedelta(days=3_000_000)),
        datetime.datetime.max.replace(tzinfo=datetime.timezone(-12 * HOUR)),
        datetime.datetime.min.replace(tzinfo=datetime.timezone(12 * HOUR)),
    ],
    ids=lambda when: str(when)[:20],
)
def test_a_time_that_no_datetime_can_tell_is_refused(when: Any) -> None:
    with pytest.raises(ValueError):
        to_unix_us(when, NOW_US)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (6, "6, which as Unix seconds is long past, before September 2001"),
        (0, "0, which as Unix seconds is long past"),
        (-1.5, "-1.5, which as Unix seconds is long past"),
        (999_999_999, "long past"),
        (253_402_300_800, "beyond the year 9999"),
        (1_700_000_000_000, "1700000000000, which as Unix seconds is far beyond the year 9999; milliseconds have to be divided"),
        (1.7e15, "beyond the year 9999"),
        (10**400, "such a large number, which as Unix seconds is beyond the year 9999"),
        (-(10**400), "such a large number, which as Unix seconds is long past"),
        (float("nan"), "nan, which is no time"),
        (float("inf"), "inf, which is no time"),
        (float("-inf"), "-inf, which is no time"),
    ],
)
def test_a_number_that_cannot_be_meant_as_unix_time_is_refused_with_the_three_ways_to_write_it(number: Any, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        to_unix_us(number, NOW_US)
    assert says in str(refused.value)
    for way in ("datetime.timedelta(seconds=…)", "a datetime with a time zone", "time.time()"):
        assert way in str(refused.value)


def test_the_handler_is_told_the_time_that_was_asked_for_to_the_microsecond() -> None:
    when = datetime.datetime(2031, 5, 6, 7, 8, 9, 123_456, UTC)
    assert info_of(Alarm(to_unix_us(when, NOW_US), NOW_US + 10**9, 3)) == alarms.AlarmInfo(when, 3)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_retries_come_after_2_4_8_to_64_seconds_and_up_to_a_quarter_more_and_there_are_6(jitter: float) -> None:
    alarm: Alarm | None = Alarm(5, 5)
    delays = []
    for _ in range(RETRIES_MAX):
        assert alarm is not None
        alarm = retried(alarm, NOW_US, jitter)
        assert alarm is not None
        delays.append((alarm.due_us - NOW_US) / 1e6)
        assert (alarm.scheduled_us, alarm.set_us, alarm.relative) == (5, NOW_US, False)
    assert delays == [2 * 2**n * (1 + jitter / 4) for n in range(6)]
    assert alarm is not None
    assert alarm.retry_count == 6
    assert retried(alarm, NOW_US, jitter) is None


def test_rows_of_the_index_sort_by_time_and_then_by_object() -> None:
    times = [0, 1, 15, 16, 255, 256, NOW_US, to_unix_us(datetime.datetime.max.replace(tzinfo=UTC), 0)]
    dues = [Due(time, bytes([key]) * 16, "C", "n") for time in times for key in (0, 1, 63)]
    assert [due.row_key for due in sorted(dues, key=lambda due: due.row_key)] == [due.row_key for due in sorted(dues)]
    assert len({due.row_key for due in dues}) == len(dues)
    to_datetime(times[-1])


@pytest.mark.parametrize(("before", "after"), list(itertools.product([None, 5, 6], repeat=2)))
def test_the_index_has_one_row_for_a_pending_alarm_and_none_otherwise(before: int | None, after: int | None) -> None:
    rows = {} if before is None else {index_row_key(before, b"k" * 16): b"old"}
    for key, value in index_writes(b"k" * 16, before, after, "C", "n").items():
        if value is None:
            del rows[key]
        else:
            rows[key] = value
    assert list(rows) == ([] if after is None else [index_row_key(after, b"k" * 16)])


# The next ones in memory, all of them in the index


class Indexed:
    """A shard's index, its `ShardAlarms`, and a plain model: what is pending, and what was taken and not given back.
    `cold`: the index may be on disk only, and is fetched whenever the test looks at it."""

    def __init__(self, *, cold: bool = False) -> None:
        self.store = ShardStore(MemoryState(0))
        self.asked: list[Callable[[], object]] = []
        self.told = 0
        if cold:
            self.store.reader = self
        self.pending: dict[int, int] = {}
        self.out: set[Due] = set()
        self.restart()

    def restart(self) -> None:
        self.asked.clear()
        self.shard = ShardAlarms(self.store, self.touched)
        self.out = set()

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False, many_pages: bool = False) -> None:
        self.asked.append(lambda: done(fetch(snapshot), snapshot.close()))

    def touched(self) -> None:
        self.told += 1

    def fetch(self) -> None:
        """What the alarms wait for comes into memory."""
        self.shard.next_due_us()
        while self.asked:
            told = self.told
            self.asked.pop(0)()
            assert self.told == told + 1
            self.shard.next_due_us()

    def due(self, number: int) -> Due:
        return Due(self.pending[number], number.to_bytes(16, "big"), "C", f"o{number}")

    def move(self, number: int, due_us: int | None) -> None:
        """An alarm is set, moved or removed, and that becomes durable."""
        key, before = number.to_bytes(16, "big"), self.pending.pop(number, None)
        writes = index_writes(key, before, due_us, "C", f"o{number}")
        self.store.apply(self.store.seq + 1, [ObjectWrites(INDEX_KEY, False, writes)])
        self.out = {due for due in self.out if due.object_key != key}
        if due_us is not None:
            self.pending[number] = due_us
            self.shard.note(self.due(number))

    def take(self, now_us: int, most: int) -> None:
        expected = sorted(due for due in map(self.due, self.pending) if due.due_us <= now_us and due not in self.out)
        self.fetch()
        taken = self.shard.take_due(now_us, most)
        while self.asked and len(taken) < most:
            self.fetch()
            taken += self.shard.take_due(now_us, most - len(taken))
        assert len(taken) <= most
        assert taken == sorted(taken)
        assert all(self.pending.get(int(due.name[1:])) == due.due_us for due in taken), "only what is in the index"
        new = [due for due in dict.fromkeys(taken) if due not in self.out]
        assert new == expected[: len(new)], "the oldest first"
        assert new == expected or len(taken) == most, "nothing is forgotten"
        self.out |= set(new)

    def give_back(self) -> None:
        for due in self.out:
            self.shard.note(due)
        self.out = set()

    def check(self) -> None:
        """What is due next is known: an earlier time only when a stale row stands there."""
        waiting = [due.due_us for due in map(self.due, self.pending) if due not in self.out]
        self.fetch()
        next_due_us = self.shard.next_due_us()
        assert not waiting or (next_due_us is not None and next_due_us <= min(waiting))
        assert len(self.shard._heap) <= 2 * alarms.WINDOW_ROWS


Step = Callable[[Indexed], None]
SMALL: list[Step] = [
    *(lambda world, n=n, at=at: world.move(n, at) for n in (0, 1) for at in (1, 2, None)),
    *(lambda world, at=at, most=most: world.take(at, most) for at, most in ((1, 9), (2, 1), (2, 9))),
    Indexed.give_back,
    Indexed.restart,
]


@pytest.mark.parametrize("cold", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize("rows", [1, 2])
def test_every_sequence_of_four_steps_takes_what_a_sorted_list_would(
    rows: int, cold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "WINDOW_ROWS", rows)
    for steps in itertools.product(SMALL, repeat=4):
        world = Indexed(cold=cold)
        for step in steps:
            step(world)
            world.check()
        world.take(9, 9)


@pytest.mark.parametrize("cold", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize("seed", range(40))
def test_long_random_sequences_take_what_a_sorted_list_would(seed: int, cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alarms move across the end of the window, many at equal times, and are noted more than once."""
    random = Random(seed)
    monkeypatch.setattr(alarms, "WINDOW_ROWS", random.choice((1, 2, 3, 5, 10)))
    latest = random.choice((3, 30, 1_000))
    objects = random.choice((5, 40))
    world = Indexed(cold=cold)
    for _ in range(300):
        draw = random.random()
        if draw < 0.6:
            number, at = random.randrange(objects), random.randrange(latest)
            world.move(number, None if random.random() < 0.2 else at)
        elif draw < 0.85:
            world.take(random.randrange(latest), random.choice((1, 3, 100)))
        elif draw < 0.95:
            world.give_back()
        elif draw < 0.97:
            world.restart()
        elif world.pending:
            world.shard.note(world.due(random.choice(list(world.pending))))
        if not cold or random.random() < 0.5:  # Else more is noted while the next window is being fetched.
            world.check()
    world.give_back()
    world.take(latest, 10_000)
    assert len(world.out) == len(world.pending)


def test_a_hundred_thousand_alarms_are_not_in_memory_however_they_came() -> None:
    world = Indexed()
    dues = [Due(at, at.to_bytes(16, "big"), "C", f"o{at}") for at in range(100_000)]
    Random(1).shuffle(dues)
    for batch in (dues[at : at + 1_000] for at in range(0, len(dues), 1_000)):
        rows = [index_writes(due.object_key, None, due.due_us, "C", due.name) for due in batch]
        world.store.apply(world.store.seq + 1, [ObjectWrites(INDEX_KEY, False, {k: v for row in rows for k, v in row.items()})])
        for due in batch:
            world.shard.note(due)
    assert len(world.shard._heap) <= 2 * WINDOW_ROWS
    taken = []
    while batch_taken := world.shard.take_due(10**6, 777):
        taken += batch_taken
        assert len(world.shard._heap) <= 2 * WINDOW_ROWS
    assert taken == sorted(dues)


def test_the_first_window_is_read_at_once_and_a_later_one_when_it_has_been_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "WINDOW_ROWS", 3)
    world = Indexed(cold=True)
    for number in range(9):
        world.move(number, number)
    world.restart()
    assert [due.due_us for due in world.shard.take_due(100, 100)] == [0, 1, 2]
    assert len(world.asked) == 1
    assert world.shard.next_due_us() is None, "nothing is known yet, and it is asked once"
    world.move(100, 1)
    assert len(world.asked) == 1
    assert [due.due_us for due in world.shard.take_due(100, 100)] == [1], "what is noted meanwhile is known"
    world.asked.pop()()
    assert world.told == 1
    assert [due.due_us for due in world.shard.take_due(100, 100)] == [3, 4, 5]


def test_an_alarm_of_which_only_the_disk_knows_whether_it_is_pending_is_rung() -> None:
    world = Indexed(cold=True)
    world.move(1, 5)
    checkpoint(world.store)
    assert [due.due_us for due in world.shard.take_due(9, 9)] == [5]


def test_an_object_that_moves_its_alarm_at_each_call_fills_no_memory() -> None:
    world = Indexed()
    for at in range(20_000):
        world.move(0, 10**6 + at)
    world.check()
    assert world.shard.take_due(10**9, 10) == [world.due(0)]
