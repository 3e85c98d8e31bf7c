"""What tests of users cost: a thousand of a small app, and a year of hourly alarms. `python -m tidegate.benchmarks.users_tests`.

The tests are run by pytest in a process of its own, as users run them: its start is part of their time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

APP = """
import datetime
from tidegate import AlarmInfo, DurableObject

class Counter(DurableObject):
    async def add(self, n: int) -> int:
        value = await self.storage.get("n", 0) + n
        self.storage.put("n", value)
        return value

class Hourly(DurableObject):
    async def start(self) -> None:
        await self.storage.set_alarm(datetime.timedelta(hours=1))

    async def alarm(self, info: AlarmInfo) -> None:
        await self.storage.put("hours", await self.storage.get("hours", 0) + 1)
        await self.start()
"""
TESTS = """
import pytest
from app import Counter

@pytest.mark.parametrize("n", range({tests}))
async def test_a_counter_goes_on_after_a_crash(objects, n):
    counter = objects(Counter, "a")
    assert await counter.add(n) == n
    objects.evict(counter)
    objects.crash()
    assert await counter.add(1) == n + 1
"""
YEAR = """
import sys, time
from app import Hourly
from tidegate.testing import Objects

async def hours(objects):
    hourly = objects(Hourly, "h")
    await hourly.start()
    await objects.clock.advance("{days}d")
    assert objects.storage(hourly)["hours"] == 24 * {days}

began, used = time.perf_counter(), time.process_time()
with Objects() as objects:
    objects.run(hours(objects))
print(time.perf_counter() - began, time.process_time() - used)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tidegate.benchmarks.users_tests", description=__doc__)
    parser.add_argument("--tests", type=int, default=1_000, help="how many tests (default: %(default)s)")
    parser.add_argument("--days", type=int, default=365, help="how many days of hourly alarms (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the fastest is told (default: %(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(APP)
        Path(folder, "test_app.py").write_text(TESTS.format(tests=options.tests))
        Path(folder, "year.py").write_text(YEAR.format(days=options.days))
        tests = [_tests(folder) for _ in range(options.rounds)]
        print(_told(f"{options.tests:,} tests, with the start of pytest", tests), flush=True)
        year = [_year(folder) for _ in range(options.rounds)]
        print(_told(f"{options.days} days of hourly alarms", year), flush=True)
    return 0


def _told(what: str, rounds: list[tuple[float, float]]) -> str:
    return f"{what}: {min(rounds)[0]:.2f} s, of the processor {min(cpu for _, cpu in rounds):.2f} s"


def _tests(folder: str) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    began, before = time.monotonic(), os.times()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"]
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    used = os.times()
    cpu = used.children_user - before.children_user + used.children_system - before.children_system
    return time.monotonic() - began, cpu


def _year(folder: str) -> tuple[float, float]:
    said = subprocess.run([sys.executable, "year.py"], cwd=folder, capture_output=True, text=True, check=True).stdout
    seconds, cpu = map(float, said.split())
    return seconds, cpu


if __name__ == "__main__":
    sys.exit(main())
