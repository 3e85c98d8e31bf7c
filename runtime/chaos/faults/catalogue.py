"""Every fault there is, by the name that it has on the command line. Pure: what each does is in `faults`."""

from __future__ import annotations

from typing import NamedTuple


class FaultKind(NamedTuple):
    says: str
    """One line of the help."""
    needs_disk: bool = False
    """One of its own: root, and --fs."""
    needs_syncs: bool = False
    """A C compiler."""


FAULTS = {
    "kill": FaultKind("SIGKILL to a worker, a router or the supervisor"),
    "freeze": FaultKind("SIGSTOP to one of them, and SIGCONT up to 3 s later"),
    "drop": FaultKind("connections to the router are reset"),
    "restart": FaultKind("SIGTERM to the service, and a start up to 1 s later"),
    "reload": FaultKind("tidegate reload, now and then of an app that cannot be loaded"),
    "roll": FaultKind("tidegate restart --rolling"),
    "slow": FaultKind("syncs of the disk take up to 1 s longer, for up to 4 s", needs_syncs=True),
    "fail": FaultKind("one sync of the disk fails", needs_syncs=True),
    "fill": FaultKind("the disk is full for a while, and commits meet it", needs_disk=True),
    "power": FaultKind("the power is cut: what was not flushed is gone; then a start", needs_disk=True),
}
