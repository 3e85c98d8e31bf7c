"""A systemd of its own, booted by a script that ends in systemd-nspawn: entered, asked, waited for."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import wait_until

DEADLINE_S = 90.0
# In a process namespace of its own, which dies with this process: killing nspawn alone leaves the machine running.
ALONE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def skip_unless_bootable() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to boot a systemd")
    for program, package in (("systemd-nspawn", "systemd-container"), ("nsenter", "util-linux"), ("dbus-daemon", "dbus")):
        if not shutil.which(program):
            pytest.skip(f"needs {program} (package {package})")


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)


def only_child(pid: str) -> str:
    """Empty while there is none."""
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip().split(" ")[0]
    except OSError:
        return ""


class Booted:
    """A booted systemd and in it a service of this name."""

    service = "tidegate"

    depth = 2
    """Of the machine's init below the process that is started here."""

    def __init__(self, boot: Sequence[str], log: Path, target: str) -> None:
        """`boot`: the script with its arguments. `target`: of systemd's, which is reached when the machine is up."""
        self._log, self._target = log, target
        with open(log, "w") as output:
            self._machine = subprocess.Popen([*ALONE, *boot], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.init = ""

    def entering(self) -> list[str]:
        return ["nsenter", "-t", self.init, "-m", "-u", "-i", "-p", "-n", "-C", "--"]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return run(*self.entering(), *command)

    def wait_until_booted(self) -> None:
        """Skips the test where containers cannot be made; fails where they can and the machine does not come up."""
        gone = self.init

        def booted() -> bool:
            if self._machine.poll() is not None:
                pytest.skip(f"cannot boot a systemd here: {self._log.read_text()[-500:]}")
            self.init = str(self._machine.pid)
            for _ in range(self.depth):
                self.init = only_child(self.init)
            return self.init not in ("", gone) and self.run("systemctl", "is-active", self._target).stdout == "active\n"

        self.wait_until(booted, "the boot")

    def wait_until(self, condition: Callable[[], bool], what: str, within_s: float = DEADLINE_S) -> None:
        wait_until(condition, what, within_s=within_s, seen=self.journal, pause_s=0.1)

    def state(self, service: str = "") -> dict[str, str]:
        """What systemd knows about the service."""
        names = "ActiveState,SubState,Result,StatusText,MainPID,NRestarts,ExecMainStatus"
        shown = self.run("systemctl", "show", service or self.service, f"--property={names}").stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def wait_until_active(self) -> None:
        self.wait_until(lambda: self.state()["ActiveState"] == "active", "the service to be active")

    def journal(self) -> str:
        if not self.init:
            return self._log.read_text()
        return self.run("journalctl", "-u", self.service, "--no-pager", "-o", "cat").stdout

    def close(self) -> None:
        self._machine.kill()
        self._machine.wait()
