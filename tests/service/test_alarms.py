"""Alarms of a real service: none is lost when processes are killed, at any instant, and waiting ones cost nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.load import read_many
from tests.support.service import FULL, KILLED_BY_TEST, Serve, Service
from tests.support.waiting import wait_until

APP = """
import asyncio, os, time
from tidegate import AlarmInfo, DurableObject

def note(text):
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(text + "\\n")

class Bell(DurableObject):
    '''Every run of a handler is seen twice: in the object, durably, and in a file, at once.'''

    async def set(self, unix_s: float) -> None:
        await self.storage.set_alarm(unix_s)

    async def set_soon(self) -> None:
        await self.storage.set_alarm(time.time() + 1 + hash(self.id.name) % 2_000 / 1_000)

    async def set_far(self) -> None:
        await self.storage.set_alarm(time.time() + 1_000_000)

    async def pending(self) -> bool:
        return await self.storage.get_alarm() is not None

    async def rang(self) -> int:
        return await self.storage.get("rang", 0)

    async def alarm(self, info: AlarmInfo) -> None:
        note(self.id.name)
        await self.storage.put("rang", await self.storage.get("rang", 0) + 1)

class Slow(Bell):
    async def alarm(self, info: AlarmInfo) -> None:
        note("begun")
        while not os.path.exists(os.environ["RUNS"] + ".go"):
            await asyncio.sleep(0.01)
        note("done")

class Deadly(Bell):
    async def alarm(self, info: AlarmInfo) -> None:
        note("deadly")
        os._exit(3)

class Failing(Bell):
    async def alarm(self, info: AlarmInfo) -> None:
        note(f"{info.retry_count} {time.time() - info.scheduled_for.timestamp():.3f}")
        await self.storage.put("rang", info.retry_count + 1)
        if info.retry_count < 2:
            raise ValueError("not yet")
