"""What an operator is told of a service, also where something hangs or the disk is full."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.support.service import Serve, Service
from tests.support.waiting import wait_until

TIDEGATE = (sys.executable, "-m", "tidegate")


def run(service: Service, *command: str, columns: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"COLUMNS": columns} if columns else {})}
    return subprocess.run(
        [*TIDEGATE, *command, "--connect", service.endpoint], capture_output=True, text=True, timeout=60, env=environment
    )


def status_of(service: Service) -> dict[str, Any]:
    done = run(service, "status", "--json")
    assert done.returncode == 0, done.stderr
    answered: dict[str, Any] = json.loads(done.stdout)
    return answered


def problem_of(service: Service, where: str) -> str:
    """Waits until there is one."""
    found: list[str] = []

    def told() -> bool:
        found[:] = [each["what"] for each in status_of(service)["problems"] if each["where"] == where]
        return bool(found)

    wait_until(told, f"a problem of {where}", pause_s=0.3)
    return found[0]


@pytest.mark.parametrize(("name", "pid_of"), [("router", "router_pid"), ("worker 1", "worker_pid_1")])
def test_a_process_that_hangs_is_the_first_that_is_shown_with_the_time_of_its_last_answer(
    serve: Serve, name: str, pid_of: str
) -> None:
    service = serve(2)
    service.expect("did not run for", "does not answer")
    pid = service.router_pid() if pid_of == "router_pid" else service.worker_pid(1)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert re.match(r"does not answer, its last answer came \d+ s ago", problem_of(service, name))
        page = run(service, "status").stdout
        assert page.startswith(f"PROBLEM {name}: does not answer, its last answer came ")
        assert "\n  next: wait: " in page
        assert re.search(rf"^{name} +last answer \d+ s ago ", page, re.M)
        silent = [process["silent_s"] for process in status_of(service)["processes"] if process["name"] == name]
        assert silent[0] > 2
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: status_of(service)["state"] == "serving", "serving again", pause_s=0.3)


def test_a_command_to_a_supervisor_that_hangs_ends_with_what_to_do_and_is_heard_when_it_goes_on(serve: Serve) -> None:
    service = serve(1)
    service.expect("the supervisor did not run for")
    os.kill(service.supervisor_pid, signal.SIGSTOP)
    try:
        for words in (["reload"], ["config", "show", "--running"]):
            ended = run(service, *words, "--timeout", "1")
            assert ended.returncode == 1
            assert "the supervisor has not said within 1 s that it is done (see tidegate status" in ended.stderr
        assert service.call("Counter", "a", "get_unique_number") == 0
    finally:
        os.kill(service.supervisor_pid, signal.SIGCONT)
    service.wait_for_output("processes are replaced one by one")
    wait_until(lambda: status_of(service)["state"] == "serving", "serving again", pause_s=0.3)


def test_calls_a_second_and_how_fast_they_are_answered_are_shown_of_each_class_and_process(serve: Serve) -> None:
    service = serve(2)
    for _ in range(300):
        service.call("Counter", "a", "get_unique_number")

    def shown() -> bool:
        service.call("Counter", "b", "get_unique_number")
        return "Counter" in status_of(service)["class_rates"]

    wait_until(shown, "rates", pause_s=0.05)
    page = run(service, "top").stdout
    assert re.search(r"^\d+ calls/s, 0 errors/s; answered in [\d.]+ ms \(p50\), [\d.]+ ms \(p99\)$", page, re.M)
    assert re.search(r"^process +state +pid +core +calls/s", page, re.M)


def screen_of(service: Service, act: Any, columns: int = 80) -> str:
    """What `tidegate top` has written to a terminal of that width, after which it has been left by `act`."""
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*TIDEGATE, "top", "--connect", service.endpoint],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # A shell's background command ignores it.
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    began = time.monotonic()
    acted = False
    while process.poll() is None and time.monotonic() - began < 30:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                seen += os.read(ours, 1 << 16)
            except OSError:
                break
        if not acted and seen.count(b"worker 0") >= 2:  # It has been drawn anew.
            act(process, ours)
            acted = True
    assert process.wait(10) == 0, seen
    os.close(ours)
    return seen.decode()


def test_top_draws_every_second_in_80_columns_and_is_left_by_q(serve: Serve) -> None:
    service = serve(1)
    screen = screen_of(service, lambda process, terminal: os.write(terminal, b"q"))
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "\n", screen)
    assert "serving on " in text
    assert max(len(line) for line in text.replace("\r", "\n").split("\n")) <= 80
    assert re.search(r"^worker 0 +ready ", text.replace("\r", ""), re.M)
    screen_of(service, lambda process, terminal: process.send_signal(signal.SIGINT), columns=40)


def test_top_goes_on_when_the_service_is_gone_and_says_so(serve: Serve) -> None:
    service = serve(1)

    def stop(process: Any, terminal: int) -> None:
        service.stop()
        time.sleep(2)
        os.write(terminal, b"q")

    assert "NO ANSWER: connect" in screen_of(service, stop)
