"""A thread with a loop of its own that speaks with the servers for somebody else, who may block meanwhile."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from tidegate.runtime.ending import PAUSE_S, end, look_up

T = TypeVar("T")


_UvLoop: Any = uvloop.Loop  # Its stubs have a form of their own for each way to connect.


class _Loop(_UvLoop):  # type: ignore[misc]  # of any class
    """Looks names up aside: libuv's own threads do it otherwise, and both a loop that closes and the process wait for those."""

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **terms: Any) -> Any:
        if host is None or _is_number(host):
            return await super().create_connection(factory, host, port, **terms)
        if terms.get("ssl"):
            terms.setdefault("server_hostname", host)
        problem: OSError = OSError(f"{host} has no address")
        family, proto, flags = (terms.get(each, 0) for each in ("family", "proto", "flags"))
        for *_, address in await look_up(host, port, family, socket.SOCK_STREAM, proto, flags):
            try:
                return await super().create_connection(factory, in_numbers(address), address[1], **terms)
            except OSError as error:
                problem = error
        raise problem


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def in_numbers(address: tuple[Any, ...]) -> str:
    """The host of a socket's address, with its scope where it has one: without it a link-local address is nowhere."""
    host, scope = str(address[0]), address[3] if len(address) == 4 else 0
    return f"{host}%{scope}" if scope and "%" not in host else host


class LogThread:
    def __init__(self, closed: Callable[[], Exception], name: str = "tidegate-replicated") -> None:
        """`closed`: what whoever waits is told once it is closed."""
        self._closed = closed
        self._closing = threading.Lock()
        self._waited_for: set[concurrent.futures.Future[Any]] = set()
        self.loop = _Loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait(self, what: Coroutine[Any, Any, T]) -> T:
        """Blocks until it has run there."""
        future = self._begin(what)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise self._closed() from None
        finally:
            self._waited_for.discard(future)

    def begin(self, what: Coroutine[Any, Any, T], ended: Callable[[T | BaseException], None]) -> None:
        """As `wait`, but that nobody blocks: `ended` is told once what came of it, in the thread, or in that which closes it."""

        def tell(future: concurrent.futures.Future[T]) -> None:
            self._waited_for.discard(future)
            ended(self._closed() if future.cancelled() else future.exception() or future.result())

        try:
            future = self._begin(what)
        except Exception as error:
            ended(error)
        else:
            future.add_done_callback(tell)

    def _begin(self, what: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        with self._closing:
            if self.loop.is_closed():
                what.close()
                raise self._closed()
            future = asyncio.run_coroutine_threadsafe(what, self.loop)
            self._waited_for.add(future)
        return future

    def close(self, end: Callable[[], Awaitable[None]]) -> None:
        """Ends what runs there, after what `end` gives, which must not take long; whoever waits for it is told so. May be called
        in any other thread, and again."""
        with self._closing:
            if self.loop.is_closed():
                return
            asyncio.run_coroutine_threadsafe(self._end(end), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            for future in self._waited_for.copy():  # Of what does not end, whatever it is told.
                future.cancel()
            self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _end(self, end_first: Callable[[], Awaitable[None]]) -> None:
        await end_first()
        await end(asyncio.all_tasks() - {asyncio.current_task()}, patience_s=PAUSE_S)
