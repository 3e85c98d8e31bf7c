"""Short runs of the real thing: what is right passes, what is wrong is found, and nothing is left behind."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import FULL, processes_with_files_in
from tests.support.waiting import wait_until
from tidegate.runtime.chaos.campaign import Campaign, Plan
from tidegate.runtime.chaos.faults.all import STRIKERS
from tidegate.runtime.chaos.stage import service as chaos_service
from tidegate.runtime.chaos.verdict.report import ChaosReport


def run(folder: Path, *faults: str, duration_s: float = 4.0, **changes: Any) -> ChaosReport:
    options: dict[str, Any] = {
        "faults": faults, "seed": 1, "duration_s": duration_s, "times": 0, "every_s": 0.4, "callers": 6, "rate": 600.0,
        "timeout_s": 30.0, "keys": False, "errors": "of faults", "workers": 2, "routers": 1, "fs": "", "size_mib": 400,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    report = Campaign(Plan(**{**options, **changes}), folder, print).run()
    print(report.page())
    assert processes_with_files_in(folder) == [], "nothing is left"
    return report


def test_without_faults_every_call_is_answered_and_every_kind_of_caller_calls(tmp_path: Path) -> None:
    report = run(tmp_path, duration_s=3.0, errors="none")
    assert report.passed
    assert report.calls["answered"] == report.calls["calls"] > 500
    assert report.checked > 500
    assert report.ended_by == "its time was over"


def test_kills_frozen_processes_broken_connections_and_restarts_break_no_promise(tmp_path: Path) -> None:
    report = run(tmp_path, "kill", "freeze", "drop", "restart", duration_s=60.0, times=8)
    assert report.passed
    assert report.ended_by == "every strike was made"
    assert sum(report.faults.values()) == 8
    assert set(report.faults) == {"kill", "freeze", "drop", "restart"}


def test_reloads_and_rolling_restarts_break_no_promise_and_are_done(tmp_path: Path) -> None:
    report = run(tmp_path, "reload", "roll", duration_s=60.0, times=4, routers=2)
    assert report.passed
    assert {what.partition(":")[0] for what in report.strikes} == {"reload", "roll"}
    assert not [what for what in report.strikes if "not done" in what]


def test_slow_and_failing_syncs_break_no_promise(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    report = run(tmp_path, "slow", "fail", duration_s=60.0, times=4)
    assert report.passed
    assert any(what.startswith("fail: E") for what in report.strikes), report.strikes


@pytest.mark.root
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_a_power_cut_and_a_full_disk_break_no_promise_on_any_file_system(tmp_path: Path, fs: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, for a loop device")
    if shutil.which(f"mkfs.{fs}") is None:
        pytest.skip(f"mkfs.{fs} is not installed")
    report = run(tmp_path, "power", "fill", duration_s=150.0, times=2, rate=200.0, fs=fs)
    assert report.passed
    assert report.faults.keys() == {"power", "fill"}
    assert report.ended_by == "every strike was made"
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


FORGETFUL = {
    "numbers that are confirmed and forgotten now and then": (
        'await self.storage.put("next", value + 1)',
        'if value % 10 != 9:\n            await self.storage.put("next", value + 1)',
    ),
    "swaps that are answered and not stored": ('self.storage.put("value", value)', "value"),
    "updates that lose each other": (
        'await self.storage.put(place, value)\n        return before',
        'import asyncio\n        await asyncio.sleep(0.01)\n        await self.storage.put(place, value)\n        return before',
    ),
    "deposits that are made twice": (
        'books = {"balance": balance + amount',
        'books = {"balance": balance + 2 * amount',
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("numbers that are confirmed and forgotten now and then", "wrong answer"),
        ("swaps that are answered and not stored", "wrong answer"),
        ("updates that lose each other", "wrong answer"),
        ("deposits that are made twice", "money"),
    ][0 if FULL else 2 :],
)
def test_an_app_that_does_wrong_is_found_out_and_the_story_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, kind: str
) -> None:
    right, wrong = FORGETFUL[what]
    source = chaos_service.APP.read_text()
    assert right in source
    app = tmp_path / "wrong.py"
    app.write_text(source.replace(right, wrong))
    monkeypatch.setattr(chaos_service, "APP", app)
    report = run(tmp_path / "run", "restart", duration_s=4.0 if kind == "money" else 60.0, every_s=1.5)
    assert {violation.kind for violation in report.violations} == {kind}
    if kind == "wrong answer":
        stories = [
            json.loads(line) for path in (tmp_path / "run").glob("story-*.jsonl") for line in path.read_text().splitlines()
        ]
        assert any(f"{story['class_name']}/{story['name']}" == report.violations[0].what for story in stories)


def test_ctrl_c_ends_a_run_with_its_report_and_leaves_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tidegate",
        "chaos",
        "--faults",
        "freeze",
        "--data",
        str(tmp_path / "run"),
        "--duration",
        "1h",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as chaos:
        assert chaos.stderr is not None
        assert chaos.stdout is not None
        said = [chaos.stderr.readline() for _ in range(3)]
        chaos.send_signal(signal.SIGINT)
        page = chaos.stdout.read()
        assert chaos.wait(60) == 0, (said, page, chaos.stderr.read())
    assert "seed" in said[0]
    assert "interrupted" in page.splitlines()[0]
    assert page.endswith("every promise was kept\n")
    wait_until(lambda: not processes_with_files_in(tmp_path), "the end of every process")


def test_a_service_that_does_not_start_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = tmp_path / "wrong.py"
    app.write_text("import nothing_of_this_name\n")
    monkeypatch.setattr(chaos_service, "APP", app)
    report = run(tmp_path / "run", "kill")
    assert [violation.kind for violation in report.violations] == ["service"]
    assert "does not start" in report.violations[0].text
    assert threading.active_count() < 10


@pytest.mark.root
@pytest.mark.timeout(300)
def test_a_disk_that_is_full_again_and_again_is_met_by_a_commit_each_time(tmp_path: Path) -> None:
    """The files of the service had grown, and found room for everything."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a loop device")
    report = run(tmp_path, "fill", duration_s=240.0, times=12 if FULL else 6, fs="ext4", size_mib=320, every_s=0.1, rate=50.0)
    assert report.passed
    assert report.strikes == {"fill: a commit met it": 12 if FULL else 6}


