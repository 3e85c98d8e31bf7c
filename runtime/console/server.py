"""The console's own HTTP server: the page, and a JSON answer for each question that it asks.

Guarantee: whatever pages ask, and however many there are, the service is asked by a bounded number of threads, once for all pages
where it is the same question; the rest is refused. One page that waits for an object keeps nobody from the overview.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web

from tidegate.runtime.cli.asking import read_status
from tidegate.runtime.cli.pages import hot_objects
from tidegate.runtime.console.admission import HEADERS, Admission
from tidegate.runtime.console.last_minutes import LastMinutes
from tidegate.runtime.console.questions import Ask, Questions
from tidegate.runtime.console.shared import Shared
from tidegate.runtime.errors import CallError, OperatorError
from tidegate.runtime.wire.commands import COMMAND_BYTES_MAX

LOOK_S = 1.0
LEAVE_S = 1.0
"""For so long what was begun is answered when the console ends."""
THREADS = 8
WAITING_MAX = 64
"""Questions that wait for a thread, or have one."""
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_BUSY = "too many questions at once; it is tried again"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Console:
    """Of one service."""

    def __init__(self, questions: Questions, admission: Admission) -> None:
        self._questions = questions
        self._admission = admission
        self._last_minutes = LastMinutes()
        self._status: dict[str, Any] = {}
        self._heard_ms = 0
        self._lost: tuple[int, OperatorError] | None = None
        """Since when the service has not answered, and why."""
        self._threads = ThreadPoolExecutor(THREADS, "tidegate-console")
        self._look_thread = ThreadPoolExecutor(1, "tidegate-look")
        self._waiting = 0
        self._looking: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None
        self._shared = {
            "errors": Shared(lambda: self._ask(questions.errors), 1.0),
            "alarms": Shared(lambda: self._ask(questions.alarms), 1.0),
            "classes": Shared(lambda: self._ask(questions.classes), 2.0),
            "backups": Shared(lambda: self._ask(questions.backups), 10.0),
        }

    async def start(self, listening: socket.socket) -> None:
        """Raises OperatorError where there is no service."""
        await self._look()
        if self._lost is not None:
            raise self._lost[1]
        app = web.Application(middlewares=[self._admit], client_max_size=COMMAND_BYTES_MAX)
        for path, (body, kind) in _assets().items():
            app.router.add_get(path, _asset(body, kind))
        app.router.add_get("/api/overview", self._overview)
        for name, shared in self._shared.items():
            app.router.add_get(f"/api/{name}", _shared(shared))
        for name, (kind, ask) in self._questions.looks().items():
            app.router.add_get(f"/api/{name}", self._question(kind, ask))
        for name, (kind, ask) in self._questions.changes().items():
            app.router.add_post(f"/api/{name}", self._question(kind, ask))
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=LEAVE_S)
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()
        self._looking = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        for threads in (self._threads, self._look_thread):
            threads.shutdown(wait=False, cancel_futures=True)

    # The service, again and again

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look()

    async def _look(self) -> None:
        try:
            status = await asyncio.get_running_loop().run_in_executor(self._look_thread, self._questions.status)
        except OperatorError as error:
            self._lost = _now_ms() if self._lost is None else self._lost[0], error
        else:
            self._status, self._heard_ms, self._lost = status, _now_ms(), None
            self._last_minutes.saw(status, self._heard_ms)

    async def _overview(self, request: web.Request) -> web.Response:
        try:
            after_ms = int(request.query.get("after", "0"))
        except ValueError:
            after_ms = 0
        return _json(
            {
                "now_ms": _now_ms(),
                "heard_ms": self._heard_ms,
                "lost": None if self._lost is None else {"since_ms": self._lost[0], "why": self._lost[1].problem},
                "status": {key: value for key, value in self._status.items() if key != "classes"},
                "hot": hot_objects(read_status(self._status)),
                "shard_rates": self._last_minutes.shard_rates(),
                "points": self._last_minutes.points(after_ms),
            }
        )

    # Questions

    async def _ask(self, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if self._waiting >= WAITING_MAX:
            raise web.HTTPServiceUnavailable(text=_BUSY)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        finally:
            self._waiting -= 1

    def _question(self, kind: Any, ask: Ask) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            if request.method == "POST":
                if request.content_type != "application/json":
                    raise web.HTTPUnsupportedMediaType(text="questions that change something are JSON")
                asked = msgspec.json.decode(await request.read(), type=kind)
            else:
                asked = msgspec.convert(dict(request.query), kind, strict=False)
            return _json(await self._ask(lambda: ask(asked)))

        return answer

    @property
    def _admit(self) -> Any:
        @web.middleware
        async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await self._admitted(request, handler)
            response.headers.update(HEADERS)
            return response

        return admit

    async def _admitted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        is_public = not request.path.startswith("/api/")
        refusal = self._admission.refusal(request.headers, is_public=is_public)
        if refusal is not None:
            return _error(refusal.status, refusal.code, refusal.message)
        try:
            return await handler(request)
        except CallError as error:
            return _json({"error": error.to_wire()}, _status_of(error))
        except OperatorError as error:
            return _error(503, "no_answer", str(error))
        except (msgspec.MsgspecError, UnicodeError) as error:
            return _error(400, "bad_request", str(error))
        except web.HTTPException as error:
            return _error(error.status, "http", error.text or error.reason)


def _status_of(error: CallError) -> int:
    """Of HTTP."""
    if error.details.get("missing"):
        return 404
    return 409 if error.details.get("conflict") else 422


def _shared(shared: Shared) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return _json(await shared.get())

    return answer


def _asset(body: bytes, kind: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return answer


def _assets() -> dict[str, tuple[bytes, str]]:
    """By path."""
    found = {}
    for file in files("tidegate.runtime.console").joinpath("static").iterdir():
        kind = _TYPES.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            found["/" if file.name == "index.html" else f"/{file.name}"] = file.read_bytes(), kind
    return found


def _json(told: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(told), status=status, content_type="application/json")


def _error(status: int, code: str, message: str) -> web.Response:
    return _json({"error": {"code": code, "message": message}}, status)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
