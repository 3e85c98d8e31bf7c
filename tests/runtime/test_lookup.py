"""Names are looked up by threads that nobody waits for: whoever has asked can stop waiting, and a process can end."""

from __future__ import annotations

import asyncio
import functools
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.hanging_names import HANGING, hanging_names, ready_to_hang
from tidegate.runtime.ending import run
from tidegate.runtime.lookup import Question, addresses_of, aside

ENDS_S = 60.0
"""Of what would hang for ever."""


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return hanging_names(tmp_path_factory.mktemp("names"))


def test_what_is_done_aside_gives_its_result_or_its_error() -> None:
    def fails() -> None:
        raise KeyError("x")

    assert aside(divmod, 7, 2).result() == (3, 1)
    with pytest.raises(KeyError):
        aside(fails).result()


def test_who_no_longer_wants_an_answer_does_not_hear_it() -> None:
    asked, answer = threading.Event(), threading.Event()
    told: list[str] = []

    def late() -> int:
        asked.set()
        answer.wait()
        return 1

    before = set(threading.enumerate())
    future = aside(late)
    (thread,) = set(threading.enumerate()) - before
    future.add_done_callback(lambda each: told.append("cancelled" if each.cancelled() else "answered"))
    asked.wait()
    future.cancel()
    answer.set()
    thread.join()
    assert told == ["cancelled"]


def test_a_question_is_readable_when_it_is_answered_and_not_before() -> None:
    answer = threading.Event()
    question = Question(lambda: answer.wait() and 7)
    assert not select.select([question], [], [], 0)[0]
    answer.set()
    assert select.select([question], [], [], ENDS_S)[0]
    assert question.result() == 7
    question.close()


def test_a_question_that_is_closed_first_bothers_nobody(recwarn: pytest.WarningsRecorder) -> None:
    answer = threading.Event()
    before = set(threading.enumerate())
    question = Question(answer.wait)
    (thread,) = set(threading.enumerate()) - before
    question.close()
    answer.set()
    thread.join()
    assert not recwarn.list


def test_where_there_can_be_no_more_threads_it_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    for ask in (aside, Question):
        with pytest.raises(OSError, match="thread"):
            ask(int)


def test_a_host_has_addresses_and_an_address_is_one() -> None:
    assert {address[0] for *_, address in addresses_of("127.0.0.1", 7)} == {"127.0.0.1"}


def test_in_the_loop_of_a_run_names_are_connected_to(tmp_path: Path) -> None:
    async def main() -> bytes:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        async with await asyncio.start_server(greet, "localhost", 0) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("localhost", port)
            said = await reader.read()
            writer.close()
            return said

    assert run(main()) == b"hello"


CLUSTER = f"nats://{HANGING}:1,nats://{HANGING}:2,nats://{HANGING}:3/shop"
APP = "from tidegate import DurableObject\n\n\nclass Counter(DurableObject):\n    async def one(self) -> int:\n        return 1\n"
COMMANDS = {
    "call": ["call", "--connect", f"tcp://{HANGING}:7711", "Counter", "alice", "one"],
    "status": ["status", "--connect", f"tcp://{HANGING}:7711"],
    "cluster status": ["cluster", "status", "--cluster", CLUSTER],
    "cluster doctor": ["cluster", "doctor", "--cluster", CLUSTER],
    "serve in a cluster": ["serve", "app.py", "--cluster", CLUSTER, "--host-name", "a", "--advertise", "tcp://127.0.0.1:0"],
    "serve at a name": ["serve", "app.py", "--listen", f"tcp://{HANGING}:7711"],
    "console at a name": ["console", "--listen", f"{HANGING}:7780"],
}


def started(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.Popen[str]:
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # In the background of a shell it is ignored.
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-P", *arguments], stdout=pipe, stderr=pipe, text=True, cwd=folder, preexec_fn=heeds, env=environment
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_waits_for_a_name_ends_with_ctrl_c(hanging: dict[str, str], tmp_path: Path, command: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    process = started(hanging, tmp_path, "-m", "tidegate", *COMMANDS[command])
    ready_to_hang(process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=ENDS_S)
    assert process.returncode in (130, 0), said
    assert "Traceback" not in said[1]


@pytest.mark.parametrize("options", [[], ["--key-file", "key"]])
def test_a_call_to_a_name_ends_when_its_time_is_over(hanging: dict[str, str], tmp_path: Path, options: list[str]) -> None:
    subprocess.run(
        [sys.executable, "-P", "-m", "tidegate", "keys", "new", "web", "--data", tmp_path / "data", "--out", tmp_path / "key"],
        check=True,
        capture_output=True,
    )
    process = started(hanging, tmp_path, "-m", "tidegate", *COMMANDS["call"], "--timeout", "0.2", *options)
    _, said = process.communicate(timeout=ENDS_S)
    assert process.returncode == 1
    assert f"tidegate: connect tcp://{HANGING}:7711: nobody answered within 0.2 s" in said


ASYNCIO = f"""
import asyncio, tidegate

async def main():
    async with tidegate.connect("tcp://{HANGING}:7711", timeout=0.2) as client:
        await client.stub("Counter", "alice").one()

asyncio.run(main())
"""
PLAIN = f"""
import tidegate

with tidegate.connect_sync("tcp://{HANGING}:7711", timeout=0.2) as client:
    client.stub("Counter", "alice").one()
"""


@pytest.mark.parametrize("program", [ASYNCIO, PLAIN], ids=["asyncio", "plain"])
def test_a_client_is_answered_when_its_time_is_over_and_its_process_ends(
    hanging: dict[str, str], tmp_path: Path, program: str
) -> None:
    process = started(hanging, tmp_path, "-c", program)
    _, said = process.communicate(timeout=ENDS_S)
    assert "tidegate.runtime.errors." in said.splitlines()[-1], said
