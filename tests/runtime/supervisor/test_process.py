import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate.runtime.supervisor.process import ChildProcess, cpu_time, describe_exit
from tidegate.runtime.supervisor.rules.seats import CpuTime
from tidegate.runtime.wire.supervisor_messages import Drained, FromChild, OpenShards, Ping, Pong, Ready, WorkerSpec


@pytest.mark.parametrize(
    ("returncode", "words"),
    [(0, "exited with code 0"), (3, "exited with code 3"), (-9, "was killed by SIGKILL"), (-11, "was killed by SIGSEGV")],
)
def test_an_exit_is_told_in_words(returncode: int, words: str) -> None:
    assert describe_exit(returncode) == words


def test_an_unnamed_signal_is_told_by_its_number() -> None:
    assert describe_exit(-40) == "was killed by signal 40"


def test_what_a_process_has_run_and_waited_for_a_core_is_told_of_all_its_threads() -> None:
    """Two that want one core, each in its second thread, and one that wants nothing."""
    core = min(os.sched_getaffinity(0))
    endless = "threading.Thread(target=exec, args=['while True: pass']).start()"
    spin = f"import os, threading; os.sched_setaffinity(0, [{core}]); {endless}"
    sleep = "import time; time.sleep(60)"
    children = [subprocess.Popen([sys.executable, "-c", script]) for script in (spin, spin, sleep)]
    try:
        time.sleep(0.5)
        before = [cpu_time(child.pid) for child in children]
        time.sleep(0.5)
        after = [cpu_time(child.pid) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    first, second, asleep = [now.starved_s(then, 0.5) for then, now in zip(before, after, strict=True)]
    assert 0.3 < first + second < 1.01
    assert asleep < 0.1
    assert cpu_time(children[0].pid) == CpuTime()


def test_a_wait_for_a_core_that_is_not_over_is_known() -> None:
    """Beside somebody whom the kernel prefers by far, the process waits for longer than is looked at."""
    core = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, [{core}]); os.nice(int(os.environ['NICE']))\nwhile True: pass"
    waiting, *preferred = (
        subprocess.Popen([sys.executable, "-c", spin], env={**os.environ, "NICE": nice}) for nice in ("19", "0", "0", "0")
    )
    try:
        time.sleep(0.5)
        found = []
        for _ in range(40):
            before, began = cpu_time(waiting.pid), time.monotonic()
            time.sleep(0.02)
            after, elapsed_s = cpu_time(waiting.pid), time.monotonic() - began
            found.append((after.starved_s(before, elapsed_s) + after.ran_s - before.ran_s, elapsed_s))
    finally:
        for child in (waiting, *preferred):
            child.kill()
            child.wait()
    assert all(known_s > elapsed_s * 0.9 for known_s, elapsed_s in found), "it has run, or is known to have waited"


PRELUDE = """
import json, os, sys
from tidegate.runtime.child.control import *
from tidegate.runtime.wire.supervisor_messages import *
fd = int(sys.argv[sys.argv.index("--control-fd") + 1])
"""


def run_child(
    script: str,
    act: Callable[[ChildProcess], None] = lambda child: None,
    lock_fd: int | None = None,
    kept_fds: tuple[int, ...] = (),
) -> tuple[list[FromChild], int]:
    """Messages and exit code of a child that runs the script; `act` is done to it once it has said Ready."""

    async def run() -> tuple[list[FromChild], int]:
        loop = asyncio.get_running_loop()
        messages: list[FromChild] = []
        over: asyncio.Future[int] = loop.create_future()

        def on_message(message: FromChild) -> None:
            assert not over.done()
            messages.append(message)
            if isinstance(message, Ready):
                act(child)

        child = ChildProcess(
            [sys.executable, "-c", PRELUDE + script],
            environment=dict(os.environ),
            lock_fd=lock_fd,
            kept_fds=kept_fds,
            loop=loop,
            on_message=on_message,
            on_exit=over.set_result,
        )
        return messages, await asyncio.wait_for(over, 10)

    return asyncio.run(run())


def test_texts_that_utf_8_cannot_carry_and_lines_that_are_no_messages_cost_no_other_message() -> None:
    messages, code = run_child("""
os.write(fd, encode_line(Ready("half \\ud800", {"C": {"doc": "\\udfff, \\u00e9", 1: [2**60]}})))
os.write(fd, b"no message\\n[1]\\n\\xff\\n" + encode_line(Drained(3)))
""")
    assert messages == [Ready("half ?", {"C": {"doc": "?, \u00e9", "1": [2**60]}}), Drained(3)]
    assert code == 0


