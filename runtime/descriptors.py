"""File descriptors: how many this process may have, and how many of them connections may take.

Each client is one. Where none is left, the log gets no new segment, the store no file, and libzmq may end the process: so every
process of a service raises its limit as far as it may, and who listens lets nobody in any more before the last ones are taken.
"""

from __future__ import annotations

import os
import resource

from tidegate.runtime.errors import Unavailable
from tidegate.runtime.limits import (
    CONNECTIONS_WAITING_MAX,
    DESCRIPTORS_CLIENT_MIN,
    DESCRIPTORS_KEPT_MAX,
    DESCRIPTORS_KEPT_MIN,
    DESCRIPTORS_MAX,
)


def hold_standard() -> None:
    """Call first in every process (rule 1 of `logs.output`)."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)


def raise_limit() -> None:
    """To what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DESCRIPTORS_MAX if soft == resource.RLIM_INFINITY else soft


def in_use() -> int:
    if (cheap := in_use_if_cheap()) > 0:
        return cheap
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # One of them is for looking.
    except OSError:  # It is the one that is not to be had.
        return limit()


def in_use_if_cheap() -> int:
    """0 for kernels before 6.2: there the names have to be read, which takes a second for a million."""
    return os.stat("/proc/self/fd").st_size


def kept(limit: int) -> int:
    """How many are kept for everything but connections."""
    return min(max(limit // 4, DESCRIPTORS_KEPT_MIN), DESCRIPTORS_KEPT_MAX)


def connections_waiting_max() -> int:
    """How many may wait to be accepted: all of them are, before it can be noticed that they are too many."""
    return min(CONNECTIONS_WAITING_MAX, kept(limit()) // 2)


def require(operation: str) -> None:
    """For clients, before a socket of ZeroMQ is made: libzmq ends a process that has no descriptor left for its threads. Raises
    Unavailable."""
    if limit() - in_use() < DESCRIPTORS_CLIENT_MIN:
        text = f"{operation}: this process has hardly a file descriptor left (its limit is {limit()})"
        raise Unavailable(f"{text}; raise the limit (ulimit -n), or share one client and use fewer threads")


def above_standard(fd: int) -> int:
    """The same file under a number that no standard stream has: object code may have closed one of these."""
    if fd > 2:
        return fd
    import fcntl  # Here, because it hardly ever happens.

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 2 + 1)
    os.close(fd)
    return moved
