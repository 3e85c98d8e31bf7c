"""The unit as systemd sees it: verified, judged, and started for real in a systemd booted over a copy of this machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.systemd.booted import Booted, run, skip_unless_bootable
from tidegate.runtime.cluster.nats_servers import nats_server

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "tidegate.service"
BACKUP = ROOT / "systemd" / "tidegate-backup.service"
NATS = ROOT / "systemd" / "nats-server.service"
EXPOSURE_MAX = 15
"""Tenths of the points of `systemd-analyze security`."""

needs_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze (package systemd)")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists."""
    file = tmp_path / UNIT.name
    file.write_text(UNIT.read_text().replace("/opt/tidegate/bin/tidegate", "/bin/true"))
    shutil.copy(UNIT.with_suffix(".socket"), tmp_path)
    return file


@needs_analyze
def test_systemd_has_nothing_to_say_about_the_unit(unit: Path) -> None:
    verified = run("systemd-analyze", "verify", "--man=no", str(unit), str(unit.with_suffix(".socket")))
    assert verified.stdout + verified.stderr == ""  # It exits with 0 for keys that it does not know.


@needs_analyze
def test_systemd_has_nothing_to_say_about_the_unit_of_the_servers(tmp_path: Path) -> None:
    (unit := tmp_path / NATS.name).write_text(NATS.read_text().replace("/opt/tidegate/bin/nats-server", "/bin/true"))
    verified = run("systemd-analyze", "verify", "--man=no", str(unit))
    assert verified.stdout + verified.stderr == ""


@needs_analyze
def test_a_key_that_systemd_does_not_know_would_be_noticed(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("[Service]", "[Service]\nProtectEverything=yes"))
    verified = run("systemd-analyze", "verify", "--man=no", str(unit))
    assert "ProtectEverything" in verified.stdout + verified.stderr


@needs_analyze
@pytest.mark.parametrize("template", [UNIT, BACKUP, NATS], ids=lambda template: template.stem)
def test_the_sandbox_is_tight(template: Path, tmp_path: Path) -> None:
    (unit := tmp_path / template.name).write_text(template.read_text().replace("/opt/tidegate/bin/", "/bin/"))
    judged = run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager", str(unit))
    assert judged.returncode == 0, judged.stdout.splitlines()[-1]


# Booted


class Machine(Booted):
    """A copy of this one, in which the service is installed by hand."""

    def __init__(self, log: Path) -> None:
        boot = str(Path(__file__).with_name("boot.sh"))
        site = Path(msgspec.__file__).parents[1]
        super().__init__([boot, str(ROOT), sys.base_prefix, str(site)], log, "basic.target")

    def tidegate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("/opt/tidegate/bin/tidegate", *arguments)

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.tidegate("status", "--json").stdout))

    def processes(self) -> dict[str, dict[str, Any]]:
        return {process["name"]: process for process in self.status()["processes"]}

    def restarted(self, name: str) -> bool:
        """False also while nobody can be asked."""
        answered = self.tidegate("status", "--json")
        if answered.returncode != 0:
            return False
        process = next(process for process in json.loads(answered.stdout)["processes"] if process["name"] == name)
        return bool(process["restarts"] == 1 and process["state"] == "ready")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    skip_unless_bootable()
    machine = Machine(tmp_path_factory.mktemp("machine") / "boot.log")
    try:
        machine.wait_until_booted()
        yield machine
    finally:
        machine.close()


# The tests of the booted machine share it, and run in this order.


@pytest.mark.root
def test_the_booted_service_is_active_when_it_answers(machine: Machine) -> None:
    machine.wait_until_active()
    assert machine.state()["StatusText"].startswith("serving 4 classes on tcp://127.0.0.1:7711 with")
    called = machine.tidegate("call", "Counter", "alice", "get_unique_number")
    assert (called.stdout, called.returncode) == ("0\n", 0), called.stderr


