"""A full disk takes writes and nothing else: not reads, no worker, no start, and no writes when there is room again."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.crash.boxes import BOX_NAMES, fill_boxes, serve_boxes
from tests.crash.disk import Disk, MakeDisk
from tests.support.load import read_many
from tests.support.service import KILLED_BY_TEST, Serve, Service, exchange
from tests.support.waiting import wait_until

SIZES = {"ext4": 400 << 20, "xfs": 400 << 20, "btrfs": 400 << 20, "tmpfs": 300 << 20}
FULL = r"(?i)no space left|no checkpoint before the stop|was reset|refused|there is room again|exited with code 1|had no room"


def assert_refused_at_once(service: Service, turns: dict[str, int]) -> None:
    began_at = time.monotonic()
    refused = fill_boxes(service, 10_000, turns)
    assert refused is not None
    name, error = refused
    assert error["code"] == "object_reset", error
    assert re.search("(?i)no space left", error["message"]), error
    assert time.monotonic() - began_at < 2.0
    assert read_many(service.endpoint, BOX_NAMES, "Box", "turn") == [turns[other] for other in BOX_NAMES], name


def fill_until_refused(service: Service, disk: Disk, turns: dict[str, int]) -> None:
    disk.fill_to_the_last_block()
    turn = 0
    while fill_boxes(service, turn := turn + 1, turns) is None:
        assert turn < 30, "the disk is full, and 20 MB more were written in each turn"
    disk.fill_to_the_last_block()  # What a checkpoint has given back.


@pytest.mark.root
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", SIZES)
def test_reads_go_on_over_the_death_of_a_worker_and_a_start_and_writes_when_there_is_room(
    make_disk: MakeDisk, serve: Serve, tmp_path: Path, kind: str
) -> None:
    disk = make_disk(SIZES[kind], kind)
    service, turns = serve_boxes(serve, tmp_path, disk)
    service.expect(FULL, KILLED_BY_TEST)
    fill_until_refused(service, disk, turns)
    assert_refused_at_once(service, turns)

    os.kill(service.worker_pids()[0], signal.SIGKILL)
    service.wait_for_output("worker 0 is ready again")
    assert_refused_at_once(service, turns)
    assert service.output.count("starting it again") == 1

    assert service.stop() == 0
    service.start(2)
    assert_refused_at_once(service, turns)
    wait_until(lambda: service.status()["problems"], "the full disk among the problems")
    status = service.status()
    assert status["state"] == "degraded"
    assert "nothing can be written" in status["problems"][0]["what"]
    assert "starting it again" not in service.output[service._started_at :]

    disk.empty()
    wait_until(lambda: fill_boxes(service, 20_000, turns) is None, "room to write")
    assert read_many(service.endpoint, BOX_NAMES, "Box", "turn") == [20_000] * len(BOX_NAMES)
    assert service.stop() == 0
    service.start(1)
    assert read_many(service.endpoint, BOX_NAMES, "Box", "turn") == [20_000] * len(BOX_NAMES)


@pytest.mark.root
def test_a_first_start_on_a_full_disk_names_the_space_and_the_place(make_disk: MakeDisk, serve: Serve) -> None:
    disk = make_disk(64 << 20)
    disk.fill_to_the_last_block()
    service = serve(start=False, data=disk.place / "data")
    service.launch(1)
    assert service.wait() == 1
    line = service.output.splitlines()[-1]
    assert re.search(rf"{disk.place}/data.*(?i:no space left).*(room|space)", line), service.output
    assert "user" not in line
    disk.empty()


@pytest.mark.root
def test_a_disk_without_inodes_is_told_as_one_and_reads_go_on(make_disk: MakeDisk, serve: Serve, tmp_path: Path) -> None:
    disk = make_disk(300 << 20)
    service, turns = serve_boxes(serve, tmp_path, disk)
    service.expect(FULL, KILLED_BY_TEST)
    disk.use_up_inodes()
    os.kill(service.worker_pids()[0], signal.SIGKILL)
    service.wait_for_output("worker 0 is ready again")
    assert read_many(service.endpoint, BOX_NAMES, "Box", "turn") == [0] * len(BOX_NAMES)
    refused = exchange(service.endpoint, "Box", "b0", "fill", [500_000, 1])
    assert refused[0] == 0 or refused[1]["code"] == "object_reset"
    disk.empty()
    wait_until(lambda: fill_boxes(service, 7, turns) is None, "room to write")
