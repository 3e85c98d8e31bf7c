"""The console's own server, whatever the service says and however it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest

from tests.support.waiting import WITHIN_S
from tidegate.runtime.console import browsers, server
from tidegate.runtime.console.admission import HEADERS, Admission
from tidegate.runtime.console.browsers import CONNECTIONS_MAX
from tidegate.runtime.console.questions import ERRORS_SHOWN, Key, Questions, Rows, Target
from tidegate.runtime.console.server import THREADS, Console

SECRET = "s" * 32


class Told(Questions):
    """A service that says what a test wants."""

    def __init__(self) -> None:
        super().__init__("tcp://127.0.0.1:1")
        self.says: Any = {"start": 1, "rates": {"calls_per_s": 5.0}}
        self.error: Exception | None = None
        self.asked: list[Any] = []
        self.may_answer = threading.Event()

    def status(self) -> dict[str, Any]:
        return self.says

    def errors(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {"errors": [], "slow": [], "missing": [], "limit": ERRORS_SHOWN}

    def rows(self, asked: Rows) -> dict[str, Any]:
        return self._waited(asked)

    def object(self, asked: Target) -> dict[str, Any]:
        return self._waited(asked)

    def value(self, asked: Key) -> dict[str, Any]:
        return self._waited(asked)

    def _waited(self, asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        assert self.may_answer.wait(WITHIN_S)
        return {"rows": [], "name": asked.name}


class Open(NamedTuple):
    console: Console
    told: Told
    browser: aiohttp.ClientSession
    address: tuple[str, int]

    async def get(self, path: str) -> tuple[int, Any, Any]:
        async with self.browser.get(path) as answer:
            return answer.status, msgspec.json.decode(await answer.read() or b"null"), answer.headers


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Open]:
    told = Told()
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    console = Console(told, Admission(SECRET))
    await console.start(listening)
    try:
        url, headers = f"http://127.0.0.1:{address[1]}", {"Authorization": f"Bearer {SECRET}"}
        async with aiohttp.ClientSession(url, headers=headers, connector=aiohttp.TCPConnector(limit=40)) as browser:
            yield Open(console, told, browser, address)
    finally:
        told.may_answer.set()
        await console.close()


async def reached(told: Told, count: int) -> None:
    while len(told.asked) < count:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("says", [{"processes": 7}, {"processes": [{}]}, {"rates": 7}, [], None])
def test_a_service_that_tells_what_cannot_be_read_is_said_once_and_looked_at_again(
    says: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with opened() as open_:
            console, told = open_.console, open_.told
            good, told.says = told.says, says
            for _ in range(3):
                await console._look()
            assert console._lost is not None
            assert "cannot be read" in console._lost[1].problem
            assert console._seen["status"]["start"] == 1, "what was heard last is shown, as such"
            told.says = good
            await console._look()
            assert console._lost is None

    asyncio.run(main())
    assert [record.levelno for record in caplog.records if record.name == "tidegate"] == [logging.ERROR]


def test_points_go_on_when_somebody_sets_the_clock_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1_000, 100_000, 5_000))
    monkeypatch.setattr(server, "_steady_ms", lambda: next(times))
    monkeypatch.setattr(server, "_now_ms", lambda: 2_000_000 - next(times))
    monkeypatch.setattr(server, "LOOK_S", 1_000.0)

    async def main() -> None:
        async with opened() as open_:
            for _ in range(3):
                await open_.console._look()
            assert len((await open_.get("/api/overview"))[1]["points"]) == 4

    asyncio.run(main())


def test_a_fault_of_the_console_is_answered_and_guarded_and_said_where_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened() as open_:
            open_.told.error = ZeroDivisionError("none")
            status, answer, headers = await open_.get("/api/errors")
            assert (status, answer["error"]["code"]) == (500, "internal")
            assert headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
            open_.told.error = None
            assert (await open_.get("/api/errors"))[0] == 200

    asyncio.run(main())
    assert "/api/errors could not be answered" in caplog.text


def test_pages_that_ask_the_same_of_an_object_make_one_question_and_all_objects_together_keep_nobody_from_the_rest() -> None:
    async def main() -> None:
        async with opened() as open_:
            same = [asyncio.ensure_future(open_.get("/api/rows?class_name=Cart&name=a")) for _ in range(20)]
            await reached(open_.told, 1)
            others = [
                asyncio.ensure_future(open_.get(f"/api/{what}?class_name=Cart&name={at}&key=k"))
                for at, what in enumerate(("object", "rows", "value", "object", "rows", "value", "object"))
            ]
            await reached(open_.told, THREADS)
            for path in ("overview", "errors"):
                assert (await open_.get(f"/api/{path}"))[0] == 200
            open_.told.may_answer.set()
            assert {status for status, *_ in await asyncio.gather(*same, *others)} == {200}
            assert [each.name for each in open_.told.asked].count("a") == 1

    asyncio.run(main())


def test_beyond_so_many_questions_about_stuck_objects_more_are_refused_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "WAITING_MAX", THREADS + 4)
    monkeypatch.setattr(server, "LOOK_S", 0.01)

    async def main() -> None:
        async with opened() as open_:
            rows = "/api/rows?class_name=Cart&name="
            stuck = [asyncio.ensure_future(open_.get(f"{rows}{at}")) for at in range(server.WAITING_MAX)]
            await reached(open_.told, THREADS)
            while open_.console._waiting < server.WAITING_MAX:
                await asyncio.sleep(0.001)
            for each in stuck[:6]:  # Whoever closes a page gives nobody room: what it has asked is under way.
                each.cancel()
            refused = await asyncio.gather(*(open_.get(f"{rows}more-{at}") for at in range(20)))
            assert {(status, answer["error"]["message"]) for status, answer, _ in refused} == {(503, server._BUSY)}
            open_.told.says = {**open_.told.says, "start": 2}
            while (await open_.get("/api/overview"))[1]["status"]["start"] != 2:  # So it is looked at again and again.
                await asyncio.sleep(0.001)
            assert (await open_.get("/api/errors"))[0] == 200
            assert not any(each.done() and not each.cancelled() for each in stuck)
            open_.told.may_answer.set()
            assert {(await each)[0] for each in stuck[6:]} == {200}
            while open_.console._waiting:
                await asyncio.sleep(0.001)
            assert (await open_.get(f"{rows}more"))[0] == 200

    asyncio.run(main())


def test_who_connects_when_all_places_are_taken_is_told_so() -> None:
    async def main() -> None:
        async with opened() as open_:
            held = [await asyncio.open_connection(*open_.address) for _ in range(CONNECTIONS_MAX)]
            reader, writer = await asyncio.open_connection(*open_.address)
            assert b" 503 " in await reader.read()
            for _, each in [*held, (reader, writer)]:
                each.close()
            while (await open_.get("/api/overview"))[0] != 200:
                await asyncio.sleep(0.001)

    asyncio.run(main())


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
def test_who_asks_nothing_more_loses_his_connection(monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(browsers, "IDLE_S", 0.05)
    monkeypatch.setattr(server, "IDLE_S", 0.05)

    async def main() -> None:
        async with opened() as open_:
            reader, writer = await asyncio.open_connection(*open_.address)
            writer.write(begun)
            told = await reader.read()  # To its end.
            assert told[:15] == (b"HTTP/1.1 200 OK" if begun.endswith(b"\r\n\r\n") else b"")
            writer.close()

    asyncio.run(main())