@pytest.mark.root
def test_in_the_sandbox_workers_are_pinned_and_only_the_service_reads_its_data(machine: Machine) -> None:
    machine.wait_until_active()
    assert "unpinned" not in machine.journal()
    workers = [process for name, process in machine.processes().items() if name.startswith("worker")]
    for worker in workers:
        if worker["core"] is not None:
            assert machine.run("taskset", "-cp", str(worker["pid"])).stdout.endswith(f": {worker['core']}\n")
    owner = machine.run("stat", "-c", "%U %a", "/var/lib/tidegate", "/run/tidegate", "/var/lib/tidegate/tidegate.json").stdout
    assert owner.splitlines() == ["tidegate 700", "tidegate 700", "tidegate 600"]


@pytest.mark.root
def test_the_booted_service_survives_the_loss_of_a_worker_and_of_the_router(machine: Machine) -> None:
    machine.wait_until_active()
    main_pid = machine.state()["MainPID"]
    for number, name in ((1, "worker 0"), (2, "router")):
        machine.run("kill", "-9", str(machine.processes()[name]["pid"]))
        machine.wait_until(lambda name=name: machine.restarted(name), f"the restart of {name}")  # type: ignore[misc]  # its default
        assert machine.tidegate("call", "Counter", "alice", "get_unique_number").stdout == f"{number}\n"
    assert machine.state()["MainPID"] == main_pid
    assert machine.state()["NRestarts"] == "0"


@pytest.mark.root
def test_systemd_starts_the_service_again_when_its_supervisor_is_killed(machine: Machine) -> None:
    machine.wait_until_active()
    machine.run("kill", "-9", machine.state()["MainPID"])
    machine.wait_until(lambda: machine.state()["NRestarts"] == "1", "the restart")
    machine.wait_until_active()
    assert machine.tidegate("call", "Counter", "alice", "get_unique_number").stdout == "3\n"


CALLER = """
import asyncio, sys, time, tidegate

async def main():
    errors, answered, slowest, until = [], 0, 0.0, time.monotonic() + float(sys.argv[1])
    async with tidegate.connect("tcp://127.0.0.1:7711", timeout=30) as client:
        async def call(number):
            nonlocal answered, slowest
            while time.monotonic() < until:
                began = time.monotonic()
                try:
                    await client.call("Counter", f"load{number}", "get_unique_number")
                    answered += 1
                except Exception as error:
                    errors.append(repr(error))
                    await asyncio.sleep(0.01)
                slowest = max(slowest, time.monotonic() - began)
        await asyncio.gather(*(call(number) for number in range(20)))
    print(answered, round(slowest, 2), errors[:3])

asyncio.run(main())
"""


PYTHON = ("env", "PYTHONPATH=/opt/source:/opt/site", "LD_LIBRARY_PATH=/opt/python/lib", "/opt/python/bin/python3")


def calling(machine: Machine, seconds: float) -> subprocess.Popen[str]:
    """Twenty callers of the Python client, in the machine."""
    return subprocess.Popen([*machine.entering(), *PYTHON, "-c", CALLER, str(seconds)], stdout=subprocess.PIPE, text=True)


@pytest.mark.root
def test_no_caller_of_the_python_client_fails_while_the_service_is_reloaded_and_restarted_by_systemd(machine: Machine) -> None:
    machine.wait_until_active()
    caller = calling(machine, 8.0)
    for command in ("reload", "restart", "reload", "restart"):
        assert machine.run("systemctl", command, "tidegate").returncode == 0, machine.journal()
        machine.wait_until_active()
    said, _ = caller.communicate(timeout=60)
    print(said)
    answered, _, errors = said.split(" ", 2)
    assert errors.strip() == "[]"
    assert int(answered) > 100


