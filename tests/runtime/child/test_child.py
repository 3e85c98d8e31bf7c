import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate.runtime.child.child import ControlChannel, FromSupervisor, SupervisorGone, pin, receive_spec, send_blocking
from tidegate.runtime.wire.supervisor_messages import (
    Drain,
    Drained,
    LineBuffer,
    Ping,
    Pong,
    RouterSpec,
    decode_from_child,
    encode_line,
)

SPEC = RouterSpec(0, "tcp://127.0.0.1:0", "/run", 8, 2)


def run_python(script: str, environment: dict[str, str] | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, env={**os.environ, **(environment or {})},
        **options,  # type: ignore[call-overload]  # only pass_fds
    )  # fmt: skip


def test_the_spec_is_read_and_what_follows_is_left_in_the_stream() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode_line(SPEC) + encode_line(Ping(1)))
        assert receive_spec(theirs.fileno()) == SPEC
        assert theirs.recv(4096) == encode_line(Ping(1))


def test_a_spec_that_comes_in_pieces_is_put_together() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = encode_line(SPEC)
        script = f"import os, time\nfor byte in {line!r}: os.write({ours.fileno()}, bytes([byte])); time.sleep(0.001)"
        writer = subprocess.Popen([sys.executable, "-c", script], pass_fds=[ours.fileno()])
        assert receive_spec(theirs.fileno()) == SPEC
        writer.wait()


def test_a_stream_that_ends_before_the_spec_means_that_the_supervisor_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        with pytest.raises(SupervisorGone):
            receive_spec(theirs.fileno())


def test_a_child_whose_parent_is_not_the_maker_of_its_stream_refuses_to_start() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        script = (
            "from tidegate.runtime.child.child import *\n"
            f"try: prepare_child('x', {theirs.fileno()})\n"
            "except SupervisorGone: print('gone')"
        )
        in_between = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}], pass_fds=[{theirs.fileno()}])"
        assert run_python(in_between, pass_fds=[theirs.fileno()]).stdout == "gone\n"


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


def run_channel(talk: Callable[[ControlChannel, socket.socket, list[object]], None]) -> list[object]:
    """Runs a channel until it is closed; what it received, then `closed`."""

    async def run() -> list[object]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        heard: list[object] = []
        closed = asyncio.Event()
        channel = ControlChannel(theirs.detach(), loop)

        def on_message(message: FromSupervisor) -> None:
            heard.append(message)

        def on_closed() -> None:
            heard.append("closed")
            closed.set()

        channel.start(on_message, on_closed)
        with ours:
            talk(channel, ours, heard)
        await asyncio.wait_for(closed.wait(), 10)
        return heard

    return asyncio.run(run())


def test_messages_arrive_in_order_and_then_the_end() -> None:
    def talk(channel: ControlChannel, supervisor: socket.socket, heard: list[object]) -> None:
        supervisor.sendall(encode_line(Ping(1)) + encode_line(Drain(2.0)))

    assert run_channel(talk) == [Ping(1), Drain(2.0), "closed"]


def test_a_supervisor_that_does_not_read_blocks_nobody_and_gets_everything_later() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        channel = ControlChannel(theirs.detach(), loop)
        channel.start(lambda message: None, lambda: None)
        for number in range(20_000):
            channel.send(Pong(number))
        lines, heard = LineBuffer(), []
        while len(heard) < 20_000:
            heard += [decode_from_child(line) for line in lines.feed(await asyncio.wait_for(loop.sock_recv(ours, 1 << 16), 10))]
        assert heard == [Pong(number) for number in range(20_000)]
        channel.close()
        ours.close()

    asyncio.run(run())


def test_the_last_message_is_out_when_the_flush_returns() -> None:
    def talk(channel: ControlChannel, supervisor: socket.socket, heard: list[object]) -> None:
        channel.send(Drained(5))
        channel.flush_blocking()
        assert decode_from_child(supervisor.recv(4096).strip()) == Drained(5)

    run_channel(talk)


def test_sending_when_the_supervisor_is_gone_does_no_harm() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        send_blocking(theirs.fileno(), Drained())


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


LOG = """
from tidegate.runtime.child.child import *
set_up_logging("worker 3", take_streams())
log.error("one\\ntwo"); log.info("three"); log.debug("four")
"""


def test_a_log_line_names_its_time_its_level_and_its_process() -> None:
    lines = run_python(LOG).stderr.splitlines()
    assert lines[0][12:] == " ERROR   worker 3: one"
    assert lines[2][12:] == " INFO    worker 3: three"
    assert len(lines) == 3


def test_the_supervisor_sets_the_level_of_its_children() -> None:
    assert "four" in run_python(LOG, {"TIDEGATE_LOG_LEVEL": "debug"}).stderr
    assert "three" not in run_python(LOG, {"TIDEGATE_LOG_LEVEL": "warning"}).stderr


def test_every_line_in_the_journal_carries_its_priority() -> None:
    read, write = os.pipe()
    status = os.fstat(write)
    with open(write, "w") as journal, open(read) as lines:
        subprocess.run(
            [sys.executable, "-c", LOG], stderr=journal, check=True,
            env={**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
        )  # fmt: skip
        journal.close()
        assert lines.read() == "<3>worker 3: one\n<3>    two\n<6>worker 3: three\n"


def test_a_stderr_that_is_not_the_journal_has_no_priorities() -> None:
    assert "<3>" not in run_python(LOG, {"JOURNAL_STREAM": "1:2"}).stderr
