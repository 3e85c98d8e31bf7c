"""The edge of a child process (worker, router): its tie to the supervisor, its signals, its log, its core.

A child never outlives its supervisor. Three things see to that, because each alone has a gap: the kernel kills it when the
supervisor's main thread ends (PR_SET_PDEATHSIG, which a supervisor already dead does not trigger), it refuses to start when
its parent is not the process that made the control socket, and it stops at the end of the control stream.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import struct
from typing import Any

from tidegate.runtime.child.control import SupervisorGone
from tidegate.runtime.child.output import Outputs, Sink, hold_standard_descriptors, take_streams
from tidegate.runtime.descriptors import raise_limit
from tidegate.runtime.errors import indented
from tidegate.runtime.heap import keep_in_one_piece

LOG_LEVEL_VARIABLE = "TIDEGATE_LOG_LEVEL"
"""Environment variable by which the supervisor tells its children the level of their logs."""

LOG_JOURNAL_VARIABLE = "TIDEGATE_LOG_JOURNAL"
"""Set where the supervisor logs to journald."""

LOCK_FD_VARIABLE = "TIDEGATE_LOCK_FD"
"""Descriptor of the data directory's lock. Children keep it open: the lock is free only when the last of them is gone."""

STUCK_FD_VARIABLE = "TIDEGATE_STUCK_FD"
"""Descriptor of a pipe into which a worker's stack is written when none of its Python code can run."""

_PR_SET_PDEATHSIG = 1

log = logging.getLogger("tidegate")


# Life and death


def prepare_child(role: str, control_fd: int) -> Outputs:
    """Call first in a child's `main`, from the main thread. `role` names the process in its log, e.g. `worker 3`. Returns where
    it prints and logs, to be flushed before an exit that Python does not see. Raises SupervisorGone."""
    hold_standard_descriptors()
    raise_limit()
    keep_in_one_piece()
    outputs = take_streams()
    set_up_logging(role, outputs)
    os.environ.pop(LOG_JOURNAL_VARIABLE, None)
    _die_with_supervisor(control_fd)
    # What user code starts must hold neither our control stream open nor the lock.
    os.set_inheritable(control_fd, False)
    if lock_fd := os.environ.pop(LOCK_FD_VARIABLE, ""):
        os.set_inheritable(int(lock_fd), False)
    if stuck_fd := os.environ.get(STUCK_FD_VARIABLE, ""):
        os.set_inheritable(int(stuck_fd), False)
    # The supervisor decides about the end of its children, by `Drain`; a Ctrl-C or a `kill -TERM` meant for the whole group
    # must not cut calls. An empty handler, not SIG_IGN: ignored signals stay ignored in processes that user code starts.
    signal.signal(signal.SIGINT, _ignore)
    signal.signal(signal.SIGTERM, _ignore)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return outputs


def _ignore(_signal: int, _frame: object) -> None:
    pass


def _die_with_supervisor(control_fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The supervisor may have died before the line above; then the parent is now somebody else. The credentials of a socket
    # pair are those of the process that made it, so this holds in any pid namespace and under any subreaper.
    with socket.socket(fileno=os.dup(control_fd)) as control:
        credentials = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    supervisor_pid = struct.unpack("3i", credentials)[0]
    if os.getppid() != supervisor_pid:
        raise SupervisorGone(f"the parent is {os.getppid()}, the supervisor was {supervisor_pid}")


def pin(cpu: int | None) -> bool:
    """Keeps this process on one core. False, with one line in the log, where that is not possible: work goes on unpinned."""
    if cpu is None:
        return False
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:  # EINVAL: the core is offline or not ours. EPERM: a seccomp filter.
        log.warning("cannot pin to core %d, running unpinned: %s", cpu, error.strerror)
        return False
    return True


# The log


class _LineFormatter(logging.Formatter):
    """One line of time, level, process and text on a terminal; for journald, its priority on every line instead. Further lines
    are indented: nothing that is logged looks like a line of its own."""

    def __init__(self, role: str, *, journal: bool) -> None:
        super().__init__(f"{role}: %(message)s" if journal else f"%(asctime)s.%(msecs)03d %(levelname)-7s {role}: %(message)s")
        self.datefmt = "%H:%M:%S"
        self._journal = journal

    def formatException(self, ei: Any) -> str:  # noqa: N802  # its name in `logging`
        try:
            return super().formatException(ei)
        except BaseException:  # Of a class that misbehaves.
            return "a traceback that cannot be made"

    def format(self, record: logging.LogRecord) -> str:
        text = indented(super().format(record))
        if not self._journal:
            return text
        priority = _journal_priority(record.levelno)
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


class _LogHandler(logging.Handler):
    """Writes to where the process logs, whatever object code does to `sys.stderr`. Never raises."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except BaseException as error:  # Arguments of object code, which may do anything when they are asked for their text.
            text = f"a log line of {record.pathname}:{record.lineno} has no text: making it raised {type(error).__name__}"
        self._sink.write(text.encode(errors="backslashreplace") + b"\n")


def say_past_locks(level: int, text: str) -> None:
    """A line of the service in its log, and in no handler of the app's, from a thread that must wait for nobody: whoever holds a
    lock of `logging` may wait for something himself."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LogHandler):
            handler.emit(logging.LogRecord("tidegate.objects", level, "", 0, text, None, None))


def _journal_priority(level: int) -> int:
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def logs_to_journal() -> bool:
    """Whether stderr ends in journald, for a child through its supervisor: JOURNAL_STREAM is `device:inode` of the pipe that
    systemd gave us."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    ours = os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return ours or bool(os.environ.get(LOG_JOURNAL_VARIABLE))


def set_up_logging(role: str, outputs: Outputs, level: str | None = None) -> None:
    """Everything logged in this process goes to stderr in one format. `level` defaults to what the supervisor said."""
    handler = _LogHandler(outputs.stderr)
    handler.setFormatter(_LineFormatter(role, journal=logs_to_journal()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel((level or os.environ.get(LOG_LEVEL_VARIABLE) or "info").upper())
