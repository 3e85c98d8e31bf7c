"""A timer of the kernel. When it is not set again in time, the thread that made it writes down its own stack.

Guarantee: that needs no interpreter: the stack is written even while a call into C keeps every Python thread from running.
Rule: a stack is walked by the thread whose stack it is, and by no other. `faulthandler.dump_traceback_later`, which would be
simpler, walks it from a thread of its own while it changes: a worker that had only been starved for a while died of that.

The signal and the timer are of our own. `signal.setitimer` would take the one timer that the app and its packages may use.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import threading
import time

SIGNAL = signal.SIGRTMAX - 4
"""Any that the app does not use; programs that an object starts do not inherit its handler."""
_THREAD_ID = 4
"""SIGEV_THREAD_ID of timer_create(2): the signal goes to one thread."""


class _Event(ctypes.Structure):
    """struct sigevent."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread_id", ctypes.c_int),
        ("padding", ctypes.c_char * (64 - ctypes.sizeof(ctypes.c_void_p) - 3 * ctypes.sizeof(ctypes.c_int))),
    )


class _Times(ctypes.Structure):
    """struct itimerspec: again after (never), and when."""

    _fields_ = (
        ("again_s", ctypes.c_long),
        ("again_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


class StackTimer:
    """Made in the thread whose stack it is about."""

    def __init__(self, fd: int) -> None:
        """`fd`: where the stack is written, the innermost first, in the form of `faulthandler`. Raises OSError."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        event = _Event(signal=SIGNAL, notify=_THREAD_ID, thread_id=threading.get_native_id())
        faulthandler.register(SIGNAL, file=fd, all_threads=False)
        self._must(self._libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)))

    def set(self, after_s: float) -> None:
        """From now on; what it was set to before is forgotten. In any thread."""
        s, rest = divmod(after_s, 1.0)
        times = _Times(s=int(s), ns=int(rest * 1e9))
        self._must(self._libc.timer_settime(self._timer, 0, ctypes.byref(times), None))

    def close(self) -> None:
        self._must(self._libc.timer_delete(self._timer))
        faulthandler.unregister(SIGNAL)

    def _must(self, result: int) -> None:
        if result:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
