"""A real service for clients of every language."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import COUNTER, ROOT
from tests.support.service_process import ServiceProcess


class RealService(ServiceProcess):
    """`tidegate serve examples/counter.py` on a port of its own."""

    def __init__(self, data: Path, workers: int) -> None:
        listen = ["--listen", "tcp://127.0.0.1:0", "--workers", str(workers)]
        super().__init__(["-m", "tidegate", "serve", COUNTER, "--data", str(data), *listen], cwd=str(ROOT))
        self.endpoint = self.wait_for(r"ready on (\S+)")[1]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    running = RealService(tmp_path_factory.mktemp("service") / "data", workers=2)
    try:
        yield running
        running.stop()
    finally:
        running.close()
