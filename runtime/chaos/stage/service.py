"""The service that is driven and hurt: its processes, its app, its log.

It is started as an operator would, by `tidegate serve`, in a session of its own: Ctrl-C is for chaos.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

APP = Path(__file__).with_name("app.py")
TIDEGATE = (sys.executable, "-m", "tidegate")
START_S_MAX = 180.0
STOP_S_MAX = 30.0
ENDED_S_MAX = 30.0
POLL_S = 0.02
CONFIG = """[service]
workers = {workers}
routers = {routers}
stop_s = 20

[storage]
idle_evict_s = {idle_evict_s}
"""
_ENTRY = re.compile(r"^(?=\d{4}-\d\d-\d\dT\d\d:)", re.MULTILINE)
"""Where a line of the log begins, with those that belong to it."""


class ServiceFailed(Exception):
    """It did not start, or did not end."""


class ChaosService:
    def __init__(
        self,
        folder: Path,
        data: Path,
        endpoint: str,
        *,
        workers: int,
        routers: int,
        environment: Mapping[str, str],
        enter: Sequence[str] = (),
        flags: Sequence[str] = (),
    ) -> None:
        """`folder` gets the app, the configuration and the log. `enter`: what goes before its commands; `flags`: further ones of
        `tidegate serve`."""
        self.folder = folder
        self.data = data
        self.endpoint = endpoint
        self.log = folder / "service.log"
        self.starts = 0
        self._log_begins_at = 0
        self._app = folder / "chaos_app.py"
        self._enter = enter
        self._flags = flags
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self.write_app("")
        self._config = folder / "tidegate.toml"
        self._config.write_text(CONFIG.format(workers=workers, routers=routers, idle_evict_s=1))

    # Life

    def start(self) -> None:
        """Returns when it is ready. Raises ServiceFailed."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        self.starts += 1
        command = [*self._enter, *TIDEGATE, "serve", str(self._app), "--config", str(self._config)]
        command += ["--data", str(self.data), "--listen", self.endpoint, *self._flags]
        with self.log.open("ab") as log:
            self._log_begins_at = log.tell()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def wait_until_ready(self, pause: Callable[[float], object] | None = None) -> None:
        """After `launch`. `pause` waits so many seconds. Raises ServiceFailed."""
        assert self._process is not None
        until = time.monotonic() + START_S_MAX
        while not self.is_ready:
            if self._process.poll() is not None:
                raise ServiceFailed(f"it does not start: {_last_line(self._log_of_this_start())}")
            if time.monotonic() > until:
                raise ServiceFailed(f"it is not ready after {START_S_MAX:g} s: {_last_line(self._log_of_this_start())}")
            (pause or _pause)(POLL_S)

    @property
    def is_ready(self) -> bool:
        """It has said so since its last start."""
        return b"is ready on" in self._log_of_this_start()

    def _log_of_this_start(self) -> bytes:
        with self.log.open("rb") as log:
            log.seek(self._log_begins_at)
            return log.read()

    def write_app(self, last_line: str) -> None:
        """The app with one line more: another version of it. At once: nobody finds half of it."""
        new = self._app.with_suffix(".new")
        new.write_text(f"{APP.read_text()}\n{last_line}\n")
        new.rename(self._app)

    def command(self, *command: str) -> subprocess.Popen[str]:
        """Starts `tidegate COMMAND` for this service."""
        line = [*self._enter, *TIDEGATE, *command, "--connect", self.endpoint, "--timeout", str(START_S_MAX)]
        return subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # A Ctrl-C on the terminal is for the campaign alone.
        )

    def stop(self) -> None:
        """As an operator would. Raises ServiceFailed if it does not end well."""
        self.terminate()
        self.wait_until_stopped()

    def terminate(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def wait_until_stopped(self) -> None:
        """After `terminate`. Raises ServiceFailed."""
        if self._process is None:
            return
        try:
            code = self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise ServiceFailed(f"it does not stop within {STOP_S_MAX:g} s") from None
        self._process = None
        if code != 0:
            raise ServiceFailed(f"it stopped with exit code {code}")

    def kill_all(self) -> None:
        """SIGKILL to every process, as nearly at one instant as one can; returns when all have ended."""
        if self._process is None:
            return
        self.signal_all(signal.SIGKILL)
        self.wait_until_ended()

    def signal_all(self, number: signal.Signals, pids: Sequence[int] | None = None) -> list[int]:
        """To those processes, or to all there are, the supervisor first; which they were."""
        pids = self.pids() if pids is None else pids
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return list(pids)

    def wait_until_ended(self) -> None:
        """After the supervisor was killed. Its children follow. Raises ServiceFailed if they do not."""
        assert self._process is not None
        self._process.wait()
        self._process = None
        until = time.monotonic() + ENDED_S_MAX
        while left := self._left():
            if time.monotonic() > until:
                named = list(map(_command_line, left))
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                raise ServiceFailed(f"these outlived the supervisor by {ENDED_S_MAX:g} s: {', '.join(named)}")
            _pause(POLL_S)

    def _left(self) -> list[int]:
        """Processes that have a file of its data open, the lock among them."""
        inside = f"{os.path.realpath(self.data)}/"
        found = []
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                links = (os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
                if pid != os.getpid() and any(link.startswith(inside) for link in links):
                    found.append(pid)
        return found

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # Processes

    def pids(self) -> list[int]:
        """Supervisor first, then routers and workers."""
        if self._process is None:
            return []
        return [self._process.pid, *self.pids_of("router"), *self.pids_of("shard")]

    def pids_of(self, role: str) -> list[int]:
        """`role`: `supervisor`, or the package of Tidegate that the process runs, `router` or `shard`."""
        if self._process is None:
            return []
        if role == "supervisor":
            return [self._process.pid] if self._process.poll() is None else []
        found = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children():
                with contextlib.suppress(psutil.Error):
                    if child.status() != psutil.STATUS_ZOMBIE and f"tidegate.{role}" in child.cmdline():
                        found.append(child.pid)
        return sorted(found)

    # What it says

    def log_says(self) -> str:
        """What must never be in the log: the first traceback that has not come through the app. Empty: there is none."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        for entry in _ENTRY.split(text):
            if "Traceback (most recent call last)" in entry and self._app.name not in entry:
                return entry.strip()
        return ""


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _command_line(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{pid} {' '.join(psutil.Process(pid).cmdline())}"
    return f"{pid}, gone by now"


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
