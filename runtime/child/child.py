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

from tidegate.runtime.child.control import SupervisorGone
from tidegate.runtime.descriptors import hold_standard, raise_limit
from tidegate.runtime.heap import keep_in_one_piece
from tidegate.runtime.logs.capture import start_log
from tidegate.runtime.logs.output import Outputs

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
    hold_standard()
    raise_limit()
    keep_in_one_piece()
    outputs = start_log(role)
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
