"""The network of a test: HTTP that objects ask for is answered by what the test says, and nothing real is reached.

Guarantee: requests pass the output gate and the client library as they would; only what answers them is the test's. A request
that nobody answers, and a real socket that object code opens, raise where they are made and fail the test, with what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import inspect
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NoReturn
from urllib.parse import urlsplit

from tidegate.runtime.extras import how_to_install
from tidegate.shard.loop.context import CURRENT
from tidegate.shard.objects.web import Web

_PORTS = {"http": 80, "https": 443}

_OWN_TLS = (
    "{host}:{port} is dialled by a library that does TLS by itself, as httpx does, and that no test can answer: use self.fetch "
    "or aiohttp, or give that client something in the place of its transport (httpx.MockTransport)"
)


@dataclass(frozen=True)
class HttpRequest:
    """One that an object has made."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Its body, decoded. Raises ValueError for what is no JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class HttpReply:
    """What a request is answered, where a body alone does not say enough."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Any
"""An `HttpReply`; a dict or list, sent as JSON; a str; bytes; an int, the status; an exception: the connection breaks; or a
function, plain or async, that takes the `HttpRequest` and returns one of these."""


class Http:
    """What answers the requests of a test's objects."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []
        """Those that were made, in order."""
        self.otherwise: Answer = None
        """What all others are answered; None: they fail the test."""
        self._answers: list[tuple[str | None, str, Answer]] = []

    def answer(self, url: str, answer: Answer, *, method: str | None = None) -> None:
        """Requests to that URL are answered so; the newest answer that fits counts. `*` in the URL stands for anything; a query
        counts only where the URL has one. `answer` is an `HttpReply`, a dict or list (sent as JSON), a str, bytes, a status
        number, an exception (the connection breaks), or a function, plain or async, that takes the `HttpRequest` and returns one
        of these. Raises ValueError for what is no URL."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.netloc:
            raise ValueError(f"{url!r} is no URL of HTTP; write it whole, as in https://api.example/prices/*")
        self._answers.insert(0, (None if method is None else method.upper(), url, answer))

    def knows(self, host: str, port: int, *, secure: bool) -> bool:
        """Whether anything there is answered."""
        if self.otherwise is not None:
            return True
        scheme = "https" if secure else "http"
        for _, url, _ in self._answers:
            parts = urlsplit(url)
            if parts.scheme == scheme and fnmatchcase(host, parts.hostname or "") and port == (parts.port or _PORTS[scheme]):
                return True
        return False

    def find(self, request: HttpRequest) -> tuple[bool, Answer]:
        """Whether there is an answer, and which."""
        plain = request.url.partition("?")[0]
        for method, url, answer in self._answers:
            if method in (None, request.method) and fnmatchcase(request.url if "?" in url else plain, url):
                return True, answer
        return self.otherwise is not None, self.otherwise


class Network:
    def __init__(
        self, trouble: Callable[[str], object], late_s: Callable[[str], float], note: Callable[[str], object] = lambda text: None
    ) -> None:
        """`trouble` is told what must not happen in a test that passes. `late_s`: how late that is what is named. `note` is told
        of every request, and what it is answered."""
        self.http = Http()
        self._trouble = trouble
        self._late_s = late_s
        self._note = note

    def listener(self, host: str, port: int, *, secure: bool) -> asyncio.BaseProtocol:
        """See `connections.Listeners`."""
        if not self.http.knows(host, port, secure=secure):
            scheme = "https" if secure else "http"
            default = "" if port == _PORTS[scheme] else f":{port}"
            text = (
                _OWN_TLS.format(host=host, port=port)
                if self.http.knows(host, port, secure=True)
                else (
                    f"nobody answers at {host}:{port} in this test, and nothing real is reached: say what does, by "
                    f'objects.http.answer("{scheme}://{host}{default}/*", ...)'
                )
            )
            self._refuse(text)
        return contextvars.Context().run(self._server_protocol, "https" if secure else "http")  # No object's business.

    def _server_protocol(self, scheme: str) -> asyncio.BaseProtocol:
        try:
            from aiohttp import web
        except ImportError:
            self._refuse(f"what answers HTTP in a test needs aiohttp: {how_to_install('tidegate[fetch]')}")

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            url = f"{scheme}://{request.host}{request.raw_path}"
            asked = HttpRequest(request.method, url, dict(request.headers), await request.read())
            self.http.requests.append(asked)
            self._note(f"HTTP {asked.method} {url}")
            known, answer = self.http.find(asked)
            if not known:
                text = f'nobody answers {asked.method} {url} in this test: say what does, by objects.http.answer("{url}", ...)'
                self._trouble(text)
                answer = HttpReply(text, 501)
            if callable(answer):
                answer = answer(asked)
                if inspect.isawaitable(answer):
                    awaited: Awaitable[Any] = answer
                    answer = await awaited
            if late_s := self._late_s(f"the answer to {asked.method} {url}"):
                await asyncio.sleep(late_s)
            if isinstance(answer, BaseException):
                self._note(f"HTTP {asked.method} {url} breaks: {answer!r}")
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=500)
            response: web.StreamResponse = _response(web, answer)
            self._note(f"HTTP {asked.method} {url} -> {response.status}")
            return response

        return web.Server(handle, access_log=None)()

    def _refuse(self, text: str) -> NoReturn:
        self._trouble(text)
        raise ConnectionRefusedError(errno.ECONNREFUSED, text)

    def forget(self, web: Web) -> None:
        """The process that had it is gone."""
        session, web._session = web._session, None
        if session is not None:
            connector = session.connector
            session.detach()
            if connector is not None:
                closing: Any = connector.close()
                if inspect.iscoroutine(closing):
                    with contextlib.suppress(StopIteration):
                        closing.send(None)  # Of a loop that is closed it ends at once. Left open it would complain later.
                    closing.close()


def _response(web: Any, answer: Any) -> Any:
    reply = answer if isinstance(answer, HttpReply) else HttpReply(b"", answer) if type(answer) is int else HttpReply(answer)
    headers = dict(reply.headers)
    body = reply.body
    if isinstance(body, str):
        headers.setdefault("Content-Type", "text/plain; charset=utf-8")
        body = body.encode()
    elif not isinstance(body, bytes):
        headers.setdefault("Content-Type", "application/json")
        body = json.dumps(body).encode()
    return web.Response(body=body, status=reply.status, headers=headers)


@contextlib.contextmanager
def no_real_sockets(trouble: Callable[[str], object]) -> Iterator[None]:
    """Code of objects connects to nothing real meanwhile. Others, fixtures and plugins, do what they like."""

    def refuse(address: Any) -> NoReturn:
        text = (
            f"{CURRENT.get().id} connects to {address} by a real socket in a test: use self.fetch or aiohttp, answered by "
            "objects.http.answer(...), or give the object something in the place of that client"
        )
        trouble(text)
        raise ConnectionRefusedError(errno.ECONNREFUSED, text)

    def connect(sock: socket.socket, address: Any) -> Any:
        return plain(sock, address) if CURRENT.get(None) is None else refuse(address)

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        return asked(host, *args, **options) if CURRENT.get(None) is None else refuse(host)

    plain: Any = socket.socket.connect
    asked: Any = socket.getaddrinfo
    guarded: Any = socket
    guarded.socket.connect, guarded.getaddrinfo = connect, look_up
    try:
        yield
    finally:
        del guarded.socket.connect
        guarded.getaddrinfo = asked
