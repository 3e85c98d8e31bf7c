"""Every line of the page of errands, typed as it stands there, to services on which there is such an errand."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.test_pages import DOCS, steps
from tests.support.service import KILLED_BY_TEST, Service, exchange, services_in
from tests.support.waiting import wait_until
from tidegate.runtime.client.synchronous import connect_sync

PAGE = (DOCS / "errands.md").read_text()
ERRANDS = re.findall(r"^## (\d+)\. (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
APP = """
import asyncio, os
from datetime import timedelta
from pathlib import Path
from tidegate import DurableObject

class PaymentRefused(Exception):
    pass

class Cart(DurableObject):
    async def add(self, item: str, count: int = 1) -> int:
        now = await self.storage.get(f"item/{item}", 0) + count
        await self.storage.put(f"item/{item}", now)
        return now

    async def note(self, text: str) -> None:
        await self.storage.put("note", text)

    async def check_out(self, card: str) -> None:
        raise PaymentRefused(f"the bank refuses card {card}")

    async def print_invoice(self) -> None:
        async with self.block_concurrency():
            await self.storage.set_alarm(timedelta(0))
            while not Path(os.environ["PRINTER"]).exists():
                await asyncio.sleep(0.05)

    async def remind_in(self, seconds: float) -> None:
        await self.storage.set_alarm(timedelta(seconds=seconds))

    async def alarm(self, info: object) -> None:
        await self.storage.put("reminded", True)

    async def jam(self) -> None:
        os._exit(3)
