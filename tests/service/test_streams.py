"""What becomes of the service when its standard streams are closed, full, stuck or gone, at the start or later."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import Serve, Service, exchange, processes_with_files_in
from tests.support.service_process import is_alive
from tests.support.waiting import wait_until
from tidegate.runtime.addresses import free_port

APP = str(Path(__file__).with_name("apps") / "noise.py")
LOST = r"\d+ lines of output were lost: nobody took them"


def answers(endpoint: str) -> bool:
    with contextlib.suppress(AssertionError):
        return exchange(endpoint, "Noise", "a", "say", ["hello"], timeout_s=0.5) == (0, 1)
    return False


def assert_no_stream_is_a_file_of_ours(data: Path) -> None:
    pids = processes_with_files_in(data)
    assert len(pids) >= 3
    for pid in pids:
        for fd in range(3):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            assert target.startswith(("/dev/", "pipe:", "socket:")), (pid, fd, target)


@pytest.mark.parametrize(
    "streams", [">&- 2>&-", "<&- >&- 2>&-", "2>&-", ">/dev/full 2>/dev/full", "> >(exec true) 2>&1", "> >(sleep 1) 2>&1"]
)
def test_a_service_whose_streams_are_closed_full_or_read_by_nobody_starts_and_serves(serve: Serve, streams: str) -> None:
    service = serve(start=False, app=APP)
    service.launch(1, wrapper=["bash", "-c", f'exec "$@" {streams}', "bash"])
    wait_until(lambda: answers(service.endpoint), "answers")
    assert_no_stream_is_a_file_of_ours(service.data)
    for _ in range(20):
        assert exchange(service.endpoint, "Noise", "a", "fail", ["x"])[1]["type"] == "ValueError"
        assert service.call("Noise", "a", "say", "y", 100) == 100
    wait_until(lambda: answers(service.endpoint), "answers after a while")


@contextlib.contextmanager
def with_stream(tmp_path: Path, stream: int) -> Iterator[Service]:
    """A service whose stdout and stderr are this descriptor, which nobody reads."""
    service = Service(tmp_path / "data", APP, free_port(), [], {})
    command = [sys.executable, "-m", "tidegate", "serve", APP, "--data", str(service.data), "--listen", service.endpoint]
    process = subprocess.Popen([*command, "--workers", "1"], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    service._process = process  # type: ignore[assignment]  # nobody reads its output
    try:
        wait_until(lambda: answers(service.endpoint), "answers")
        yield service
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.timeout(120)
def test_a_pipe_that_nobody_reads_stops_nobody_and_what_was_lost_is_counted_when_it_is_read_again(tmp_path: Path) -> None:
    read, write = os.pipe()
    with with_stream(tmp_path, write) as service:
        os.close(write)
        pids = service.worker_pids()
        for _ in range(40):  # 12 MB: more than pipes and bounds hold together.
            assert service.call("Noise", "a", "say", "z" * 3_000, 100) == 100
            assert exchange(service.endpoint, "Noise", "a", "fail", ["w"])[1]["type"] == "ValueError"
        assert service.worker_pids() == pids
        seen = b""
        while not re.search(LOST.encode(), seen):
            seen += os.read(read, 1 << 16)
            if seen.endswith(b"\n") and len(seen) % 7 == 0:
                service.call("Noise", "a", "say", "again")
        os.set_blocking(read, False)
        service.call("Noise", "a", "say", "the last of them")

        def read_to_the_end() -> bool:
            nonlocal seen
            with contextlib.suppress(BlockingIOError):
                seen += os.read(read, 1 << 20)
            return b"the last of them 0\n" in seen

        wait_until(read_to_the_end, "what is printed now")
        lost = sum(int(match.split()[0]) for match in re.findall(LOST.encode(), seen))
        assert seen.count(b"zzz 0") < 40
        assert lost > 500
    os.close(read)


def test_a_terminal_that_hangs_up_stops_nobody(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with with_stream(tmp_path, theirs) as service:
        os.close(theirs)
        os.close(ours)
        pids = service.worker_pids()
        for _ in range(20):
            assert service.call("Noise", "a", "say", "q", 100) == 100
            assert exchange(service.endpoint, "Noise", "a", "fail", ["w"])[1]["type"] == "ValueError"
        assert service.worker_pids() == pids
        assert all(map(is_alive, service.pids()))


@pytest.mark.parametrize("deed", ["close_stderr", "replace_stderr", "close_descriptors"])
def test_whatever_an_object_does_to_its_streams_raising_methods_are_answered_and_logged(serve: Serve, deed: str) -> None:
    service = serve(1, app=APP)
    service.expect("raised", "Traceback")
    assert service.call("Noise", "a", deed) is None
    status, error = exchange(service.endpoint, "Noise", "b", "fail", ["it is said all the same"])
    assert (status, error["type"]) == (1, "ValueError")
    service.wait_for_output("it is said all the same")
    if deed != "replace_stderr":
        assert service.call("Noise", "b", "say", "and so is this") == 1
        service.wait_for_output("and so is this 0")
    assert_no_stream_is_a_file_of_ours(service.data) if deed != "close_descriptors" else None


def test_what_objects_and_their_programs_print_comes_out_up_to_the_last_line_before_a_death(serve: Serve) -> None:
    service = serve(1, app=APP)
    service.expect("exited with code 7", "is ready again", "down")
    assert service.call("Noise", "a", "say", "printed", 3_000) == 3_000
    service.wait_for_output("printed 2999\n")
    assert "lost" not in service.output
    assert service.call("Noise", "a", "run", "from a program") == 0
    service.wait_for_output("from a program\n")
    assert exchange(service.endpoint, "Noise", "a", "die", ["famous last words"])[0] == 1
    service.wait_for_output("famous last words\n")
    service.wait_for_output("is ready again")


@pytest.mark.parametrize("command", [["status"], ["call", "Noise", "a", "say", '"x"']])
def test_a_command_that_cannot_print_its_result_fails_in_one_line(serve: Serve, command: list[str]) -> None:
    service = serve(1, app=APP)
    connect = ["--connect", service.endpoint]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tidegate", *command, *connect], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert re.fullmatch(r"tidegate: write the result to stdout: No space left on device .*\n", done.stderr), done.stderr
