"""A file system of its own kind in a file, whose power can be cut and which can be full. Needs root and loop devices.

The power cut is that of a disk with a volatile cache, for every kind of file system alike: the file with the file system lies on
another one, an ext4 in a file, and is written past the page cache. The outer one is shut down at once by its ioctl, without a
flush: writes to the inner disk fail from that instant, and what it had taken but was not told to flush is partly gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import shutil
import struct
import subprocess
import threading
import time
from io import FileIO
from pathlib import Path

from tidegate.runtime.errors import OperatorError

MAKE = {"ext4": ["mkfs.ext4", "-qF", "-m0"], "xfs": ["mkfs.xfs", "-qf"], "btrfs": ["mkfs.btrfs", "-qf"]}
OUTER_MIB = 128
"""For the outer file system itself."""
LET_GO_S_MAX = 120.0
_CLONE_NEWNS = 0x00020000
_SHUTDOWN = 0x8004587D
"""The ioctl of ext4, and of XFS."""
_NO_LOG_FLUSH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def check_disk(kind: str) -> None:
    """Raises OperatorError."""
    if os.geteuid() != 0:
        raise OperatorError("mount", f"a disk with {kind}", "only root may", "run it as root, or without --fs")
    for program in {"losetup", "mkfs.ext4", MAKE[kind][0]}:
        if shutil.which(program) is None:
            raise OperatorError("run", program, "it is not installed", f"install it, or choose another of {', '.join(MAKE)}")


def keep_mounts_private() -> None:
    """What this thread, and all that it starts from now on, mount is for nobody else. Raises OperatorError.

    Who makes a mount namespace of its own, as containers do, gets a copy of whatever is mounted then, and holds it until it ends:
    a disk without power could not be let go for so long."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise OperatorError("make", "a mount namespace", reason, "run it as root where mounting is allowed, or without --fs")
    with contextlib.suppress(OperatorError):  # In a root that is not mounted nothing is shared with others.
        _run("mount", "--make-rslave", "/")


def shut_down(place: Path) -> None:
    """The ext4 or XFS that is mounted there writes nothing more, and flushes nothing. Raises OSError."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(descriptor)


class Ballast:
    """Files that take the room of a file system. What it has been filled with before stays."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._numbers = itertools.count()

    def fill(self, leave_bytes: int = 0) -> None:
        statistics = os.statvfs(self._place)
        with contextlib.suppress(OSError), self._new_file() as file:
            os.posix_fallocate(file.fileno(), 0, statistics.f_bavail * statistics.f_frsize - leave_bytes)

    def fill_to_the_last_block(self) -> None:
        """What is left for other than file contents on some file systems, too."""
        self.fill()
        for size in (1 << 20, 4_096):
            with contextlib.suppress(OSError), self._new_file() as file:
                while file.write(bytes(size)) == size:
                    os.fsync(file.fileno())

    def empty(self) -> None:
        for file in self._place.glob("ballast-*"):
            file.unlink()

    def _new_file(self) -> FileIO:
        return (self._place / f"ballast-{next(self._numbers)}").open("xb", buffering=0)


class Disk:
    """Mounted at `place` from `mount` to `unmount`."""

    def __init__(self, folder: Path, kind: str, size_mib: int) -> None:
        self.place = folder / "disk"
        self.size_mib = size_mib
        self._outer_image = folder / "outer.img"
        self._outer = folder / "outer"
        self._image = self._outer / "disk.img"
        self._loop = ""
        self._mounted: list[Path] = []
        """In the order in which they were. Whoever looks (`os.path.ismount`) is told by an XFS without power that it is none."""
        self._ballast = Ballast(self.place)
        self.place.mkdir()
        self._outer.mkdir()
        with self._outer_image.open("wb") as file:
            file.truncate(size_mib + OUTER_MIB << 20)
        _run(*MAKE["ext4"], str(self._outer_image))
        self._mount_outer()
        with self._image.open("wb") as file:
            file.truncate(size_mib << 20)
        self._attach()
        _run(*MAKE[kind], self._loop)
        self._mount()

    def _mount_outer(self) -> None:
        _run("mount", "-o", "loop", str(self._outer_image), str(self._outer))
        self._mounted.append(self._outer)

    def _attach(self) -> None:
        self._loop = _run("losetup", "--find", "--show", "--direct-io=on", str(self._image)).strip()

    def _mount(self) -> None:
        _run("mount", self._loop, str(self.place))
        self._mounted.append(self.place)
        _run("losetup", "--detach", self._loop)  # With the mount, by whatever that ends: also if this process is killed.
        self._loop = ""

    def cut_power(self) -> None:
        """What was not flushed is gone, every later write fails."""
        shut_down(self._outer)

    def restore_power(self) -> None:
        """The processes that used it must have ended."""
        self.unmount()
        self._mount_outer()
        self._attach()
        self._mount()

    def unmount(self) -> None:
        """Whatever of it is mounted."""
        if self.place in self._mounted:
            self._unmount_last()
        if self._loop:  # It was never mounted.
            _run_until_done("losetup", "--detach", self._loop)
            self._loop = ""
        if self._mounted:
            self._unmount_last()

    def _unmount_last(self) -> None:
        _run_until_done("umount", str(self._mounted[-1]))
        self._mounted.pop()

    def fill(self) -> None:
        """To the last block; what it has been filled with before stays."""
        self._ballast.fill_to_the_last_block()

    def empty(self) -> None:
        self._ballast.empty()


def _run(*command: str) -> str:
    """Raises OperatorError."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
    if done.returncode != 0:
        hint = "loop devices must be allowed here; run it without --fs where they are not"
        raise OperatorError("run", " ".join(command), done.stderr.strip() or f"exit code {done.returncode}", hint)
    return done.stdout


def _run_until_done(*command: str) -> None:
    """A moment may pass until the kernel has noticed that the last process which used it has ended."""
    until = time.monotonic() + LET_GO_S_MAX
    while True:
        try:
            _run(*command)
        except OperatorError:
            if time.monotonic() > until:
                raise
            threading.Event().wait(0.05)
        else:
            return
