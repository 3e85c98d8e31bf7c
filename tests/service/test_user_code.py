"""Code of objects in a real service: whole messages with poison in them, large arguments, a debugger."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import zmq

from tests.support.service import ROOT, Serve, Service, ask, exchange

APP = """
import asyncio
import gc
from tidegate import DurableObject

class Endless(Exception):
    def __str__(self):
        return str(self)

class Pretender:
    __class__ = int

class Poison(DurableObject):
    async def text(self):
        raise Endless
    async def exits(self):
        await asyncio.sleep(0)
        raise SystemExit
    async def pretends(self):
        return Pretender()
    async def stops(self):
        raise StopIteration
    async def yields(self):
        class Bad:
            def __await__(self):
                yield 42
        await Bad()

class Counter(DurableObject):
    async def next(self) -> int:
        value = await self.storage.get("n", 0)
        await self.storage.put("n", value + 1)
        return value

class Blob(DurableObject):
    async def take(self, data: bytes) -> None:
        gc.disable()
        await asyncio.sleep(0)
        task = asyncio.current_task()
        raise ValueError(f"{len(data)} bytes in {bool(task)}")

    async def memory(self) -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

class Threads(DurableObject):
    async def are_looked_at(self) -> bool:
        return hasattr(type(self.storage).get, "__wrapped__")
    async def start(self) -> bool:
        return await asyncio.to_thread(lambda: True)

class Stop(DurableObject):
    async def here(self) -> int:
        number = 41
        breakpoint()
        return number + 1
"""


def serve_app(serve: Serve, tmp_path: Path, *options: str) -> Service:
    (tmp_path / "app.py").write_text(APP)
    service = serve(1, *options, app=str(tmp_path / "app.py"))
    service.expect(" raised: ", "Traceback", "^ {4}")
    return service


def send_batch(endpoint: str, requests: list[list[Any]]) -> dict[int, tuple[int, Any]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.rcvtimeo = 20_000
        dealer.connect(endpoint)
        dealer.send(msgspec.msgpack.encode(requests))
        answers: dict[int, tuple[int, Any]] = {}
        while len(answers) < len(requests):
            for number, status, result in msgspec.msgpack.decode(dealer.recv()):
                assert number not in answers, "answered once"
                answers[number] = status, result
        return answers


def test_half_of_400_calls_of_one_message_to_poisonous_objects_leaves_the_other_half_right(serve: Serve, tmp_path: Path) -> None:
    service = serve_app(serve, tmp_path)
    poison = ["text", "exits", "pretends", "stops"]
    requests: list[list[Any]] = []
    for n in range(200):
        requests += [[2 * n, "Counter", f"c{n % 20}", "next"], [2 * n + 1, "Poison", f"p{n % 7}", poison[n % 4]]]
    for turn in range(3):
        answers = send_batch(service.endpoint, requests)
        assert [answers[2 * n] for n in range(200)] == [(0, n // 20 + 10 * turn) for n in range(200)]
        odd = [answers[2 * n + 1] for n in range(200)]
        assert {status for status, _ in odd} == {1}
        assert {error["code"] for n, (_, error) in enumerate(odd) if poison[n % 4] != "pretends"} == {"exception"}


def test_calls_that_raise_with_large_arguments_one_after_the_other_leave_memory_as_it_was(serve: Serve, tmp_path: Path) -> None:
    service = serve_app(serve, tmp_path)
    before = ask(service.endpoint, "Blob", "a", "memory")
    for _ in range(40):
        (answer,) = send_batch(service.endpoint, [[1, "Blob", "a", "take", [bytes(8 << 20)]]]).values()
        assert answer[1]["code"] == "exception", answer
    assert ask(service.endpoint, "Blob", "a", "memory") - before < 100 << 20, "320 MiB were sent"


def test_a_breakpoint_under_dev_stops_there_and_can_be_talked_to(serve: Serve, tmp_path: Path) -> None:
    service = serve_app(serve, tmp_path, "--dev")
    service.expect(r"breakpoint\(\) at .*app.py", r"lint: .*app.py:\d+: blocks: open")
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(ask(service.endpoint, "Stop", "a", "here")))
    caller.start()
    service.wait_for_output("this worker waits")
    found = re.search(r"-m tidegate\.shard\.worker\.debugger (\S+)", service.output)
    assert found is not None
    command = [*service.command[:1], "-m", "tidegate.shard.worker.debugger", found[1]]
    typed = "p number\nw\nnumber = 100\nc\n"
    said = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    caller.join(20)
    assert "(Pdb) 41\n" in said.stdout
    assert "app.py" in said.stdout
    assert answers == [101]


def test_a_breakpoint_without_dev_is_passed_over_and_says_what_to_do(serve: Serve, tmp_path: Path) -> None:
    service = serve_app(serve, tmp_path)
    service.expect(r"breakpoint\(\) at .*app.py")
    assert ask(service.endpoint, "Stop", "a", "here") == 42
    service.wait_for_output("is passed over: a worker has no terminal; start the service with --dev to stop there")


def test_what_cannot_be_awaited_is_told_at_once_also_where_nothing_else_happens(serve: Serve, tmp_path: Path) -> None:
    """It once left with whatever ended a turn next."""
    service = serve_app(serve, tmp_path)
    exchange(service.endpoint, "Poison", "a", "yields")
    time.sleep(1.5)  # Until the worker has nothing else to do.
    status, error = exchange(service.endpoint, "Poison", "a", "yields", timeout_s=1.0)
    assert status == 1
    assert "bad yield: 42" in error["message"]


def test_no_operation_looks_at_its_thread_in_a_worker_whose_app_has_started_none(serve: Serve, tmp_path: Path) -> None:
    service = serve_app(serve, tmp_path)
    assert [ask(service.endpoint, "Threads", "a", method) for method in ("are_looked_at", "start", "are_looked_at")] == [
        False,
        True,
        True,
    ]
