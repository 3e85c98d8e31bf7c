"""A service whose data files are not in memory: a thread waits for the disk, the loop does not, and every answer is right."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from tests.crash.disk import Disk, MakeDisk
from tests.crash.disk import make_disk as make_disk
from tests.support.service import ROOT, Serve, Service, ask, exchange
from tests.support.waiting import wait_until
from tidegate.shard.store.state.residency import look_at

APP = str(ROOT / "tests" / "service" / "apps" / "shelf.py")
SHELVES = [f"s{number}" for number in range(300)]
BLKIO = Path("/sys/fs/cgroup/blkio")
READS_PER_S = 20


class Session:
    """One connection. Replies are taken when they come, with the time."""

    def __init__(self, service: Service) -> None:
        self._context = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.linger = 0
        self._dealer.connect(service.endpoint)
        self._sent: dict[int, float] = {}
        self.results: dict[int, Any] = {}
        self.took_s: dict[int, float] = {}
        self.order: list[int] = []

    def send(self, name: str, method: str, *args: Any) -> int:
        number = len(self._sent)
        self._sent[number] = time.monotonic()
        self._dealer.send(msgspec.msgpack.encode([[number, "Shelf", name, method, args]]))
        return number

    def take(self, timeout_s: float = 20.0) -> bool:
        """One message; whether there was one."""
        if not self._dealer.poll(int(timeout_s * 1_000)):
            return False
        for number, status, result in msgspec.msgpack.decode(self._dealer.recv()):
            assert status == 0, result
            self.results[number] = result
            self.took_s[number] = time.monotonic() - self._sent[number]
            self.order.append(number)
        return True

    def wait(self, *numbers: int) -> list[Any]:
        while not all(number in self.results for number in numbers):
            assert self.take(), "no answer"
        return [self.results[number] for number in numbers]

    def close(self) -> None:
        self._dealer.close()
        self._context.term()


@contextlib.contextmanager
def session(service: Service) -> Iterator[Session]:
    it = Session(service)
    try:
        yield it
    finally:
        it.close()


def fill(service: Service, shelves: list[str]) -> None:
    """Every shelf has its rows; they are in the data files, because the service stops in the end."""
    with session(service) as it:
        it.wait(*[it.send(name, "fill") for name in shelves])
    assert service.stop() == 0


def drop_data_files(data: Path) -> None:
    """They are on disk only from now on, until somebody reads them."""
    files = list(data.glob("shards/*/data.mdb"))
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    if not any(look_at(path).on_disk for path in files):
        pytest.skip("this file system keeps its files in memory")


def cold_service(serve: Serve, workers: int, **environment: str) -> Service:
    """Started again over files that are not in memory."""
    service = serve(workers, app=APP)
    fill(service, SHELVES)
    drop_data_files(service.data)
    service.environment = environment
    return service.start(workers)


def statistics_of(service: Service, what: str) -> list[dict[str, int]]:
    """What every worker says of it; the supervisor asks once a second or so."""
    said: list[dict[str, int]] = []

    def all_have_said() -> bool:
        workers = [process for process in service.status()["processes"] if process["name"].startswith("worker")]
        said[:] = [process["statistics"][what] for process in workers if process.get("statistics")]
        return len(said) == len(workers)

    wait_until(all_have_said, "numbers of every worker")
    return said


def waits_for_disk(pid: int) -> tuple[int, int]:
    """Page faults for which the loop thread of a worker has waited, and all its other threads."""
    faults = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        faults[int(task.name)] = int((task / "stat").read_text().rpartition(")")[2].split()[9])
    return faults.pop(pid), sum(faults.values())


def test_objects_read_from_disk_in_every_way_and_the_loop_waits_for_no_page(serve: Serve) -> None:
    service = cold_service(serve, 1, STAYS_COLD="1")
    worker = service.worker_pid(0)
    loop_before, others_before = waits_for_disk(worker)
    with session(service) as it:
        answers = it.wait(*[it.send(name, "whole") for name in SHELVES])
        counted = it.wait(*[it.send(name, "count") for _ in range(5) for name in SHELVES])
    loop_after, others_after = waits_for_disk(worker)
    assert answers == [16] * len(SHELVES)
    assert counted == [number for number in range(5) for _ in SHELVES]
    loop, threads = loop_after - loop_before, others_after - others_before
    wait_until(lambda: statistics_of(service, "reads")[0]["reads_apart"] > 0, "reads by threads")
    print(f"waits for the disk: loop {loop}, threads {threads}")
    assert (loop, threads > 1_000) == (0, True)


def test_a_checkpoint_of_objects_on_disk_makes_the_loop_wait_for_hardly_a_page(serve: Serve) -> None:
    service = cold_service(serve, 1, STAYS_COLD="1")
    worker = service.worker_pid(0)
    loop_before, others_before = waits_for_disk(worker)
    with session(service) as it:
        it.wait(*[it.send(name, "clear" if number % 3 else "fill") for number, name in enumerate(SHELVES)])
    wait_until(lambda: statistics_of(service, "checkpoint")[0]["checkpoints"] > 0, "a checkpoint")
    loop_after, others_after = waits_for_disk(worker)
    loop, threads = loop_after - loop_before, others_after - others_before
    print(f"waits for the disk in a checkpoint of {len(SHELVES)} objects: loop {loop}, threads {threads}")
    assert threads > 1_000
    assert loop <= service.status()["shards"], "a page that says which pages are free, perhaps"
    with session(service) as it:
        answers = it.wait(*[it.send(name, "get", 1) for name in SHELVES])
    assert answers == [None if number % 3 else it.results[number] for number in range(len(SHELVES))]
    assert all(answers[::3])


def test_files_that_have_been_read_in_are_read_on_the_loop(serve: Serve) -> None:
    service = cold_service(serve, 1, KEEPS_WARM="1")
    shards = service.status()["shards"]

    def nearly_all_in_memory() -> bool:
        """Some page may leave memory in this moment."""
        with session(service) as it:
            it.wait(*[it.send(name, "look", 1) for name in SHELVES[::7]])
        return statistics_of(service, "reads")[0]["shards_in_memory"] > shards // 2

    wait_until(nearly_all_in_memory, "the shards in memory", within_s=60.0)


def test_while_a_slow_read_is_under_way_its_object_waits_and_the_others_are_served(serve: Serve) -> None:
    read_s = 0.4
    service = cold_service(serve, 1, SLOW_READ_S=str(read_s))
    with session(service) as it:
        it.wait(it.send("new", "ping"))  # In memory from now on.
        assert it.took_s[0] > read_s, "by a thread"
        reading = it.send("s1", "get", 3)
        behind = it.send("s1", "ping")
        pings = 0
        while reading not in it.results:
            ping = it.send("new", "ping")
            it.wait(ping)
            pings += 1
            assert it.took_s[ping] < read_s / 2
        it.wait(behind)
        slowest_s = max(it.took_s[number] for number in it.took_s if it.results[number] == "pong" and number not in (0, behind))
        print(f"{pings} calls of another object during two slow reads, the slowest took {slowest_s * 1e3:.1f} ms")
        assert it.results[reading].startswith("s1 3 ")
        assert it.took_s[reading] > 2 * read_s, "its header, then its row"
        assert it.order.index(reading) < it.order.index(behind)
        assert pings > 20
        concurrent = it.send("s1", "get", 4, True)
        ahead = it.send("s1", "ping")
        it.wait(concurrent, ahead)
        assert it.order.index(ahead) < it.order.index(concurrent)
        assert it.took_s[ahead] < read_s / 2


def test_a_stop_while_reads_wait_for_the_disk_answers_them(serve: Serve) -> None:
    service = cold_service(serve, 2, SLOW_READ_S="0.2")
    with session(service) as it:
        numbers = [it.send(name, "get", 3) for name in SHELVES[:24]]
        it.take(0.1)
        stopping = threading.Thread(target=service.stop)
        stopping.start()
        answers = it.wait(*numbers)
        stopping.join()
    assert [answer.split()[0] for answer in answers] == SHELVES[:24]


def test_workers_killed_while_they_read_from_disk_lose_nothing(serve: Serve) -> None:
    service = cold_service(serve, 2, SLOW_READ_S="0.05")
    service.expect("killed by SIGKILL", "is ready again")
    confirmed = {name: ask(service.endpoint, "Shelf", name, "count", []) for name in SHELVES[:10]}
    asking = threading.Thread(target=lambda: [exchange(service.endpoint, "Shelf", name, "get", [2]) for name in SHELVES[100:110]])
    asking.start()
    for worker in range(2):
        os.kill(service.worker_pid(worker), 9)
    wait_until(lambda: len(service.worker_pids()) == 2, "two workers")
    asking.join()
    assert {name: service.call("Shelf", name, "count") for name in SHELVES[:10]} == dict.fromkeys(confirmed, 1)


class SlowReads:
    """A control group whose processes read so often a second from one device, and no more."""

    def __init__(self, disk: Disk) -> None:
        device = os.stat(disk.place).st_dev
        self._group = BLKIO / f"tidegate-test-{os.getpid()}"
        self._limit = f"{os.major(device)}:{os.minor(device)}"

    def take(self, pid: int) -> None:
        try:
            self._group.mkdir()
            (self._group / "blkio.throttle.read_iops_device").write_text(f"{self._limit} {READS_PER_S}")
        except OSError as error:
            pytest.skip(f"this machine cannot slow down a disk: {error}")
        (self._group / "cgroup.procs").write_text(str(pid))

    def end(self) -> None:
        if self._group.exists():
            for pid in (self._group / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (BLKIO / "cgroup.procs").write_text(pid)
            self._group.rmdir()


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_on_a_disk_that_reads_twenty_pages_a_second_only_those_wait_who_need_them(make_disk: MakeDisk, serve: Serve) -> None:
    if not BLKIO.exists():
        pytest.skip("needs the blkio controller of control groups, version 1")
    disk = make_disk(256 << 20)
    service = serve(1, app=APP, data=disk.place / "data")
    fill(service, SHELVES)
    disk.unmount()
    disk.mount()
    service.environment = {"STAYS_COLD": "1"}
    service.start(1)
    slow = SlowReads(disk)
    worker = service.worker_pid(0)
    try:
        with session(service) as it:
            it.wait(it.send("new", "ping"))
            slow.take(worker)
            loop_before, _ = waits_for_disk(worker)
            reading = [it.send(name, "get", 3) for name in SHELVES[:12]]
            pings = []
            while not all(number in it.results for number in reading):
                pings.append(it.send("new", "ping"))
                it.wait(pings[-1])
            loop_after, _ = waits_for_disk(worker)
            reads_s = sorted(it.took_s[number] for number in reading)
            pings_s = sorted(it.took_s[number] for number in pings)
            print(
                f"{len(reading)} reads took {reads_s[0]:.3f} to {reads_s[-1]:.3f} s, meanwhile {len(pings)} calls of another "
                f"object of the worker took {pings_s[len(pings) // 2] * 1e3:.2f} ms (median) to {pings_s[-1] * 1e3:.2f} ms"
            )
            assert [it.results[number].split()[0] for number in reading] == SHELVES[:12]
            assert loop_after == loop_before
            assert reads_s[-1] > 0.3
            assert pings_s[len(pings) // 2] < 0.02
            assert len(pings) > 50
    finally:
        slow.end()
