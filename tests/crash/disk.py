"""A disk whose power can be cut and which can be full: a small file system in a file. Needs root and loop devices. (For a power
cut the file system itself is shut down, as only ext4 and XFS can be; that of `runtime/chaos/stage` needs neither, and is slower.)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tidegate.runtime.chaos.stage.disk import MAKE, Ballast, shut_down


class Disk(Ballast):
    """Mounted at `place` until `unmount`."""

    def __init__(self, image: Path, place: Path, size: int, kind: str = "ext4") -> None:
        super().__init__(place)
        self.image = image
        self.place = place
        self.kind = kind
        self.size = size
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
        shut_down(self.place)

    def restore_power(self) -> None:
        self.unmount()
        self.mount()

    def use_up_inodes(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._new_file().close()


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
