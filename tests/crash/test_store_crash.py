"""The store of a worker against SIGKILL, a failing disk and a power cut: nothing confirmed is lost, and no record is torn."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import IO

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tests.crash.store_writer import OBJECTS, SHARDS, expected_rows
from tests.support.waiting import wait_until
from tidegate.shard.store.worker_store import WorkerStore

WRITER = [sys.executable, str(Path(__file__).parent / "store_writer.py")]
SHUTDOWN_IOCTL = 0x8004587D
NO_LOG_FLUSH = 2
FULL = bool(os.environ.get("TIDEGATE_FULL"))


def start_writer(data_dir: Path, start: int, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """In a process group of its own: strace, killed alone, would leave the writer running."""
    command = [*prefix, *WRITER, str(data_dir), str(start)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def kill(writer: subprocess.Popen[str], confirmed: int) -> int:
    """SIGKILL; the last record that was confirmed."""
    os.killpg(writer.pid, signal.SIGKILL)
    confirmed = read_rest(writer, confirmed)
    writer.communicate()
    return confirmed


def stdout_of(writer: subprocess.Popen[str]) -> IO[str]:
    assert writer.stdout is not None
    return writer.stdout


def read_confirmed(writer: subprocess.Popen[str], at_least: int) -> int:
    """Reads until so many records more than recovered are confirmed; the number of the last one."""
    number = first = -1
    for line in stdout_of(writer):
        number = int(line.split()[1])
        if first < 0:
            first = number
        if number >= first + at_least:
            return number
    raise AssertionError(f"the writer ended after {number}: {writer.stderr.read() if writer.stderr else ''}")


def read_rest(writer: subprocess.Popen[str], confirmed: int) -> int:
    for line in stdout_of(writer):
        if line.endswith("\n"):
            confirmed = int(line.split()[1])
    return confirmed


def recovered(data_dir: Path, start: int) -> int:
    """Opens the store as the next worker would, compares every row with what its records say, and returns their number."""

    async def look() -> int:
        store = WorkerStore.open(data_dir, start, 0, SHARDS, print)
        try:
            number = store.shards[0].seq
            assert store.shards[1].seq == number, "a record covers both shards or none"
            for shard, expected in zip(store.shards.values(), expected_rows(number), strict=True):
                found = {key: dict(shard.scan(key)) for key in OBJECTS}
                assert found == {key: expected.get(key, {}) for key in OBJECTS}
            return number
        finally:
            await store.close()

    return asyncio.run(look())


def test_everything_confirmed_survives_being_killed_at_any_moment(tmp_path: Path) -> None:
    random = Random(5)
    for start in range(1, 13 if FULL else 5):
        writer = start_writer(tmp_path, (start + 1) // 2)  # Every other time the worker alone is restarted.
        confirmed = read_confirmed(writer, random.randint(1, 600))
        confirmed = kill(writer, confirmed)
        assert recovered(tmp_path, (start + 1) // 2) in (confirmed, confirmed + 1)


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, to make system calls fail")


@needs_strace
@pytest.mark.parametrize(
    ("call", "when"),
    [
        *(("fdatasync", when) for when in (1, 40, 400, 401)),
        *(("fsync", when) for when in (1, 8, 20)),
        *(("pwritev,pwritev2", when) for when in (1, 40)),
        *(("pwrite64", when) for when in (1, 60, 201, 202)),
    ],
)
def test_a_disk_that_fails_once_ends_the_worker_and_loses_nothing(tmp_path: Path, call: str, when: int) -> None:
    """From the log's appends, its new segments and LMDB's commits alike."""
    strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:error=EIO:when={when}")
    writer = start_writer(tmp_path, 1, strace)
    confirmed = 0
    for line in stdout_of(writer):
        confirmed = int(line.split()[1])
        if confirmed >= 2500:
            kill(writer, confirmed)
            pytest.fail(f"{call} is called less than {when} times in 2,500 commits")
    _, errors = writer.communicate()
    assert writer.returncode == 3, errors
    assert "nput/output error" in errors
    assert recovered(tmp_path, 1) in (confirmed, confirmed + 1)


# Power


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which can be cut off."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a loop device")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.ext4", "-qF", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine cannot mount loop devices")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def cut_power(place: Path) -> None:
    """Everything the file system has not made durable is gone; every later write fails."""
    fd = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN_IOCTL, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(fd)


def restore_power(place: Path) -> None:
    image = place.parent / "image"
    subprocess.run(["umount", str(place)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)


@pytest.mark.root
def test_everything_confirmed_survives_a_power_cut_at_any_moment(disk: Path) -> None:
    data_dir = disk / "data"
    random = Random(6)
    for start in range(1, 11 if FULL else 4):
        writer = start_writer(data_dir, start)
        confirmed = read_confirmed(writer, random.randint(50, 500))
        cut_power(disk)
        confirmed = read_rest(writer, confirmed)
        assert writer.wait() == 3, "its next append fails"
        restore_power(disk)
        assert recovered(data_dir, start) in (confirmed, confirmed + 1)


@pytest.mark.root
def test_a_disk_that_fills_up_stops_writes_loses_nothing_and_goes_on_once_there_is_room(disk: Path, tmp_path: Path) -> None:
    filler, out = disk / "filler", tmp_path / "confirmed"

    def confirmed() -> int:
        complete = out.read_text().rpartition("\n")[0]
        return int(complete.split()[-1]) if complete else -1

    with out.open("w") as stdout:
        writer = subprocess.Popen([*WRITER, str(disk / "data"), "1"], stdout=stdout, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: confirmed() >= 1, "the first commit")
    fill_up(filler)
    assert writer.stderr is not None
    trouble = writer.stderr.readline()
    assert "no space left" in trouble.lower(), trouble
    assert "free " in trouble, "it says what to do"
    before = confirmed()
    filler.unlink()
    wait_until(lambda: confirmed() >= before + 500, "commits when there is room", seen=confirmed)
    writer.kill()
    writer.communicate()
    assert recovered(disk / "data", 1) in (confirmed(), confirmed() + 1)


def fill_up(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        for chunk in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(chunk))
            except OSError:
                pass


@pytest.mark.root
def test_the_power_cut_of_this_test_does_lose_what_was_not_synced(disk: Path) -> None:
    """Else the test above would prove nothing."""
    (disk / "synced").write_text("x")
    ctypes.CDLL(None).sync()
    (disk / "not synced").write_text("x")
    cut_power(disk)
    restore_power(disk)
    assert os.path.exists(disk / "synced")
    assert not os.path.exists(disk / "not synced")
