"""A disk whose power can be cut and which can be full: a small ext4 in a file. Needs root and loop devices."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SHUTDOWN_IOCTL = 0x8004587D
NO_LOG_FLUSH = 2


class Disk:
    """Mounted at `place` until `unmount`."""

    def __init__(self, image: Path, place: Path, size: int) -> None:
        self.image = image
        self.place = place
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-qF", "-m0", str(image)], check=True)
        self.mount()

    def mount(self) -> None:
        command = ["mount", "-o", "loop", str(self.image), str(self.place)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"this machine cannot mount loop devices: {mounted.stderr.strip()}")

    def unmount(self) -> None:
        """The processes which had files on it must have ended; a moment may pass until the kernel has noticed that."""
        give_up_at = time.monotonic() + 10
        while (done := subprocess.run(["umount", str(self.place)], capture_output=True, text=True, check=False)).returncode != 0:
            assert time.monotonic() < give_up_at, done.stderr
            time.sleep(0.05)

    def cut_power(self) -> None:
        """What the file system has not made durable is gone; every later write fails."""
        fd = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN_IOCTL, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def restore_power(self) -> None:
        self.unmount()
        self.mount()

    def fill(self, leave_bytes: int = 0) -> None:
        statistics = os.statvfs(self.place)
        with (self.place / "ballast").open("wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, statistics.f_bavail * statistics.f_frsize - leave_bytes)

    def empty(self) -> None:
        (self.place / "ballast").unlink()


MakeDisk = Callable[[int], Disk]


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """`make_disk(size)`; to be asked for before `serve`, so that the service has ended when the disk goes."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a loop device")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    disks = []

    def make_disk(size: int) -> Disk:
        disks.append(Disk(tmp_path / f"image-{len(disks)}", tmp_path / f"disk-{len(disks)}", size))
        return disks[-1]

    yield make_disk
    for disk in disks:
        disk.unmount()