class Now:
    """A fault that can be made every other time, or never."""

    def __init__(self, *said: str) -> None:
        self._said = itertools.cycle(said)

    def strike(self, stage: object, chance: object) -> str:
        return next(self._said)


def test_strikes_that_could_not_do_what_they_wanted_are_told_and_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRIKERS, "drop", lambda: Now("not done: nobody was there", "two connections"))
    report = run(tmp_path, "drop", duration_s=60.0, times=2, every_s=0.01)
    assert report.passed
    assert report.faults == {"drop": 2}
    assert report.strikes == {"drop: not done: nobody was there": 2, "drop: two connections": 2}
    assert "drop: not done: nobody was there: 2" in report.page()


def test_a_run_in_which_no_fault_can_be_made_proves_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRIKERS, "drop", lambda: Now("not done: nobody was there"))
    report = run(tmp_path, "drop", duration_s=60.0, times=1, every_s=0.01)
    assert not report.passed
    assert report.faults == {}
    assert "50 faults in a row could not be made" in report.violations[0].text


NO_SYNC = """
#include <errno.h>
#include <sys/syscall.h>
int fdatasync(int fd) { return 0; }
int fsync(int fd) { return 0; }
long syscall(long number, ...) { errno = number == SYS_io_submit ? EAGAIN : ENOSYS; return -1; }
"""


@pytest.mark.root
@pytest.mark.timeout(300)
def test_a_disk_that_says_it_has_synced_and_has_not_is_found_out_by_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the cuts above would prove nothing."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a loop device")
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    (tmp_path / "no_sync.c").write_text(NO_SYNC)
    library = tmp_path / "no_sync.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "no_sync.c")], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    report = run(tmp_path / "run", "power", duration_s=60.0, times=4, fs="ext4", every_s=2.0)
    assert not report.passed
