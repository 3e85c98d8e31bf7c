"""Every fault there is, by the name that it has on the command line. Pure: what each does is in `faults`."""

from __future__ import annotations

from typing import Literal, NamedTuple

Where = Literal["anywhere", "one machine", "hosts"]


class FaultKind(NamedTuple):
    says: str
    """One line of the help."""
    where: Where = "one machine"
    """On one machine, in a cluster, or on both."""
    needs_network: bool = False
    """One of its own: root."""
    shows: bool = False
    """Callers see errors of it, also with keys."""
    needs_disk: bool = False
    """One of its own: root, and --fs."""
    needs_syncs: bool = False
    """A C compiler."""


FAULTS = {
    "kill": FaultKind("SIGKILL to a worker, a router or the supervisor", "anywhere"),
    "freeze": FaultKind("SIGSTOP to one of them, and SIGCONT up to 3 s later", "anywhere"),
    "drop": FaultKind("connections to the router are reset", "anywhere"),
    "restart": FaultKind("SIGTERM to the service, and a start up to 1 s later", "anywhere"),
    "reload": FaultKind("tidegate reload, now and then of an app that cannot be loaded"),
    "roll": FaultKind("tidegate restart --rolling"),
    "slow": FaultKind("syncs of the disk take up to 1 s longer, for up to 4 s", needs_syncs=True),
    "fail": FaultKind("one sync of the disk fails", needs_syncs=True),
    "fill": FaultKind("the disk is full for a while, and commits meet it", needs_disk=True),
    "power": FaultKind("the power is cut: what was not flushed is gone; then a start", needs_disk=True),
    "host": FaultKind("SIGKILL to a whole host, now and then with its disk, and a start up to 8 s later", "hosts"),
    "sleep": FaultKind("SIGSTOP to a whole host, and SIGCONT up to 10 s later", "hosts"),
    "move": FaultKind("shards are moved, hosts drained, shards dealt evenly; the next fault meets them on their way", "hosts"),
    "server": FaultKind("SIGKILL to a NATS server, mostly one that leads, and a start up to 5 s later", "hosts"),
    "stall": FaultKind("SIGSTOP to one, and SIGCONT up to 8 s later", "hosts"),
    "retire": FaultKind("lame duck of one, and a start", "hosts"),
    "majority": FaultKind("two NATS servers killed or asleep, or all apart, for up to 12 s", "hosts"),
    "full": FaultKind("the stream of a shard has no room left for a while", "hosts", shows=True),
    "cut": FaultKind("the network is cut, in one of eleven shapes, for up to 12 s", "hosts", needs_network=True),
}
