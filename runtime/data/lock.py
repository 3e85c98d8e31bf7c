"""The lock of a data directory: `DATA/lock`, held by every process of the service that uses it.

Guarantee: who has it is alone with the directory, whatever has become of the service before. A refusal names who has it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

from tidegate.runtime.data.own_mount import finish
from tidegate.runtime.errors import OperatorError

LEFT_BEHIND_S_MAX = 10.0
"""How long a start waits for the processes of a supervisor that died: they are dying too, perhaps in the middle of a sync."""


def take_lock(path: Path, hint: str) -> int:
    """Waits a moment for processes of a service that ends, and finishes what was interrupted. Closing the descriptor gives the
    lock back. `hint`: what to do while a service uses it. Raises OperatorError while one does, and OSError."""
    lock_fd = _open_lock(path)
    try:
        _wait_for_it(path, lock_fd, hint)
        finish(path)
    except BaseException:
        os.close(lock_fd)
        raise
    holder = f"{os.getpid()}\n".encode()
    with contextlib.suppress(OSError):  # On a full disk the file may stay empty: nobody is told who has the lock, then.
        os.pwrite(lock_fd, holder, 0)  # Before the rest is cut off: a block that is given up may not come back.
        os.ftruncate(lock_fd, len(holder))
    return lock_fd


def _open_lock(path: Path) -> int:
    """On a file system that cannot be written to a directory may be looked at all the same, and a service may have it open that
    has mounted it elsewhere."""
    try:
        return os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    try:
        return os.open(path / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _wait_for_it(path: Path, lock_fd: int, hint: str) -> None:
    give_up_at = time.monotonic() + LEFT_BEHIND_S_MAX
    while True:
        try:
            return fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        holder = os.pread(lock_fd, 32, 0).strip()
        if holder.isdigit() and _is_alive(int(holder)):
            problem = f"in use by the service with pid {holder.decode()}"
            raise OperatorError("open data directory", path, problem, hint, passes=True)
        if time.monotonic() >= give_up_at:
            left = _users(path / "lock")
            problem = f"still in use by {left}, left by a service whose supervisor (pid {holder.decode() or 'unknown'}) has ended"
            raise OperatorError("open data directory", path, problem, "end what is left of it and start again", passes=True)
        time.sleep(0.02)


def _users(file: Path) -> str:
    """The processes that have the file open, as far as they may be looked at."""
    wanted, found = str(file.resolve()), []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            opened = [_link(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            if wanted in opened and int(pid) != os.getpid():
                found.append(f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})")
        except OSError:  # It ends, or is not ours to see.
            continue
    return ", ".join(found) or "processes that cannot be seen from here"


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
