"""A service that is to be run: everything that its supervisor supervises with."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidegate.runtime.data.directory import DataDirectory
from tidegate.runtime.logs.output import Outputs
from tidegate.runtime.sockets.port import Port
from tidegate.runtime.supervisor.access_watch import AccessWatch
from tidegate.runtime.supervisor.config import Config, Configuration
from tidegate.runtime.supervisor.member import Join
from tidegate.runtime.supervisor.rules.placement import Placement
from tidegate.runtime.supervisor.run_directory import RunDirectory
from tidegate.runtime.wire.supervisor_messages import ClusterPlace

# `-P`: a file `router.py` or `shard.py` in the current directory must not take the place of ours.
WORKER_COMMAND = (sys.executable, "-P", "-m", "tidegate.shard")
ROUTER_COMMAND = (sys.executable, "-P", "-m", "tidegate.router")


@dataclass(frozen=True)
class Service:
    """What there is of each is there once, and outlives every process of the service."""

    config: Config
    directory: DataDirectory
    run_directory: RunDirectory
    placement: Placement
    version: str
    memory_bytes: int
    """What this service may use."""
    port: Port
    """Where the routers get their sockets from."""
    worker_command: Sequence[str] = WORKER_COMMAND
    router_command: Sequence[str] = ROUTER_COMMAND
    cores: float = 0.0
    """How many it may use; 0: nobody has looked."""
    routers: int = 1
    metrics: socket.socket | None = None
    """Where those listen who watch it over HTTP."""
    access: AccessWatch | None = None
    """Who may connect, where clients need an access key."""
    outputs: Outputs | None = None
    """Where goes what the children print and log; None: where the supervisor's own goes."""
    configuration: Configuration | None = None
    """As it was read: where each value of `config` comes from."""
    read_again: Callable[[], Configuration] | None = None
    """The newest one, for a reload. Raises OperatorError."""
    cluster: ClusterPlace | None = None
    """Where the logs are kept, if not on this machine."""
    join: Join | None = None
    """Makes this host a member of that cluster."""
    door: Port | None = None
    """Where the other hosts of the cluster are heard."""

    def port_of(self, *, is_door: bool) -> Port:
        """Where a router gets its sockets from."""
        return self.door if is_door and self.door is not None else self.port
