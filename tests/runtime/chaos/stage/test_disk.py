"""runtime/chaos/stage/disk.py: a disk of its own lets go when its power was cut, whatever else runs on the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tidegate.runtime.chaos.stage.disk import MAKE

PROGRAM = """
import os, pathlib, sys
from tidegate.runtime.chaos.stage.disk import Disk, keep_mounts_private
keep_mounts_private()
disk = Disk(pathlib.Path(sys.argv[1]), sys.argv[2], 320)
(disk.place / "file").write_text("x")
print("mounted", flush=True)
sys.stdin.readline()
disk.cut_power()
try:
    with (disk.place / "lost").open("w") as file:
        file.write("x")
        file.flush()
        os.fsync(file.fileno())
except OSError:
    print("failed", flush=True)
disk.restore_power()
print("again", flush=True)
disk.unmount()
"""


def program(folder: Path, kind: str = "ext4") -> list[str]:
    if os.geteuid() != 0:
        pytest.skip("needs root, for a loop device")
    if shutil.which(MAKE[kind][0]) is None:
        pytest.skip(f"{MAKE[kind][0]} is not installed")
    return [sys.executable, "-c", PROGRAM, str(folder), kind]


def loop_devices() -> str:
    return subprocess.run(["losetup", "--all"], check=True, capture_output=True, text=True).stdout


@pytest.mark.root
def test_a_process_that_is_killed_leaves_neither_mount_nor_loop_device_behind(tmp_path: Path) -> None:
    with subprocess.Popen(program(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "mounted\n"
        assert tmp_path.name in loop_devices()
        user.kill()
    wait_until(lambda: tmp_path.name not in loop_devices(), "the end of its loop devices", seen=loop_devices)


@pytest.mark.root
@pytest.mark.timeout(90)
def test_a_disk_without_power_is_let_go_though_a_container_was_started_meanwhile(tmp_path: Path) -> None:
    command = program(tmp_path)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdin is not None
        assert user.stdout.readline() == "mounted\n"
        assert str(tmp_path) not in Path("/proc/self/mounts").read_text(), "nobody else sees it"
        inside = ["unshare", "--mount", "sh", "-c", "echo inside; exec sleep 60"]
        with subprocess.Popen(inside, stdout=subprocess.PIPE, text=True) as container:
            try:
                assert container.stdout is not None
                assert container.stdout.readline() == "inside\n"
                user.stdin.write("cut\n")
                user.stdin.flush()
                began_at = time.monotonic()
                assert [user.stdout.readline() for _ in range(2)] == ["failed\n", "again\n"]
                assert time.monotonic() - began_at < 20
            finally:
                container.kill()
    assert user.returncode == 0


@pytest.mark.root
@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", MAKE)
def test_a_file_system_that_has_noticed_that_its_power_is_cut_is_let_go(tmp_path: Path, kind: str) -> None:
    """An XFS that has given up answers everything with an error, also the question whether it is mounted."""
    with subprocess.Popen(program(tmp_path, kind), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        said = user.communicate("cut\n")[0]
    assert said == "mounted\nfailed\nagain\n"
    assert user.returncode == 0