"""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    path.touch()
    return path


@pytest.fixture
def bells(serve: Serve, tmp_path: Path, runs: Path) -> Service:
    app = tmp_path / "bells.py"
    app.write_text(APP)
    service = serve(2, app=str(app), environment={"RUNS": str(runs)})
    service.expect(KILLED_BY_TEST)
    return service


def ringing_workers(bells: Service) -> list[int]:
    """Whose statistics say that they have rung an alarm."""
    return [p["pid"] for p in bells.status()["processes"][2:] if p["statistics"].get("alarms_rung")]


def tidegate(bells: Service, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "tidegate", *arguments, "--connect", bells.endpoint]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done
    return done


def abandoned_count(bells: Service) -> int:
    return sum(p["statistics"].get("alarms_abandoned", 0) for p in bells.status()["processes"][2:])


def test_a_handler_that_was_killed_runs_again(bells: Service, runs: Path) -> None:
    bells.call("Slow", "a", "set", time.time())
    wait_until(lambda: runs.read_text() == "begun\n", "the handler")
    assert bells.call("Slow", "a", "pending") is False
    wait_until(lambda: bool(ringing_workers(bells)), "statistics")
    os.kill(ringing_workers(bells)[0], signal.SIGKILL)
    wait_until(lambda: runs.read_text() == "begun\n" * 2, "the handler again")
    bells.kill_everything()
    bells.start(3)
    wait_until(lambda: runs.read_text() == "begun\n" * 3, "the handler once more, in another worker")
    Path(f"{runs}.go").touch()
    wait_until(lambda: runs.read_text().endswith("done\n"), "its end")
    assert bells.stop() == 0
    bells.start(1)
    assert bells.call("Slow", "a", "pending") is False
    assert runs.read_text() == "begun\n" * 3 + "done\n"


def test_of_hundreds_that_ring_while_processes_are_killed_none_is_lost_and_none_is_removed_twice(
    bells: Service, runs: Path
) -> None:
    """What a handler writes without waiting in between is one commit with the removal of its alarm: exactly once."""
    names = [f"n{number}" for number in range(2_000 if FULL else 400)]
    read_many(bells.endpoint, names, "Bell", "set_soon")
    chance = random.Random(1)
    ends_at = time.monotonic() + 4
    while time.monotonic() < ends_at:
        if chance.random() < 0.2:
            bells.kill_everything()
            bells.start(chance.choice((1, 2, 3)))
        else:
            pids = bells.worker_pids()
            if pids:
                os.kill(chance.choice(pids), signal.SIGKILL)
            wait_until(lambda: len(set(runs.read_text().split())) == len(names) or chance.random() < 0.02, "some rings")
    wait_until(lambda: not any(read_many(bells.endpoint, names, "Bell", "pending")), "every alarm")
    assert read_many(bells.endpoint, names, "Bell", "rang") == [1] * len(names)
    begun = runs.read_text().split()
    assert set(begun) == set(names)
    print(f"{len(begun)} runs of {len(names)} handlers")


@pytest.mark.alone  # It judges how late they are.
def test_retries_and_their_number_survive_a_kill(bells: Service, runs: Path) -> None:
    bells.expect("the alarm handler failed", "Traceback")
    bells.call("Failing", "a", "set", time.time())
    wait_until(lambda: bells.call("Failing", "a", "rang") == 1, "the first run")
    bells.kill_everything()
    bells.start(2)
    wait_until(lambda: bells.call("Failing", "a", "rang") == 3, "the third run")
    wait_until(lambda: not bells.call("Failing", "a", "pending"), "the end")
    first, *retries = [(int(number), float(after_s)) for number, after_s in map(str.split, runs.read_text().splitlines())]
    assert first[0] == 0
    assert [number for number, _ in retries] == [1, 2]
    assert 2.0 <= retries[0][1] < 2.5 + 5.0, "a start takes its time"
    assert 4.0 <= retries[1][1] - retries[0][1] < 5.0 + 2.0


def test_a_handler_that_ends_its_process_is_abandoned_and_the_others_of_its_worker_go_on(bells: Service, runs: Path) -> None:
    bells.expect("exited with code 3", "its alarm is abandoned", "an alarm that was abandoned")
    names = [f"n{number}" for number in range(20)]
    bells.call("Deadly", "d", "set", time.time() + 0.5)
    read_many(bells.endpoint, names, "Bell", "set_soon")
    wait_until(lambda: abandoned_count(bells) == 1, "the abandonment", 60)
    wait_until(lambda: not any(read_many(bells.endpoint, names, "Bell", "pending")), "the others")
    assert read_many(bells.endpoint, names, "Bell", "rang") == [1] * len(names)
    assert runs.read_text().split().count("deadly") == 4
    assert bells.call("Deadly", "d", "pending") is False
    assert bells.stop() == 0
    bells.start(2)
    wait_until(lambda: abandoned_count(bells) == 1, "the record of it")
    assert runs.read_text().split().count("deadly") == 4
    assert "Deadly/d" in tidegate(bells, "alarms").stdout
    assert "Deadly/x has no abandoned alarm" in tidegate(bells, "alarms", "drop", "Deadly", "x", code=1).stderr
    assert tidegate(bells, "alarms", "drop", "Deadly", "d").stdout == "Deadly/d: its alarm is dropped\n"
    assert tidegate(bells, "alarms").stdout == "no alarm was abandoned\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_waiting_alarms_cost_no_time_and_little_memory(bells: Service) -> None:
    count = 100_000 if FULL else 10_000
    names = [f"n{number}" for number in range(count)]
    read_many(bells.endpoint, names, "Bell", "set_far")
    assert bells.stop() == 0
    bells.start(2)
    print(f"{count} pending: ready after {bells.ready_s:.2f} s, MiB {bells.rss_mib()}")
    workers = [psutil.Process(pid) for pid in bells.worker_pids()]
    wait_until(lambda: all(p["statistics"] for p in bells.status()["processes"][2:]), "statistics")
    assert all(p["statistics"]["alarm_due_ms"] > time.time() * 1_000 for p in bells.status()["processes"][2:])
    before = [sum(worker.cpu_times()[:2]) for worker in workers]
    began_at = time.monotonic()
    wait_until(lambda: time.monotonic() > began_at + 3.0, "three seconds")
    used_s = [sum(worker.cpu_times()[:2]) - was for worker, was in zip(workers, before, strict=True)]
    print(f"CPU of the workers in 3 s: {used_s}")
    assert max(used_s) < 0.15
    assert read_many(bells.endpoint, names[::100], "Bell", "pending") == [True] * (count // 100)
