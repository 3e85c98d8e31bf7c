"""Virtual time in a test: durations, alarms in order, and what Python's own clocks say."""

from __future__ import annotations

import datetime
import time

import pytest

from tests.testing.bank import Account, Reminder
from tidegate.testing import Objects
from tidegate.testing.clock import Duration, seconds_of


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("30d", 2_592_000), ("1h 30m", 5_400), ("250ms", 0.25), ("1w", 604_800), (5, 5), (datetime.timedelta(minutes=1), 60)],
)
def test_durations_are_read_as_they_are_written(duration: Duration, seconds: float) -> None:
    assert seconds_of(duration) == seconds


@pytest.mark.parametrize("duration", ["", "3 parsecs", "d", "-1s", -1, float("inf"), float("nan")])
def test_what_is_no_duration_is_refused(duration: Duration) -> None:
    with pytest.raises(ValueError):
        seconds_of(duration)


async def test_alarms_ring_in_order_each_at_its_own_time(objects: Objects) -> None:
    reminder = objects(Reminder, "r")
    await reminder.every(1)
    await objects.clock.advance("3h 30m")
    assert objects.storage(reminder)["rang"] == ["01-01 01:00 01:00", "01-01 02:00 02:00", "01-01 03:00 03:00"]


async def test_the_clocks_of_python_tell_virtual_time(objects: Objects) -> None:
    assert datetime.datetime.now(datetime.UTC) == objects.clock.now == datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert await objects(Account, "a").wait(90) == 90
    assert time.time() == objects.clock.now.timestamp() == time.time_ns() / 1e9
    assert datetime.datetime.now(datetime.UTC) == objects.clock.now
    await objects.clock.advance_to(datetime.datetime(2030, 5, 1, 12, tzinfo=datetime.UTC))
    assert datetime.datetime.now(datetime.UTC).year == 2030


@pytest.mark.tidegate(start=datetime.datetime(2024, 2, 28, 23, tzinfo=datetime.UTC))
async def test_a_test_may_begin_when_it_likes(objects: Objects) -> None:
    await objects.clock.advance("2h")
    assert objects.clock.now.day == 29
    with pytest.raises(ValueError, match="backwards"):
        await objects.clock.advance_to(objects.clock.now - datetime.timedelta(seconds=1))
    with pytest.raises(ValueError, match="naive"):
        await objects.clock.advance_to(datetime.datetime(2030, 1, 1))


def test_outside_of_a_test_the_clocks_are_real() -> None:
    with Objects() as objects:
        objects.run(objects.clock.advance("1000d"))
    assert datetime.datetime.now(datetime.UTC).timestamp() == pytest.approx(time.time(), abs=5)
    assert abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) < 5


def test_each_of_a_year_of_hourly_alarms_rings() -> None:
    """How long that takes is measured by `benchmarks.users_tests`."""
    with Objects() as objects:
        objects.run(objects(Hourly, "r").begin())
        objects.run(objects.clock.advance("365d"))
        assert objects.storage(objects("Hourly", "r"))["rang"] == 8_760


class Hourly(Reminder):
    async def begin(self) -> None:
        await self.storage.set_alarm(datetime.timedelta(hours=1))

    async def alarm(self, info: object) -> None:
        self.storage.put("rang", await self.storage.get("rang", 0) + 1)
        await self.begin()
