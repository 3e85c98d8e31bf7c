"""A service in a process of its own, as the tests of supervisor and command line start it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from tests.support.waiting import WITHIN_S, wait_until


class ServiceProcess:
    """Everything it prints is kept and can be waited for."""

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None, cwd: str | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The `count`th match of the pattern in what was printed so far or will be."""
        compiled = re.compile(pattern)

        def matches() -> list[re.Match[str]]:
            return list(compiled.finditer(self.output))

        def printed() -> bool:
            assert self.process.poll() is None or len(matches()) >= count, f"ended without {pattern!r}:\n{self.output}"
            return len(matches()) >= count

        wait_until(printed, f"printing {pattern!r}", seen=lambda: self.output)
        return matches()[count - 1]

    def pid_of(self, name: str, count: int = 1) -> int:
        return int(self.wait_for(rf"{name} is process (\d+)", count)[1])

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(WITHIN_S)
        self._reader.join(WITHIN_S)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: dict[str, str] | None = None, cwd: str | None = None
) -> Iterator[ServiceProcess]:
    service = ServiceProcess(command, environment, cwd)
    try:
        yield service
    finally:
        service.close()


def is_alive(pid: int) -> bool:
    """Zombies, which only wait for somebody to ask how they ended, are not."""
    try:
        with open(f"/proc/{pid}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False
