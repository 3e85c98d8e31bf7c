"""The heap of a process that serves: messages are made by one thread and freed by another, and the large ones come and go.

With a heap for each thread, or a mapping for each large message, memory would be mapped and unmapped for every one of them: 144
messages of 15 MiB took ten times as long, and what was freed in one heap was of no use to the other. So there is one heap,
which keeps what was freed in it while large messages come, and gives it back when they come no more.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable

from tidegate.runtime.limits import FREE_HEAP_BYTES_MAX

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MMAP_BYTES_MIN = 32 << 20
"""glibc's own bound on its bound."""
_statm: int | None = None
"""Open once for all sockets of the process: those of simulated services are never closed."""


def keep_in_one_piece() -> None:
    """Call first in a process."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # Not in musl.
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES_MIN)
        mallopt(_M_TRIM_THRESHOLD, FREE_HEAP_BYTES_MAX)


def give_back() -> None:
    """To the system, what is free. Takes some milliseconds for some hundred megabytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class _Mallinfo2(ctypes.Structure):
    _fields_ = [  # as ctypes wants it
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


@functools.cache
def _mallinfo2() -> Callable[[], _Mallinfo2] | None:
    found = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc 2.33 and later; not in musl.
    if found is not None:
        found.restype = _Mallinfo2
    return found


def allocated() -> int:
    """What is in use of the heap, in bytes, also where nothing has been written to it yet; 0 where the C library does not
    say, and little where another one has its place. Asking takes milliseconds where there are very many free pieces, and all
    threads that want memory wait for it."""
    if (ask := _mallinfo2()) is None:
        return 0
    told = ask()
    return int(told.uordblks) + int(told.hblkhd)


def in_memory() -> int:
    """What this process has in memory, in bytes; 0 where the kernel does not say. Asking takes microseconds, and one descriptor
    of the process from the first time on: when no other is left, it is there."""
    global _statm
    try:
        if _statm is None:
            _statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        return int(os.pread(_statm, 64, 0).split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
