"""`tidegate serve`, told by a file, and by no other host, which shards of its cluster it is to have: `DATA.shards`, read at the
start and with each SIGUSR1. What its workers have is in `DATA.owned`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until
from tidegate.runtime.cli.cli import main
from tidegate.runtime.cli.commands import serve
from tidegate.runtime.supervisor.supervisor import Supervisor
from tidegate.runtime.wire.supervisor_messages import Failed

COMMAND = (sys.executable, "-m", "tests.support.tidegate_told")
LOOK_S = 0.002


class Told:
    """A service that is told its shards, as the test sees it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        service.command = COMMAND

    def tell(self, shards: set[int]) -> None:
        """Before the start, or while it runs."""
        path = _beside(self.service.data, "shards")
        path.with_suffix(".new").write_text(json.dumps(sorted(shards)))
        path.with_suffix(".new").replace(path)
        if self.service.running:
            os.kill(self.service.supervisor.pid, signal.SIGUSR1)

    @property
    def owned(self) -> set[int]:
        try:
            return set(json.loads(_beside(self.service.data, "owned").read_text() or "[]"))
        except (FileNotFoundError, ValueError):
            return set()

    def wait_to_own(self, shards: set[int]) -> None:
        wait_until(lambda: self.owned == shards, f"shards {shards}", seen=lambda: f"{self.owned}\n{self.service.output}")


def _beside(data: Path, what: str) -> Path:
    return data.with_name(f"{data.name}.{what}")


async def _run(supervisor: Supervisor) -> Failed | None:
    data = Path(supervisor.identity.data)
    shards = supervisor.supervision.shards
    assert shards is not None, "it has a cluster"

    def read() -> None:
        supervisor.set_shards(json.loads(_beside(data, "shards").read_text()))

    async def write() -> None:
        told = None
        while True:
            owned = sorted(shards.owned)
            if owned != told:
                told = owned
                _beside(data, "owned").write_text(json.dumps(owned))
            await asyncio.sleep(LOOK_S)

    read()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, read)
    writing = asyncio.create_task(write())
    try:
        return await plain_run(supervisor)
    finally:
        writing.cancel()


plain_run = Supervisor.run

if __name__ == "__main__":
    os.chdir(ROOT)
    setattr(Supervisor, "run", _run)  # noqa: B010  # mypy would have it be of the class
    setattr(serve, "join_hosts", lambda *_: None)  # noqa: B010  # nobody else tells it
    sys.exit(main(sys.argv[1:]))
