"""A disk whose power can be cut and which can be full: a small file system in a file. Needs root and loop devices."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

SHUTDOWN_IOCTL = 0x8004587D
NO_LOG_FLUSH = 2
MAKE = {"ext4": ["mkfs.ext4", "-qF", "-m0"], "xfs": ["mkfs.xfs", "-qf"], "btrfs": ["mkfs.btrfs", "-qf"]}


class Disk:
    """Mounted at `place` until `unmount`."""

    def __init__(self, image: Path, place: Path, size: int, kind: str = "ext4") -> None:
        self.image = image
        self.place = place
        self.kind = kind
        self.size = size
        self._ballast = itertools.count()
        place.mkdir()
        if kind != "tmpfs":
            with image.open("wb") as file:
                file.truncate(size)
            subprocess.run([*MAKE[kind], str(image)], check=True, capture_output=True)
        self.mount()

    def mount(self) -> None:
        command = ["mount", "-o", "loop", str(self.image), str(self.place)]
        if self.kind == "tmpfs":
            command = ["mount", "-t", "tmpfs", "-o", f"size={self.size}", "tidegate-test", str(self.place)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"this machine cannot mount loop devices: {mounted.stderr.strip()}")

    def unmount(self) -> None:
        """The processes which had files on it must have ended; a moment may pass until the kernel has noticed that."""
        said = []

        def unmounted() -> bool:
            done = subprocess.run(["umount", str(self.place)], capture_output=True, text=True, check=False)
            said.append(done.stderr)
            return done.returncode == 0

        wait_until(unmounted, "the disk to be let go", seen=lambda: said[-1], pause_s=0.05)

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
        """What it has been filled with before stays."""
        statistics = os.statvfs(self.place)
        with contextlib.suppress(OSError), self._new_ballast() as file:
            os.posix_fallocate(file.fileno(), 0, statistics.f_bavail * statistics.f_frsize - leave_bytes)

    def fill_to_the_last_block(self) -> None:
        """What is left for other than file contents on some file systems, too."""
        self.fill()
        for size in (1 << 20, 4_096):
            with contextlib.suppress(OSError), self._new_ballast() as file:
                while file.write(bytes(size)) == size:
                    os.fsync(file.fileno())

    def _new_ballast(self) -> FileIO:
        return (self.place / f"ballast-{next(self._ballast)}").open("xb", buffering=0)

    def use_up_inodes(self) -> None:
        with contextlib.suppress(OSError):
            for number in itertools.count():
                (self.place / f"ballast-empty-{number}").touch()

    def empty(self) -> None:
        for ballast in self.place.glob("ballast*"):
            ballast.unlink()


MakeDisk = Callable[..., Disk]


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """`make_disk(size, kind)`; to be asked for before `serve`, so that the service has ended when the disk goes."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a loop device")
    disks: list[Disk] = []

    def make_disk(size: int, kind: str = "ext4") -> Disk:
        if kind != "tmpfs" and shutil.which(MAKE[kind][0]) is None:
            pytest.skip(f"{MAKE[kind][0]} is not installed")
        disks.append(Disk(tmp_path / f"image-{len(disks)}", tmp_path / f"disk-{len(disks)}", size, kind))
        return disks[-1]

    yield make_disk
    for disk in disks:
        disk.unmount()
