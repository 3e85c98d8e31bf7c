"""The heap of a process that serves: messages are made by one thread and freed by another, and the large ones come and go.

With a heap for each thread, or a mapping for each large message, memory would be mapped and unmapped for every one of them: 144
messages of 15 MiB took ten times as long, and what was freed in one heap was of no use to the other. So there is one heap,
which keeps what was freed in it while large messages come, and gives it back when they come no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

from tidegate.runtime.limits import FREE_HEAP_BYTES_MAX

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MMAP_BYTES_MIN = 32 << 20
"""glibc's own bound on its bound."""


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


class Memory:
    """What this process has in memory, in bytes. Asking takes microseconds, and no descriptor but one, which is there from the
    first question on."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def in_use(self) -> int:
        """0: the kernel does not say."""
        try:
            if self._fd is None:
                self._fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
            return int(os.pread(self._fd, 64, 0).split()[1]) * _PAGE_BYTES
        except (OSError, IndexError, ValueError):
            return 0

    def close(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None
