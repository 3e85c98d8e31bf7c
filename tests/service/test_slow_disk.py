"""A service on a disk that takes 300 ms for every sync, or whose sync fails: what waits for the disk, what does not, and what
becomes of whom it failed."""

import errno
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.test_gates import name_on
from tests.support.load import errors_of, finish, read_many, start_clients
from tests.support.service import ROOT, Service, ask, exchange, services_in
from tests.support.waiting import wait_until
from tests.support.witness import Witness, witness

pytestmark = pytest.mark.alone

SYNC_S = 0.3
STALL_S = 4.0
APP = str(ROOT / "tests" / "service" / "apps" / "gates.py")


class Disk:
    """What the control file of `slow_disk.c` says."""

    def __init__(self, folder: Path) -> None:
        self._control = folder / "disk"
        self.library = folder / "slow_disk.so"
        source = Path(__file__).with_name("slow_disk.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", self.library, source, "-ldl"], check=True)
        self.behaves()

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "TEST_DISK": str(self._control)}

    def behaves(self, delay_s: float = 0.0, failure: int = 0) -> None:
        new = self._control.with_suffix(".new")
        new.write_text(f"{int(delay_s * 1e6)} {failure}")
        new.replace(self._control)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    return Disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, disk: Disk) -> Iterator[Service]:
    with services_in(tmp_path_factory.mktemp("slow")) as serve:
        service = serve(2, app=APP, environment=disk.environment)
        disk.behaves(SYNC_S)
        yield service
        disk.behaves()


@pytest.fixture(scope="module")
def outside() -> Iterator[Witness]:
    with witness() as it:
        yield it


def timed(act: Callable[[], Any]) -> float:
    began_s = time.monotonic()
    act()
    return time.monotonic() - began_s


def test_a_method_with_ten_awaited_puts_is_answered_after_one_or_two_commits(service: Service) -> None:
    took_s = timed(lambda: service.call("Teller", "ten", "put_ten"))
    print(f"{took_s:.3f} s with syncs of {SYNC_S:g} s")
    assert SYNC_S < took_s < 2.9 * SYNC_S


def test_a_reply_waits_for_the_write_before_it_and_the_reply_to_a_read_of_it_too(service: Service) -> None:
    put = threading.Thread(target=service.call, args=("Teller", "reply", "put", "new"))
    began_s = time.monotonic()
    put.start()
    wait_until(lambda: service.call("Teller", "reply", "text") == "new", "the value")
    assert time.monotonic() - began_s > SYNC_S
    put.join()


def tell(service: Service, outside: Witness, way: str, *, unconfirmed: bool) -> tuple[float, float, float]:
    """When the object wrote, when that was durable, and when its message arrived."""
    text = f"{way} {unconfirmed}"
    teller = name_on(service, 0, "Teller", text)
    places = {
        "object": name_on(service, 1, "Witnessing", text),
        "http": outside.http,
        "socket": outside.line_port,
    }
    wrote_s, durable_s, arrived_s = service.call("Teller", teller, "tell", way, places[way], text, unconfirmed)
    return wrote_s, durable_s, arrived_s or outside.seen[text]


WAYS = pytest.mark.parametrize("way", ["object", "http", "socket"])


@WAYS
def test_what_is_sent_after_a_put_leaves_only_after_the_commit(service: Service, outside: Witness, way: str) -> None:
    wrote_s, _, arrived_s = tell(service, outside, way, unconfirmed=False)
    assert arrived_s - wrote_s >= SYNC_S


@WAYS
def test_what_is_sent_after_an_unconfirmed_put_leaves_at_once(service: Service, outside: Witness, way: str) -> None:
    wrote_s, durable_s, arrived_s = tell(service, outside, way, unconfirmed=True)
    assert durable_s - wrote_s >= SYNC_S
    assert arrived_s < durable_s
    assert arrived_s - wrote_s < SYNC_S


def test_reads_of_other_objects_of_the_worker_do_not_wait_for_the_disk(service: Service) -> None:
    writer, reader = name_on(service, 0, "Teller", "writer"), name_on(service, 0, "Teller", "reader")
    service.call("Teller", reader, "put", "known")
    put = threading.Thread(target=service.call, args=("Teller", writer, "put", "new"))
    put.start()
    reads_s = []
    while put.is_alive():
        reads_s.append(timed(lambda: service.call("Teller", reader, "text")))
    print(f"{len(reads_s)} reads during one commit, the slowest took {max(reads_s[1:-1]):.4f} s")
    assert len(reads_s) > 10
    assert max(reads_s[1:-1]) < SYNC_S / 2


def test_objects_that_write_nothing_are_answered_as_always_when_a_fast_disk_stalls(tmp_path: Path, disk: Disk) -> None:
    """For longer than a worker may be silent: one that waits for the disk is not hung."""
    config = tmp_path / "t.toml"
    config.write_text("[service]\nliveness_s = 1\n")
    disk.behaves()
    with services_in(tmp_path) as serve:
        service = serve(1, "--config", str(config), app=APP, environment=disk.environment)
        pid = service.worker_pid(0)
        for number in range(50):
            service.call("Teller", "writer", "put", number)
        disk.behaves(STALL_S)
        put = threading.Thread(target=service.call, args=("Teller", "writer", "put", "new"), daemon=True)
        wrote_s = time.monotonic()
        put.start()
        reads_s = []
        while put.is_alive():
            reads_s.append(timed(lambda: service.call("Teller", "reader", "text")))
        put.join()
        disk.behaves()
        print(f"{len(reads_s)} reads during a stall of {STALL_S:g} s, the slowest took {max(reads_s):.4f} s")
        assert time.monotonic() - wrote_s >= STALL_S
        assert max(reads_s) < STALL_S / 4
        assert service.call("Teller", "writer", "text") == "new"
        assert service.worker_pid(0) == pid


def test_whose_write_fails_gets_object_reset_and_everybody_goes_on_with_what_was_confirmed(service: Service, disk: Disk) -> None:
    disk.behaves()
    names = [f"failing{number}" for number in range(40)]
    clients = start_clients(service, 1, names, calls=200, cls="Counter", method="next")
    finish(clients)
    confirmed = dict(zip(names, read_many(service.endpoint, names), strict=True))
    service.expect("could not be made durable", "commit", "ends and recovers", "fail", "exit", "is ready again", "log")
    teller = name_on(service, 0, "Counter", "failing")
    worker = service.worker_pid(0)
    disk.behaves(failure=errno.EIO)
    status, error = exchange(service.endpoint, "Counter", teller, "next")
    disk.behaves()
    assert (status, error["code"], error["outcome"]) == (1, "object_reset", "unknown")
    wait_until(lambda: len(service.worker_pids()) == 2 and worker not in service.worker_pids(), "the next worker")
    before = confirmed.get(teller, 0)
    assert service.call("Counter", teller, "next") in (before, before + 1)
    assert errors_of(clients) == {}
    for name, value in confirmed.items():
        if name != teller:
            assert ask(service.endpoint, "Counter", name, "current", []) == value