def test_last_words_arrive_before_the_exit_however_long_they_are() -> None:
    messages, code = run_child("for _ in range(3000): os.write(fd, encode_line(Drained(7)))\nsys.exit(5)")
    assert messages == [Drained(7)] * 3000
    assert code == 5


def test_a_kill_ends_it() -> None:
    _, code = run_child("os.write(fd, encode_line(Ready('x'))); import time; time.sleep(60)", lambda child: child.kill())
    assert code == -9


def test_what_is_sent_arrives_whole_though_the_child_reads_late() -> None:
    def send(child: ChildProcess) -> None:
        child.begin(Ping(0))
        for number in range(1, 20_000):  # Far more than a socket's buffer.
            child.send(Ping(number))

    messages, code = run_child(
        """
os.write(fd, encode_line(Ready('x')))
import time; time.sleep(0.1)
lines = LineBuffer()
count = 0
while count < 20000:
    for line in lines.feed(os.read(fd, 65536)):
        assert line == encode_line(Ping(count)).strip()
        count += 1
os.write(fd, encode_line(Pong(count)))
""",
        send,
    )
    assert messages[1:] == [Pong(20_000)]
    assert code == 0


def test_what_a_child_is_told_before_it_begins_comes_behind_its_first_message() -> None:
    def send(child: ChildProcess) -> None:
        child.send(Ping(2))
        child.send(Ping(3))
        child.begin(Ping(1))
        child.send(Ping(4))

    messages, code = run_child(
        """
os.write(fd, encode_line(Ready('x')))
lines, found = LineBuffer(), []
while len(found) < 4:
    found += lines.feed(os.read(fd, 65536))
os.write(fd, encode_line(Pong(int(found == [encode_line(Ping(n)).strip() for n in (1, 2, 3, 4)]))))
""",
        send,
    )
    assert messages[1:] == [Pong(1)]
    assert code == 0


def test_a_worker_is_told_nothing_between_its_place_and_the_shards_that_it_opens() -> None:
    """It takes nothing else then: a key that was revoked in that moment ended every worker of a host."""
    spec = WorkerSpec(0, 1, 1, 1, None, (0,), 1, "/data", "/run", "app.py", 1 << 20, 60.0, dev=False)

    def send(child: ChildProcess) -> None:
        child.send(Ping(1))
        child.begin(spec)
        child.send(Ping(2))
        child.send(OpenShards())
        child.send(Ping(3))

    messages, code = run_child(
        """
os.write(fd, encode_line(Ready('x')))
lines, found = LineBuffer(), []
while len(found) < 5:
    found += lines.feed(os.read(fd, 65536))
os.write(fd, encode_line(Ready(" ".join(json.loads(line)["type"] for line in found))))
""",
        send,
    )
    assert messages[1:] == [Ready("worker open ping ping ping")]
    assert code == 0


def test_sending_to_a_child_that_is_gone_does_no_harm() -> None:
    def send(child: ChildProcess) -> None:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        child.begin(Ping(0))
        child.send(Ping(1))

    _, code = run_child("os.write(fd, encode_line(Ready('x'))); import time; time.sleep(60)", send)
    assert code == -9


def test_the_end_is_noticed_though_a_grandchild_keeps_the_stream_open() -> None:
    script = "pid = os.fork()\nif pid == 0:\n    import time; time.sleep(30)\nos.write(fd, encode_line(Pong(pid)))"
    messages, code = run_child(script)
    assert code == 0
    assert isinstance(messages[0], Pong)
    os.kill(messages[0].number, 9)


def test_a_child_has_the_socket_that_it_is_to_keep_under_the_same_number() -> None:
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        script = f"import socket; name = socket.socket(fileno={kept.fileno()}).getsockname()"
        messages, _ = run_child(script + "\nos.write(fd, encode_line(Ready(str(name))))", kept_fds=(kept.fileno(),))
        assert messages == [Ready(str(kept.getsockname()))]


def test_a_child_holds_the_lock_and_nothing_else_of_ours(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as lock, open(tmp_path / "secret", "w"):
        script = "links = [os.readlink(f'/proc/self/fd/{n}') for n in range(3, 64) if os.path.exists(f'/proc/self/fd/{n}')]"
        messages, _ = run_child(script + "\nos.write(fd, encode_line(Ready(' '.join(links))))", lock_fd=lock.fileno())
    assert isinstance(messages[0], Ready)
    assert str(tmp_path / "lock") in messages[0].endpoint
    assert "secret" not in messages[0].endpoint
