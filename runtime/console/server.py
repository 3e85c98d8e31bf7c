"""The console's own HTTP server: the page, and a JSON answer for each question that it asks.

Guarantee: whatever pages ask, and however many there are, the service is asked by a bounded number of threads, once at a time for
all pages where it is the same question; the rest is refused. Pages that wait for objects keep nobody from what is known of all of
them. Whatever goes wrong, each request is answered, with the headers that guard a page, and the service is looked at again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.resources import files
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from tidegate.runtime.cli.asking import read_status
from tidegate.runtime.cli.pages import hot_objects
from tidegate.runtime.console.admission import HEADERS, Admission
from tidegate.runtime.console.browsers import IDLE_S, Browsers
from tidegate.runtime.console.last_minutes import LastMinutes
from tidegate.runtime.console.questions import Ask, Questions
from tidegate.runtime.console.shared import Shared, UnderWay
from tidegate.runtime.errors import CallError, OperatorError
from tidegate.runtime.limits import VALUE_BYTES_MAX

LOOK_S = 1.0
LEAVE_S = 1.0
"""For so long what was begun is answered when the console ends."""
THREADS = 8
"""That wait for objects."""
WAITING_MAX = 64
"""Questions that wait for one of these threads, or have it."""
BODY_BYTES_MAX = 12 * VALUE_BYTES_MAX
"""A value that is saved as it was shown. As JSON a byte of it becomes ten characters at most (`plain_json.GROWTH_MAX`), eleven
where that text is quoted in turn (of nested dicts whose keys are bytes)."""
BODY_S = 60.0
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_BUSY = "too many questions at once; it is tried again"

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger("tidegate")


class Console:
    """Of one service."""

    def __init__(self, questions: Questions, admission: Admission) -> None:
        self._questions = questions
        self._admission = admission
        self._last_minutes = LastMinutes()
        self._seen: dict[str, Any] = {}
        """What the overview tells, as it was heard last."""
        self._heard_ms = 0
        self._lost: tuple[int, OperatorError] | None = None
        """Since when the service has not answered, and why."""
        self._threads = ThreadPoolExecutor(THREADS, "tidegate-console")
        self._look_thread = ThreadPoolExecutor(1, "tidegate-look")
        self._waiting = 0
        self._in_threads: set[Future[Any]] = set()
        """What is asked, or waits for a thread."""
        self._under_way = UnderWay()
        self._looking: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._browsers: Browsers | None = None
        self._shared = {
            "errors": self._share(questions.errors, 1.0),
            "alarms": self._share(questions.alarms, 1.0),
            "classes": self._share(questions.classes, 2.0),
            "backups": self._share(questions.backups, 10.0),
        }
        self._shared_threads = ThreadPoolExecutor(len(self._shared), "tidegate-shared")

    def _share(self, ask: Callable[[], dict[str, Any]], kept_s: float) -> Shared:
        """One question about all objects, which waits for no other one."""

        async def fetch() -> dict[str, Any]:
            return await self._in_thread(self._shared_threads, ask)

        return Shared(fetch, kept_s)

    async def start(self, listening: socket.socket) -> None:
        """Raises OperatorError where there is no service."""
        await self._look()
        if self._lost is not None:
            raise self._lost[1]
        app = web.Application(middlewares=[self._admit], client_max_size=BODY_BYTES_MAX)
        for path, (body, kind) in _assets().items():
            app.router.add_get(path, _asset(body, kind))
        app.router.add_get("/api/overview", self._overview)
        for name, shared in self._shared.items():
            app.router.add_get(f"/api/{name}", _shared(shared))
        for name, (kind, ask) in self._questions.looks().items():
            app.router.add_get(f"/api/{name}", self._look_at(name, kind, ask))
        for name, (kind, ask) in self._questions.changes().items():
            app.router.add_post(f"/api/{name}", self._change(kind, ask))
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=LEAVE_S, keepalive_timeout=IDLE_S
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._browsers = Browsers(self._runner.server)
        self._server = await asyncio.get_running_loop().create_server(self._browsers.make, sock=listening)
        self._looking = asyncio.create_task(self._keep_looking())

    async def close(self) -> bool:
        """Whether a thread still waits for an answer that nobody wants any longer."""
        if self._looking is not None:
            self._looking.cancel()
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        for threads in (self._threads, self._shared_threads, self._look_thread):
            threads.shutdown(wait=False, cancel_futures=True)
        return bool(self._in_threads)

    # The service, again and again

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look()

    async def _look(self) -> None:
        """Never raises: a page would show for ever what was heard before, as if it were so now."""
        try:
            status, seen = await self._in_thread(self._look_thread, self._asked)
            self._last_minutes.saw(status, _steady_ms())
        except OperatorError as error:
            self._lose(error)
        except Exception as error:
            if self._lost is None:
                log.exception("the service has told what cannot be read")
            what = f"it has told what cannot be read ({type(error).__name__}: {error})"
            self._lose(OperatorError("look at", "the service", what, "use the tidegate command that the service is of"))
        else:
            self._seen, self._heard_ms, self._lost = seen, _now_ms(), None

    def _asked(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the service says of itself, and what the overview tells of it. Raises OperatorError, and whatever comes of reading
        what another version says."""
        status = self._questions.status()
        shown = {key: value for key, value in status.items() if key != "classes"}
        return status, {"status": shown, "hot": hot_objects(read_status(status))}

    def _lose(self, error: OperatorError) -> None:
        self._lost = _now_ms() if self._lost is None else self._lost[0], error

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
                **self._seen,
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
            return await self._in_thread(self._threads, ask)
        finally:
            self._waiting -= 1

    async def _in_thread(self, threads: ThreadPoolExecutor, ask: Callable[[], T]) -> T:
        future = threads.submit(ask)
        self._in_threads.add(future)
        future.add_done_callback(self._in_threads.discard)
        return await asyncio.wrap_future(future)

    def _look_at(self, name: str, kind: Any, ask: Ask) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            asked = msgspec.convert(dict(request.query), kind, strict=False)
            return _json(await self._under_way.get((name, asked), lambda: self._ask(lambda: ask(asked))))

        return answer

    def _change(self, kind: Any, ask: Ask) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            if request.content_type != "application/json":
                raise web.HTTPUnsupportedMediaType(text="questions that change something are JSON")
            try:
                async with asyncio.timeout(BODY_S):
                    body = await request.read()
            except TimeoutError:
                raise web.HTTPRequestTimeout(text=f"it has not come within {BODY_S:g} s") from None
            asked = msgspec.json.decode(body, type=kind)
            try:
                return _json(await self._ask(lambda: ask(asked)))
            finally:
                self._under_way.forget()
                for shared in self._shared.values():
                    shared.forget()

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
        assert self._browsers is not None
        self._browsers.asks(request)
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
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return _error(400, "bad_request", str(error))
        except web.HTTPException as error:
            return _error(error.status, "http", error.text or error.reason)
        except Exception:  # A fault of ours; other requests are answered.
            log.exception("%s could not be answered", request.path)
            return _error(500, "internal", "the console could not answer; what it has written where it runs says why")


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


def _steady_ms() -> int:
    """Nobody sets this clock."""
    return time.monotonic_ns() // 1_000_000
