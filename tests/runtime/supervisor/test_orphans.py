"""A service that is process 1, as in a container: signals are obeyed, and orphans that end leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service_process import ServiceProcess
from tests.support.waiting import wait_until
from tidegate.runtime.addresses import free_port
from tidegate.runtime.client.synchronous import connect_sync
from tidegate.runtime.supervisor.orphans import reap

APP = """
import os
import subprocess
from pathlib import Path

from tidegate import DurableObject


class Parent(DurableObject):
    async def leave_orphans(self, count: int) -> None:
        for _ in range(count):
            subprocess.run(["sh", "-c", "sh -c 'exit 0' & exec sleep 0"], check=True)

    async def ended_unheard(self) -> list[str]:
        stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
        return [stat for stat in stats if stat.rpartition(")")[2].split()[0] == "Z"]

    async def pid_of_supervisor(self) -> int:
        return os.getppid()
"""


ALONE = """
import os, sys
os.execvp("unshare", ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *sys.argv[1:]])
"""


@pytest.fixture
def container(tmp_path: Path) -> Iterator[tuple[ServiceProcess, str]]:
    """A service that is process 1 of a namespace of its own, and where it listens."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode != 0:
        pytest.skip("needs root to make a process namespace")
    (tmp_path / "app.py").write_text(APP)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    serve = ["-m", "tidegate", "serve", str(tmp_path / "app.py"), "--data", str(tmp_path / "data"), "--listen", endpoint]
    service = ServiceProcess(["-c", ALONE, sys.executable, *serve, "--workers", "1"])
    try:
        service.wait_for("is ready on")
        yield service, endpoint
    finally:
        service.close()


def init_of(service: ServiceProcess) -> int:
    return int(Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text())


@pytest.mark.root
def test_as_process_1_a_service_reaps_orphans_and_stops_when_asked(container: tuple[ServiceProcess, str]) -> None:
    service, endpoint = container
    with connect_sync(endpoint) as client:
        parent = client.stub("Parent", "a")
        assert parent.pid_of_supervisor() == 1
        parent.leave_orphans(20)
        wait_until(lambda: not parent.ended_unheard(), "the end of all orphans", seen=parent.ended_unheard)
    os.kill(init_of(service), signal.SIGTERM)
    assert service.wait() == 0
    assert "stopping: answering" in service.output


@pytest.mark.root
def test_as_process_1_a_service_sees_its_own_workers_die_among_orphans(container: tuple[ServiceProcess, str]) -> None:
    service, endpoint = container
    init = init_of(service)
    with connect_sync(endpoint) as client:
        parent = client.stub("Parent", "a")
        parent.leave_orphans(20)
        for pid in Path(f"/proc/{init}/task/{init}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):  # An orphan, reaped by now.
                os.kill(int(pid), signal.SIGKILL)
        parent.leave_orphans(20)
        wait_until(lambda: not parent.ended_unheard(), "the end of all orphans", seen=parent.ended_unheard)
    service.wait_for("worker 0 is ready again")


def test_own_children_are_left_to_who_waits_for_them() -> None:
    program = """
import os, subprocess
from tidegate.runtime.supervisor.orphans import reap
own = subprocess.Popen(["true"])
os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
strangers = [os.spawnlp(os.P_NOWAIT, "true", "true") for _ in range(3)]
for pid in strangers:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
first = reap({own.pid})
assert own.wait() == 0
rest = reap(set())
assert sorted(first + rest) == sorted(strangers), (first, rest)
assert reap(set()) == []
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)


def test_nothing_is_reaped_where_nothing_has_ended() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert reap({child.pid}) == []
        child.kill()