"""
BLOCKED_S_MIN = 15.0
"""So long an object is to be in quarantine yet when the lines begin."""
OVERDUE_HOURS = 1e-9

PROGRESS = re.compile(r"^.+: \d+%\n", re.MULTILINE)
"""Of what takes more than a second."""


class Desk(NamedTuple):
    """Where the lines are typed."""

    folder: Path
    shop: Service
    test: Service

    @property
    def printer(self) -> Path:
        """There when it is free."""
        return self.folder / "printer-is-free"

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        places = {"DATA": str(self.shop.data), "BACKUPS": str(self.folder / "backups"), "TEST": self.test.endpoint}
        return {**os.environ, "PATH": path, "TIDEGATE_CONNECT": self.shop.endpoint, **places}

    def type(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            line, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )

    def typed(self, line: str) -> str:
        done = self.type(line)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return (done.stdout + PROGRESS.sub("", done.stderr)).strip()

    def is_answered(self, line: str, shown: str) -> bool:
        return is_as_shown(self.typed(line), shown)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("errands")
    (folder / "shop.py").write_text(APP)
    (folder / "bin").mkdir()
    program = folder / "bin" / "tidegate"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tidegate "$@"\n')
    program.chmod(0o755)
    environment = {"TIDEGATE_LOG_SLOW_CALL_S": "0.1", "PRINTER": str(folder / "printer-is-free")}
    with services_in(folder) as serve:
        shop = serve(2, app=str(folder / "shop.py"), environment=environment)
        test = serve(1, app=str(folder / "shop.py"), data=folder / "test")
        shop.expect("PaymentRefused", "Traceback", "waited behind its gate", "exited with code 3", KILLED_BY_TEST, "FLAPPING")
        for name, items in (("alice", 3), ("bob", 2), ("carol", 1)):
            for number in range(items):
                shop.call("Cart", name, "add", f"book-{number}")
        shop.call("Cart", "alice", "add", "tea", 2)
        shop.call("Cart", "alice", "note", "no bags " * 100)
        biggest = "tidegate objects ls Cart --biggest 3 --json"
        desk = Desk(folder, shop, test)
        wait_until(lambda: len(json.loads(desk.typed(biggest))["objects"]) == 3, "that all are in the data files")
        yield desk


# What is there before an errand begins


@contextlib.contextmanager
def a_printer_that_is_waited_for(desk: Desk, name: str) -> Iterator[None]:
    """By that cart, with its gate closed and its alarm due, and by a call behind that gate."""

    def call(method: str, *args: str) -> threading.Thread:
        thread = threading.Thread(target=desk.shop.call, args=("Cart", name, method, *args), kwargs={"timeout_s": 120.0})
        thread.start()
        return thread

    def inspected() -> str:
        return desk.typed(f"tidegate inspect Cart {name}")

    begun = [call("print_invoice")]
    wait_until(lambda: "print_invoice" in inspected(), "a closed gate", seen=inspected)
    begun.append(call("add", "pen"))
    wait_until(lambda: re.search(r"\badd\b", inspected()), "a call that waits", seen=inspected)
    try:
        yield
    finally:
        desk.printer.touch()
        for thread in begun:
            thread.join()
        desk.printer.unlink()


@contextlib.contextmanager
def slow_alice(desk: Desk) -> Iterator[None]:
    with a_printer_that_is_waited_for(desk, "alice"):
        yield


@contextlib.contextmanager
def late_alarms(desk: Desk) -> Iterator[None]:
    for name in ("erin", "frank"):
        desk.shop.call("Cart", name, "remind_in", 86_400.0)
    with a_printer_that_is_waited_for(desk, "dave"):
        wait_until(lambda: "Cart/dave" in desk.typed("tidegate objects alarms --late"), "an alarm that is late")
        yield


@contextlib.contextmanager
def busy_bob(desk: Desk) -> Iterator[None]:
    status, error = exchange(desk.shop.endpoint, "Cart", "bob", "check_out", ["4711"])
    assert (status, error["code"]) == (1, "exception")
    done = threading.Event()

    def call() -> None:
        with connect_sync(desk.shop.endpoint) as client:
            while not done.wait(0.01):
                client.call("Cart", "bob", "add", ("pencil",))

    calling = threading.Thread(target=call)
    calling.start()
    try:
        wait_until(lambda: "Cart/bob" in desk.typed("tidegate objects hot --limit 1"), "bob to be called most")
        yield
    finally:
        done.set()
        calling.join()


@contextlib.contextmanager
def overdue_backup(desk: Desk) -> Iterator[None]:
    desk.typed(f"tidegate backup $BACKUPS --data $DATA --due-after {OVERDUE_HOURS}")
    wait_until(lambda: "was due at" in desk.typed("tidegate status"), "a problem")
    yield


@contextlib.contextmanager
def jammed_mallory(desk: Desk) -> Iterator[None]:
    """For long enough to type a few lines."""

    def blocked() -> bool:
        exchange(desk.shop.endpoint, "Cart", "mallory", "jam")
        found = json.loads(desk.typed("tidegate objects blocked --json"))
        return any(each["for_s"] > BLOCKED_S_MIN for each in found)

    wait_until(blocked, "a long quarantine", within_s=90.0)
    wait_until(lambda: desk.type("tidegate inspect Cart mallory").returncode == 0, "its worker, which is started again")
    yield


BEFORE: dict[str, Callable[[Desk], AbstractContextManager[None]]] = {
    "2": slow_alice,
    "5": late_alarms,
    "6": busy_bob,
    "8": overdue_backup,
    "10": jammed_mallory,
}


def is_as_shown(printed: str, shown: str) -> bool:
    """`…` is anything in a line, and as a line of its own any lines."""
    lines = (r"(?s:.*)" if line == "…" else re.escape(line).replace("…", ".*") for line in shown.split("\n"))
    return re.fullmatch("\n".join(lines), printed) is not None


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("number", "what", "text"), ERRANDS, ids=[what for _, what, _ in ERRANDS])
def test_an_errand_is_done_by_the_lines_of_the_page(desk: Desk, number: str, what: str, text: str) -> None:
    lines = list(steps("".join(re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL))))
    assert len(lines) > 1, what
    with BEFORE.get(number, lambda _: contextlib.nullcontext())(desk):
        for line, shown in lines:
            printed = desk.typed(line)
            if line == "tidegate status":  # It is a few seconds old.
                wait_until(partial(desk.is_answered, line, shown), shown)
                continue
            assert is_as_shown(printed, shown), f"$ {line}\n{printed}\n-- and not:\n{shown}"


def test_the_page_has_ten_errands() -> None:
    assert [int(number) for number, _, _ in ERRANDS] == list(range(1, 11))
