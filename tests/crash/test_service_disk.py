"""The whole service under load on a disk that loses its power, fails, or is full."""

import errno
import os
import random
import re
import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.crash.boxes import BOX_NAMES, fill_boxes, serve_boxes
from tests.crash.disk import MakeDisk
from tests.support.load import (
    CONNECTION_LOST,
    REFUSED_CODES,
    UNKNOWN_CODES,
    assert_only,
    errors_of,
    finish,
    judge,
    read_many,
    start_clients,
    total,
    under_load,
    wait_for_answers,
)
from tests.support.service import FULL, Serve, exchange
from tests.support.waiting import wait_until
from tidegate.runtime.chaos.stage.syncs import Syncs

NAMES = [f"c{number}" for number in range(200)]
ALLOWED = {**UNKNOWN_CODES, **REFUSED_CODES}
CUTS = 30 if FULL else 4
SEED = int(os.environ.get("SEED", "5"))


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_everything_confirmed_is_there_after_a_power_cut(make_disk: MakeDisk, serve: Serve) -> None:
    disk = make_disk(512 << 20)
    service = serve(2, data=disk.place / "data")
    service.expect(".*")  # A service whose disk is gone has much to say.
    generator = random.Random(SEED)
    clients = []
    for cut in range(CUTS):
        some = start_clients(service, 4, NAMES, window=64)
        clients += some
        wait_for_answers(some, 101)
        threading.Event().wait(generator.uniform(0, 0.5))  # Any moment will do.
        disk.cut_power()
        confirmed = total(some, lambda client: client.confirmed)
        threading.Event().wait(generator.uniform(0, 0.3))
        service.kill_everything()
        disk.restore_power()
        service.start(generator.choice([1, 2, 3]))
        for client in some:
            client.stop()
        finish(some)
        print(f"cut {cut}, seed {SEED}: {confirmed} confirmed before, {errors_of(some)}")
        assert judge(service.endpoint, clients) == []
    assert_only(clients, {**ALLOWED, CONNECTION_LOST[0]: CONNECTION_LOST[1]})


@pytest.fixture
def syncs(tmp_path: Path) -> Syncs:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    return Syncs(tmp_path)


def test_a_sync_that_fails_is_told_as_unknown_and_loses_nothing_confirmed(serve: Serve, syncs: Syncs) -> None:
    service = serve(2, environment=dict(syncs.environment))
    service.expect("Input/output error", "exited with code 1; starting it again", "is ready again")
    with under_load(service, 4, NAMES) as clients:
        for failure in range(1, 5):
            syncs.fail_next(errno.EIO)
            wait_until(lambda: syncs.failed, "a sync that fails")
            wait_until(lambda failure=failure: service.output.count("is ready again") >= failure, "the worker's return")  # type: ignore[misc]  # its default
    print(errors_of(clients))
    assert_only(clients, ALLOWED)
    assert errors_of(clients)["object_reset", "unknown"] > 0
    assert service.output.count("Input/output error") >= 4
    assert judge(service.endpoint, clients) == []
    with under_load(service, 2, NAMES) as more:
        pass
    assert errors_of(more) == {}
    assert service.stop() == 0
    service.start(2)
    assert judge(service.endpoint, clients + more) == []


NO_SPACE = "(?i)no space left on device|checkpoint into .*: no space left"


@pytest.mark.root
@pytest.mark.timeout(300)
def test_a_full_disk_refuses_writes_goes_on_reading_and_is_no_trouble_once_there_is_room(
    make_disk: MakeDisk, serve: Serve, tmp_path: Path
) -> None:
    disk = make_disk(400 << 20)
    service, turns = serve_boxes(serve, tmp_path, disk)
    service.expect(NO_SPACE)
    disk.fill()
    turn = 0
    while (refused := fill_boxes(service, turn := turn + 1, turns)) is None:
        assert turn < 20, "the disk is full, and 20 MB more were written in each turn"
    name, error = refused
    print(f"refused in turn {turn}: {error}")
    assert ALLOWED[error["code"]] == error["outcome"]
    assert re.search("No space left on device .free at least", service.output)

    # One more write is refused at once, and nobody who only reads waits with it.
    began_at = time.monotonic()
    status, error = exchange(service.endpoint, "Box", "b0", "fill", [500_000, 900])
    assert (status, error["code"]) == (1, "object_reset")
    others = [other for other in BOX_NAMES if other not in ("b0", name)]
    assert read_many(service.endpoint, others, "Box", "turn") == [turns[other] for other in others]
    assert time.monotonic() - began_at < 2.0
    assert read_many(service.endpoint, [name], "Box", "turn") == [turns[name]]

    disk.empty()
    wait_until(lambda: fill_boxes(service, 1_000, turns) is None, "room to write")
    assert read_many(service.endpoint, BOX_NAMES, "Box", "turn") == [1_000] * 40
    assert service.stop() == 0
    service.start(2)
    assert read_many(service.endpoint, BOX_NAMES, "Box", "turn") == [1_000] * 40