@pytest.mark.root
def test_a_reload_of_a_broken_app_fails_and_the_service_stays_active_with_what_it_had(machine: Machine) -> None:
    machine.wait_until_active()
    main_pid = machine.state()["MainPID"]
    machine.run("sh", "-c", "cp /etc/tidegate/app.py /tmp/app.py; echo 'import no_such_module' > /etc/tidegate/app.py")
    assert machine.run("systemctl", "reload", "tidegate").returncode != 0
    machine.wait_until_active()
    assert machine.state()["MainPID"] == main_pid
    assert machine.state()["StatusText"].startswith("degraded: load /etc/tidegate/app.py: the last reload failed")
    machine.run("cp", "/tmp/app.py", "/etc/tidegate/app.py")
    assert machine.run("systemctl", "reload", "tidegate").returncode == 0
    assert machine.state()["StatusText"].startswith("serving")


@pytest.mark.root
def test_a_connection_waits_in_the_socket_of_systemd_until_the_service_is_there_again(machine: Machine) -> None:
    machine.wait_until_active()
    machine.run("systemctl", "kill", "--signal=KILL", "tidegate")
    program = "import socket; socket.create_connection(('127.0.0.1', 7711), timeout=10)"
    connected = machine.run(*PYTHON, "-c", program)
    assert connected.returncode == 0, connected.stderr
    machine.wait_until_active()
    assert machine.tidegate("call", "Counter", "waits", "get_unique_number").stdout == "0\n"


@pytest.mark.root
def test_the_booted_service_stops_cleanly_and_quickly(machine: Machine) -> None:
    machine.wait_until_active()
    began_at = time.monotonic()
    assert machine.run("systemctl", "stop", "tidegate.socket", "tidegate").returncode == 0
    assert time.monotonic() - began_at < 10
    state = machine.state()
    assert (state["ActiveState"], state["Result"], state["ExecMainStatus"]) == ("inactive", "success", "0")


@pytest.mark.root
def test_what_was_confirmed_is_there_after_the_next_start(machine: Machine) -> None:
    assert machine.run("systemctl", "restart", "tidegate").returncode == 0, machine.journal()
    assert machine.tidegate("call", "Counter", "alice", "get_unique_number").stdout == "4\n"


@pytest.mark.root
def test_a_broken_app_makes_the_start_fail_with_its_traceback_in_the_journal(machine: Machine) -> None:
    machine.run("sh", "-c", "echo 'import no_such_module' > /etc/tidegate/app.py")
    assert machine.run("systemctl", "restart", "tidegate").returncode != 0
    assert "No module named 'no_such_module'" in machine.journal()
    state = machine.state()  # It would not help to try again, and nobody does.
    assert (state["ActiveState"], state["Result"], state["ExecMainStatus"]) == ("failed", "exit-code", "78")
    machine.run("systemctl", "stop", "tidegate.socket", "tidegate")


@pytest.mark.root
def test_the_sample_of_a_server_runs_in_the_sandbox_of_its_unit_and_retires_when_it_is_stopped(machine: Machine) -> None:
    root = Path(f"/proc/{machine.init}/root")
    shutil.copy(nats_server(), root / "opt/tidegate/bin/nats-server")
    shutil.copy(NATS, root / "etc/systemd/system")
    (root / "etc/nats-server").mkdir()
    config = root / "etc/nats-server/nats-server.conf"
    config.write_text(re.sub(r"192\.0\.2\.\d:", "127.0.0.1:", NATS.with_suffix(".conf").read_text()))
    config.chmod(0o600)
    machine.run("systemctl", "daemon-reload")
    assert machine.run("systemctl", "start", NATS.name).returncode == 0
    told = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8222/varz', timeout=5).read().decode())"
    machine.wait_until(lambda: machine.run(*PYTHON, "-c", told).returncode == 0, "the server")
    varz = json.loads(machine.run(*PYTHON, "-c", told).stdout)
    assert (varz["jetstream"]["config"]["sync_always"], varz["jetstream"]["config"]["store_dir"]) == (
        True,
        "/var/lib/nats-server/jetstream",
    )
    assert machine.run("systemctl", "stop", NATS.name).returncode == 0
    journal = machine.run("journalctl", "-u", NATS.name, "--no-pager", "-o", "cat").stdout
    assert "Entering lame duck mode" in journal, journal
    state = machine.state(NATS.name)
    assert (state["ActiveState"], state["Result"]) == ("inactive", "success"), journal
