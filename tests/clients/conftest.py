"""A real service for clients of every language."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class RealService:
    """`tidegate serve examples/counter.py` on a port of its own."""

    def __init__(self, data: Path, workers: int) -> None:
        command = [
            sys.executable, "-m", "tidegate", "serve", str(ROOT / "examples/counter.py"), "--data", str(data),
            "--listen", "tcp://127.0.0.1:0", "--workers", str(workers),
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        self.output = ""
        for line in self.process.stdout:
            self.output += line
            ready = re.search(r"ready on (\S+)", line)
            if ready:
                self.endpoint = ready[1]
                break
        else:
            raise AssertionError(f"the service ended:\n{self.output}")
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self._reader.join(10)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    running = RealService(tmp_path_factory.mktemp("service") / "data", workers=2)
    try:
        yield running
    finally:
        running.stop()
