"""Objects that hold up or end their worker: named at once, contained, in quarantine when they do it again; others are served."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.test_gates import name_on
from tests.support.service import Service, exchange, services_in
from tests.support.waiting import wait_until
from tidegate.runtime.cli.cli import main

pytestmark = pytest.mark.alone  # A quarantine that begins with 4 s is over before a machine that is full has looked.

APP = """
import asyncio, ctypes, os, re, time
from datetime import timedelta
from tidegate import AlarmInfo, DurableObject

class Poison(DurableObject):
    async def exit(self) -> None:
        os._exit(3)

    async def crash(self) -> None:
        ctypes.string_at(0)

    async def spin(self) -> None:
        await self.storage.put("k", "lost")
        while True:
            pass

    async def sleep(self) -> None:
        time.sleep(60)

    async def swallow(self) -> None:
        while True:
            try:
                time.sleep(60)
            except BaseException:
                continue

    async def keep(self) -> None:
        re.match("(a+)+$", "a" * 60 + "b")

    async def get(self) -> str | None:
        return await self.storage.get("k")

    async def hello(self) -> str:
        return "hello"

    async def wake(self) -> None:
        await self.storage.set_alarm(timedelta(seconds=0))

    async def alarm(self, info: AlarmInfo) -> None:
        await self.storage.set_alarm(timedelta(seconds=1))  # So it does not fail: its next one is set.
        await self.storage.sync()
        while True:
            pass
"""
NAMED_WITHIN_S = 1.0
BACK_WITHIN_S = 3.0
SLACK = 2.0
"""A busy machine takes longer for everything."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("poison")
    app = folder / "poison.py"
    app.write_text(APP)
    with services_in(folder) as serve:
        service = serve(2, app=str(app))
        service.expect(
            "exited with code 3", "SIGSEGV", "Fatal Python error", "held up its worker", "was reset", "is ready again",
            "ended itself", "a call into C",
            "was interrupted", "this worker ends", "ran each time", r"wait$", "FLAPPING", "the alarm of .* did not get through",
        )  # fmt: skip
        yield service


def ask(service: Service, name: str, method: str) -> tuple[int, Any]:
    return exchange(service.endpoint, "Poison", name, method)


class Polite:
    """Calls of an object, one after the other, while something happens; the longest took `worst_s`."""

    def __init__(self, service: Service, name: str) -> None:
        self._service = service
        self._name = name
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.worst_s = 0.0
        self.wrong: list[Any] = []

    def _run(self) -> None:
        while not self._over.wait(0.01):
            began_s = time.monotonic()
            answer = ask(self._service, self._name, "hello")
            self.worst_s = max(self.worst_s, time.monotonic() - began_s)
            if answer != (0, "hello"):
                self.wrong.append(answer)

    def __enter__(self) -> Polite:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def named(service: Service, text: str, since: int) -> bool:
    return text in service.output[since:]


@pytest.mark.parametrize("method", ["spin", "sleep"])
def test_code_that_holds_up_its_worker_is_named_within_a_second_and_interrupted_and_others_answer_within_three(
    service: Service, method: str
) -> None:
    bad, near, far = (name_on(service, worker, "Poison", f"{method} {worker} {nth}") for nth, worker in enumerate((0, 0, 1)))
    pid, since = service.worker_pid(0), len(service.output)
    with Polite(service, near) as neighbour, Polite(service, far) as stranger:
        began_s = time.monotonic()
        answers: list[tuple[int, Any]] = []
        call = threading.Thread(target=lambda: answers.append(ask(service, bad, method)), daemon=True)
        call.start()
        wait_until(lambda: named(service, f'Poison/{bad}" {method}: held up its worker', since), "its name in the log")
        named_s = time.monotonic() - began_s
        call.join(30)
    [(status, error)] = answers
    print(f"named after {named_s:.2f} s; its neighbour waited {neighbour.worst_s:.2f} s, another worker {stranger.worst_s:.3f} s")
    assert (status, error["code"], error["outcome"]) == (1, "object_reset", "unknown")
    assert f"Poison/{bad} was reset: its code held up the worker for 1." in error["message"]
    assert f"in {method} (poison.py:" in error["message"]
    assert named_s < NAMED_WITHIN_S * SLACK
    assert neighbour.worst_s < BACK_WITHIN_S * SLACK
    assert stranger.worst_s < 0.5
    assert not neighbour.wrong + stranger.wrong
    assert service.worker_pid(0) == pid, "nobody else lost anything"
    assert ask(service, bad, "get") == (0, None)


