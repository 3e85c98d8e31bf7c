import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.runtime.child.child import pin


def run_python(script: str, environment: dict[str, str] | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ, **(environment or {})},
        **options,  # type: ignore[call-overload]  # only pass_fds
    )  # fmt: skip


def test_a_child_whose_parent_is_not_the_maker_of_its_stream_refuses_to_start() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        script = (
            "from tidegate.runtime.child.child import *\n"
            f"try: prepare_child('x', {theirs.fileno()})\n"
            "except SupervisorGone: print('gone', end='')"
        )
        in_between = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}], pass_fds=[{theirs.fileno()}])"
        assert run_python(in_between, pass_fds=[theirs.fileno()]).stdout.endswith(" gone\n")


def test_what_user_code_starts_holds_neither_stream_nor_lock_and_can_be_interrupted(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(tmp_path / "lock", "w") as lock:
        script = f"""
import os, subprocess, sys
from tidegate.runtime.child.child import *
prepare_child("x", {theirs.fileno()})
look = "import os, signal; print(sorted(os.listdir('/proc/self/fd'))[:4], signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
sys.stdout.flush()
os.system(f'{{sys.executable}} -c "{{look}}"')
"""
        fds = [theirs.fileno(), lock.fileno()]
        done = run_python(script, {"TIDEGATE_LOCK_FD": str(lock.fileno())}, pass_fds=fds)
    assert done.stdout == "['0', '1', '2', '3'] True\n", done.stderr  # 3 is the listing's own.


def test_pinning_to_a_core_that_is_not_there_is_reported_and_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    before = os.sched_getaffinity(0)
    with caplog.at_level(logging.WARNING):
        assert not pin(1_000)
    assert "cannot pin to core 1000, running unpinned: Invalid argument" in caplog.text
    assert os.sched_getaffinity(0) == before
    assert not pin(None)


def test_pinning_keeps_the_process_on_its_core() -> None:
    core = max(os.sched_getaffinity(0))
    script = f"import os; from tidegate.runtime.child.child import pin; print(pin({core}), os.sched_getaffinity(0))"
    assert run_python(script).stdout == f"True {{{core}}}\n"
