"""A service for each test: a process of its own on a free port, its data in a folder that is thrown away."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import tidegate

APP = Path(__file__).parents[1] / "shop.py"

Running = Callable[[], AbstractContextManager[tidegate.SyncClient]]


@pytest.fixture
def running(tmp_path: Path) -> Running:
    """`with running() as client:` is a service from its start to its stop; a second one goes on with the data of the first."""

    @contextmanager
    def run() -> Iterator[tidegate.SyncClient]:
        place = [
            "--data",
            str(tmp_path / "data"),
            "--listen",
            "tcp://127.0.0.1:0",
            "--workers",
            "1",
        ]
        command = [sys.executable, "-m", "tidegate", "serve", str(APP), *place]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            try:
                assert service.stdout is not None
                _, is_ready, endpoint = service.stdout.readline().rpartition(
                    " is ready on "
                )
                assert is_ready, "the service did not start; it has said why"
                with tidegate.connect_sync(endpoint.strip()) as client:
                    yield client
            finally:
                service.terminate()

    return run


@pytest.fixture
def client(running: Running) -> Iterator[tidegate.SyncClient]:
    """Of a service that has no data yet."""
    with running() as client:
        yield client
