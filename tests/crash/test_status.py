"""How a service is, is told on a full disk too: by who runs there, by who starts there, and past a router that hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.crash.boxes import serve_boxes
from tests.crash.disk import MakeDisk
from tests.crash.test_full_disk import FULL, fill_until_refused
from tests.support.service import KILLED_BY_TEST, Serve, Service
from tests.support.waiting import wait_until


def tidegate(service: Service, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tidegate", *command, "--connect", service.endpoint], capture_output=True, text=True, timeout=60
    )
    return done.stdout if done.returncode == 0 else ""


def places(service: Service) -> set[str]:
    """Whose problems are told."""
    status: dict[str, Any] = json.loads(tidegate(service, "status", "--json") or "{}")
    return {each["where"].partition(",")[0] for each in status.get("problems", [])}


@pytest.mark.root
@pytest.mark.timeout(120)
def test_on_a_full_disk_problems_are_told_also_after_a_start_and_while_the_router_hangs(
    make_disk: MakeDisk, serve: Serve, tmp_path: Path
) -> None:
    disk = make_disk(200 << 20, "ext4")
    service, turns = serve_boxes(serve, tmp_path, disk)
    service.expect(FULL, KILLED_BY_TEST, "does not answer", "did not run for", "cannot listen for commands")
    fill_until_refused(service, disk, turns)
    for _ in range(2):
        router = service.router_pid()
        os.kill(router, signal.SIGSTOP)
        wait_until(lambda: places(service) >= {"router", "worker 0"}, "both problems", pause_s=0.3, within_s=20)
        assert tidegate(service, "top").startswith("PROBLEM ")
        os.kill(router, signal.SIGCONT)
        if service.unclean_end:
            break
        service.kill_everything()
        disk.use_up_inodes()
        disk.fill_to_the_last_block()
        service.start(1)
        service.unclean_end = True
    disk.empty()
