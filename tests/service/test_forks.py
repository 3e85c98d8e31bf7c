"""Processes that objects fork: they keep nothing of the service, work undisturbed, and never come back into its loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tidegate
from tests.support.service import KILLED_BY_TEST, Serve, Service, exchange
from tests.support.service_process import is_alive
from tests.support.waiting import wait_until

APP = str(Path(__file__).with_name("apps") / "forking.py")
WAYS = ["multiprocessing", "fork", "fork_in_thread", "program", "program_with_preexec"]


def sockets_of(service: Service) -> set[str]:
    found = set()
    for pid in service.pids():
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if (link := os.readlink(f"/proc/{pid}/fd/{fd}")).startswith("socket:"):
                    found.add(link)
    return found


def descriptors(pid: int) -> dict[int, str]:
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # Closed since the listing.
            found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


@pytest.fixture
def left() -> Iterator[list[int]]:
    """Processes to be ended after the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.alone  # It judges how soon the next start is ready.
@pytest.mark.parametrize("way", WAYS)
def test_a_process_that_an_object_has_started_keeps_nothing_of_the_service(serve: Serve, left: list[int], way: str) -> None:
    service = serve(2, app=APP)
    service.call("Forking", "other", "keys")
    sockets = sockets_of(service)
    pid = service.call("Forking", "a", way)
    left.append(pid)

    def ours() -> dict[int, str]:
        return {fd: what for fd, what in descriptors(pid).items() if str(service.data) in what or what in sockets}

    wait_until(lambda: not ours(), "the end of its descriptors", seen=ours)
    assert service.stop() == 0
    service.start(2)  # At once: nobody has the data directory.
    assert service.ready_s < 8.0
    assert service.call("Forking", "a", "keys") == ["here"]


def test_children_of_multiprocessing_end_with_their_worker_and_other_forks_may_stay(serve: Serve, left: list[int]) -> None:
    service = serve(1, app=APP)
    service.expect(KILLED_BY_TEST)
    first, fork = service.call("Forking", "a", "multiprocessing"), service.call("Forking", "a", "fork")
    left += [first, fork]
    os.kill(service.worker_pids()[0], signal.SIGKILL)
    wait_until(lambda: not is_alive(first), "the end of a child whose worker was killed")
    service.wait_for_output("is ready again")
    second = service.call("Forking", "a", "multiprocessing")
    left.append(second)
    assert service.stop() == 0
    assert not is_alive(second)
    assert is_alive(fork)


@pytest.mark.parametrize(("how", "code"), [("returns", 1), ("raises", 1), ("waits", 1), ("writes", 1), ("exits", 5)])
def test_a_fork_that_comes_back_to_the_loop_ends_there(serve: Serve, how: str, code: int) -> None:
    service = serve(1, app=APP)
    service.expect("came back to the worker's loop", "come_back raised: ", "Traceback")  # The child may get as far as to say so.
    assert service.call("Forking", "a", "keys") == ["here"]
    pid = service.call("Forking", "a", "come_back", how)
    assert service.call("Forking", "a", "ended", pid) == code
    if how != "exits":
        service.wait_for_output(f"process {pid}, forked by an object, came back to the worker's loop and was ended there")
    assert service.call("Forking", "a", "keys") == ["here"]
    assert service.stop() == 0
    service.start(1)
    assert service.call("Forking", "a", "keys") == ["here"]


def test_a_fork_that_waits_runs_nothing_of_objects_that_wake_in_the_same_turn(serve: Serve, tmp_path: Path) -> None:
    service = serve(1, app=APP)
    service.expect("came back to the worker's loop")
    written = tmp_path / "written"

    async def main() -> None:
        async with tidegate.connect(service.endpoint) as client:
            at_s = time.time() + 0.5
            awake = [client.call("Awake", f"a{number}", "write_at", (at_s, str(written))) for number in range(30)]
            pid = client.call("Forking", "a", "fork_at", (at_s,))
            await asyncio.gather(pid, *awake)

    for _ in range(3):
        written.unlink(missing_ok=True)
        asyncio.run(main())
        assert len(written.read_text().split()) == 30
        assert len(set(written.read_text().split())) == 1


def test_a_fork_in_a_thread_that_comes_back_ends_there_too(serve: Serve) -> None:
    service = serve(1, app=APP)
    service.expect("came back to the worker's loop")
    pid = service.call("Forking", "a", "come_back_in_thread")
    assert service.call("Forking", "a", "ended", pid) == 1


def test_a_child_of_multiprocessing_works_prints_writes_files_and_runs_a_loop_of_its_own(serve: Serve, tmp_path: Path) -> None:
    service = serve(1, app=APP)
    exit_code, cores, ended = service.call("Forking", "a", "work", str(tmp_path / "file"))
    assert (exit_code, ended) == (0, 0)
    assert (tmp_path / "file").read_text() == "written"
    assert cores == sorted(os.sched_getaffinity(0))  # Not only the worker's.
    assert service.call("Forking", "a", "square_in_pool", 12) == 144
    assert service.call("Forking", "a", "terminate_child") == -signal.SIGTERM
    service.call("Forking", "a", "multiprocessing")
    service.wait_for_output("a child of multiprocessing naps")


def test_the_storage_of_an_object_is_refused_to_a_child_with_the_way_out(serve: Serve) -> None:
    service = serve(1, app=APP)
    said = service.call("Forking", "a", "use_storage_in_child")
    assert re.search("put: this process was forked from the worker .* let the object take its result", said)
    assert service.call("Forking", "a", "keys") == ["here"]
    assert exchange(service.endpoint, "Forking", "a", "keys") == (0, ["here"])