def test_code_that_swallows_its_interruption_ends_its_worker_with_its_name(service: Service) -> None:
    bad, far = name_on(service, 0, "Poison", "swallow"), name_on(service, 1, "Poison", "other")
    pid = service.worker_pid(0)
    with Polite(service, far) as stranger:
        status, error = ask(service, bad, "swallow")
        assert (status, error["code"]) in {(1, "object_reset"), (1, "shard_lost")}
        wait_until(lambda: pid not in service.worker_pids() and len(service.worker_pids()) == 2, "the next worker")
    service.wait_for_output(rf"ended itself because it was held up while Poison/{bad} ran swallow")
    assert not stranger.wrong
    assert ask(service, bad, "hello") == (0, "hello")


def test_a_call_into_c_that_keeps_the_interpreter_is_told_with_its_stack_and_its_worker_replaced(service: Service) -> None:
    bad, near = name_on(service, 0, "Poison", "keep"), name_on(service, 0, "Poison", "beside keep")
    since, began_s = len(service.output), time.monotonic()
    answers: list[tuple[int, Any]] = []
    call = threading.Thread(target=lambda: answers.append(ask(service, bad, "keep")), daemon=True)
    call.start()
    service.wait_for_output(r"a call into C keeps the interpreter[^\0]*poison.py\", line \d+ in keep", since)
    told_s = time.monotonic() - began_s
    call.join(20)
    assert ask(service, near, "hello") == (0, "hello")
    back_s = time.monotonic() - began_s
    print(f"told after {told_s:.2f} s; its neighbour was answered after {back_s:.2f} s")
    assert answers[0][1]["code"] == "shard_lost"
    assert told_s < 1.2 * SLACK
    assert back_s < 4.0 * SLACK


@pytest.mark.parametrize("method", ["spin", "exit"])
def test_an_object_that_does_it_again_is_in_quarantine_until_it_is_released(
    service: Service, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    bad, good = name_on(service, 0, "Poison", f"again {method}"), name_on(service, 0, "Poison", f"good {method}")
    for _ in range(2):
        status, error = ask(service, bad, method)
        assert (status, error["code"]) == (1, "object_reset" if method == "spin" else "shard_lost")
        assert ask(service, good, "hello") == (0, "hello")
    wait_until(lambda: ask(service, bad, "hello")[0] == 1, "the quarantine")
    status, error = ask(service, bad, "hello")
    assert (status, error["code"], error["outcome"]) == (1, "unavailable", "not_executed")
    assert f"Poison/{bad} is in quarantine for" in error["message"]
    assert f"has held up or ended its worker 2 times, the last time in {method}" in error["message"]
    assert error["retry_after_ms"] > 0
    shown = wait_until(lambda: [each for each in service.status()["problems"] if each["where"] == f"Poison/{bad}"], "the problem")
    assert shown[0]["what"].startswith("in quarantine: its code has held up or ended its worker 2 times")
    assert main(["objects", "blocked", "--connect", service.endpoint]) == 0
    assert f"Poison/{bad}" in capsys.readouterr().out
    assert main(["objects", "release", "Poison", bad, "--connect", service.endpoint]) == 0
    assert "is released" in capsys.readouterr().out
    assert ask(service, bad, "hello") == (0, "hello")
    wait_until(lambda: not [each for each in service.status()["problems"] if each["where"] == f"Poison/{bad}"], "its end")
    assert main(["objects", "release", "Poison", bad, "--connect", service.endpoint]) == 1
    assert "is not in quarantine" in capsys.readouterr().err


def test_an_object_whose_worker_is_killed_by_a_fault_in_c_is_named_from_the_second_time_on_and_kept_out(service: Service) -> None:
    bad = name_on(service, 1, "Poison", "crash")
    for _ in range(3):
        status, error = ask(service, bad, "crash")
        assert (status, error["code"]) == (1, "shard_lost")
    status, error = ask(service, bad, "hello")
    assert (status, error["code"]) == (1, "unavailable")
    assert "the last time in crash" in error["message"]
    assert f"while Poison/{bad} ran crash; it has held up or ended its worker" in service.output
    wait_until(lambda: ask(service, bad, "hello") == (0, "hello"), "the end of the quarantine")


def test_an_alarm_that_sets_its_next_one_and_holds_up_its_worker_is_in_quarantine_too(service: Service) -> None:
    bad, good = name_on(service, 0, "Poison", "ringing"), name_on(service, 0, "Poison", "beside ringing")
    assert ask(service, bad, "wake") == (0, None)
    wait_until(lambda: f"Poison/{bad} is in quarantine for" in str(ask(service, bad, "hello")[1]), "the quarantine")
    said = ask(service, bad, "hello")[1]["message"]
    assert re.search(r"has held up or ended its worker [2-9] times, the last time in alarm", said), said
    assert ask(service, good, "hello") == (0, "hello")
    assert main(["objects", "alarms", "drop", "Poison", bad, "--connect", service.endpoint]) == 0
    wait_until(lambda: ask(service, bad, "hello") == (0, "hello"), "the end of the quarantine")
