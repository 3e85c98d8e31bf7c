"""The asynchronous client: `async with connect(endpoint) as client`.

Rule 1: no rules here, and no sockets: the machine decides and the shell moves bytes; this file makes calls and completes futures.
Rule 2: one loop, one thread. `synchronous` is for the others.

All calls made in one turn of the loop leave together, one message for each link.
"""

from __future__ import annotations

import asyncio
import contextlib
from _thread import get_ident
from asyncio import current_task
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Literal, TypeVar, overload

import msgspec
import zmq

from tidegate.runtime.client.access import ShownKey
from tidegate.runtime.client.answers import ClassInfo, ServiceStatus, ServiceTopology
from tidegate.runtime.client.bulk import AT_ONCE, EACH, Map, MapCalls, mapped
from tidegate.runtime.client.links import ClientStatistics, check_seconds
from tidegate.runtime.client.shell import FIRST_TOPOLOGY_S, Shell, new_machine
from tidegate.runtime.client.terms import Terms, other_terms, traced
from tidegate.runtime.client.tracing import tracing_in_use
from tidegate.runtime.errors import Unavailable
from tidegate.runtime.sockets.context import new_context
from tidegate.runtime.wire.encoding import decode_any, encode_arguments, result_decoder
from tidegate.runtime.wire.pending import PendingCall
from tidegate.runtime.wire.protocol import NO_RAW
from tidegate.runtime.wire.stub import MethodShape, Stub, TermsBinder

T = TypeVar("T")
R = TypeVar("R")

NOT_ENTERED = "the client has not been entered: use it inside `async with connect(…) as client:`"
OTHER_LOOP = (
    "the client belongs to another event loop: give the call to asyncio.run_coroutine_threadsafe(call, loop), "
    "connect in this loop too, or use tidegate.connect_sync, which any thread may use"
)


def connect(
    endpoint: str, *, timeout: float | None = None, connect_timeout: float | None = None, direct: bool = True, retry: bool = True,
    key_file: str | Path | None = None,
) -> Client:  # fmt: skip
    """The client of a service, to be entered with `async with`.

    `timeout`: seconds for calls that name none (default 30); a call not answered by then raises `DeadlineExceeded`.
    `connect_timeout`: seconds for which a call waits for a connection to the service; then it raises `Unavailable` and has not
    been sent (default: 5 for a service that has not been there yet; for one that is away, until the call's timeout).
    `direct`: talk straight to the workers whose sockets are on this machine.
    `retry`: a call that met a worker which moved, restarts or was lost, or a connection that broke, is sent again until its
    timeout, and runs once (docs/retries.md). Without it the caller sees those errors.
    `key_file`: a file with the client's access key, as `tidegate keys new` writes one, for a service that asks for keys. Unless
    given, the environment is looked at: TIDEGATE_KEY has the key, TIDEGATE_KEY_FILE the path of its file. Raises ValueError for
    what is no key, OSError for a file that cannot be read. With a key that the service does not know each call raises
    `Unauthorized`.
    """
    return Client(endpoint, timeout=timeout, connect_timeout=connect_timeout, direct=direct, retry=retry, key_file=key_file)


class Client:
    """Calls objects. Usable until the `async with` block is left; a stub of it stays usable after any error."""

    def __init__(
        self, endpoint: str, *, timeout: float | None = None, connect_timeout: float | None = None, direct: bool = True,
        retry: bool = True, key_file: str | Path | None = None,
    ) -> None:  # fmt: skip
        self._key = ShownKey(key_file)
        self._machine = new_machine(endpoint, timeout, connect_timeout, direct, retry)
        self._context: zmq.Context[Any] | None = None
        self._shell: Shell | None = None

    async def __aenter__(self) -> Client:
        if self._context is not None:
            raise RuntimeError("a client is entered once; make another one with connect()")
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._context = new_context()
        topology_known = asyncio.Event()
        self._shell = Shell(
            self._machine, self._context, self._loop, topology_known.set, self._key, callers_go_on=True
        )  # fmt: skip
        try:
            self._shell.start()
            if self._machine.direct:
                with contextlib.suppress(TimeoutError):  # Calls go round until it comes.
                    async with asyncio.timeout(FIRST_TOPOLOGY_S):
                        await topology_known.wait()
        except BaseException:  # Also when it is cancelled here: nobody leaves a block that was not entered.
            self.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Calls in flight are answered by an error, unless their loop is closed: then nobody waits for them. Harmless, entered or
        not, closed or not."""
        if self._shell is None:
            self._machine.close()
        else:
            self._shell.close(is_heard=not self._loop.is_closed())
        if self._context is not None:
            self._context.term()

    # Calls

    @overload
    def stub(
        self, target: type[T], name: str, *, timeout: float | None = None, retry: bool | None = None, key: str | None = None
    ) -> T: ...
    @overload
    def stub(
        self, target: str, name: str, *, timeout: float | None = None, retry: bool | None = None, key: str | None = None
    ) -> Any: ...
    def stub(
        self, target: type[T] | str, name: str, *, timeout: float | None = None, retry: bool | None = None, key: str | None = None
    ) -> T | Any:
        """The object's methods as awaitables. Made from a class, it is typed as that class, and results have their
        annotated types. `timeout` and `retry` are those of every call made with this stub.

        `key`: the name of the one call that the stub is for, 1 to 64 bytes: whoever calls the object with the same key again,
        also later and from elsewhere, gets the first one's result, and nothing runs twice.
        """
        terms = self._terms(timeout, retry, key)
        return Stub(self if terms is None else TermsBinder(self, terms), target, name)

    def call(
        self, class_name: str, name: str, method: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None,
        result_type: Any = Any, timeout: float | None = None, *, retry: bool | None = None, key: str | None = None,
    ) -> PendingCall[Any]:  # fmt: skip
        """One call without a stub. Arguments that cannot be sent raise here; everything else comes with the future."""
        send = self._binding(class_name, name, method, result_type, None, self._terms(timeout, retry, key))
        return send(*args, **kwargs or {})

    @overload
    async def map(
        self, target: type[T], method: Callable[Concatenate[T, ...], Coroutine[Any, Any, R]], calls: MapCalls, *,
        return_exceptions: Literal[False] = False,
        at_once: int = AT_ONCE, timeout: float | None = None, retry: bool | None = None,
    ) -> list[R]: ...  # fmt: skip
    @overload
    async def map(
        self, target: type[T], method: Callable[Concatenate[T, ...], Coroutine[Any, Any, R]], calls: MapCalls, *,
        return_exceptions: bool, at_once: int = AT_ONCE, timeout: float | None = None, retry: bool | None = None,
    ) -> list[R | BaseException]: ...  # fmt: skip
    @overload
    async def map(
        self, target: str, method: str, calls: MapCalls, *,
        return_exceptions: bool = False, at_once: int = AT_ONCE, timeout: float | None = None, retry: bool | None = None,
    ) -> list[Any]: ...  # fmt: skip
    async def map(
        self, target: type | str, method: Callable[..., Any] | str, calls: MapCalls, *,
        return_exceptions: bool = False, at_once: int = AT_ONCE, timeout: float | None = None, retry: bool | None = None,
    ) -> list[Any]:  # fmt: skip
        """Calls a method of many objects and waits once, for all: the results, in the order of the calls. Each of `calls` is the
        name of an object, or a tuple of that and the arguments:

            numbers = await client.map(Counter, Counter.add, [("alice", 2), ("bob", 3)])

        With very many in flight this costs the caller less than half of what so many awaited calls do. `calls` may be any
        iterable; it is read as calls are answered, and at most `at_once` of them are in flight. Calls to one object run in their
        order.

        Where calls fail, the others are made all the same. In the end the error of the first of them is raised, or, with
        `return_exceptions`, each stands in the place of its result. `timeout` (seconds) is that of each call. An argument that
        cannot be sent, and what the iterable raises, end it: that is raised once the calls made before have been answered.
        """
        class_name, name, result_type = mapped(target, method)
        terms, tracing = self._terms(timeout, retry, None), tracing_in_use()
        span = None if tracing is None else tracing.begin(class_name, EACH, name)
        if span is None:
            return await self._map(class_name, name, result_type, calls, at_once, terms, return_exceptions)
        try:
            own = traced(terms or self._machine.terms, span.traceparent)
            results = await self._map(class_name, name, result_type, calls, at_once, own, return_exceptions)
        except BaseException as error:
            span.end(error)
            raise
        span.end(None)
        return results

    async def _map(
        self, class_name: str, method: str, result_type: Any, calls: MapCalls, at_once: int, terms: Terms | None,
        return_exceptions: bool,
    ) -> list[Any]:  # fmt: skip
        shell, loop = self._shell, asyncio.get_running_loop()
        if shell is None:
            raise RuntimeError(NOT_ENTERED)
        if loop is not self._loop:
            raise RuntimeError(OTHER_LOOP)
        run = Map(self._machine, class_name, method, result_type, calls, at_once, terms)

        async def wait(*, for_all: bool) -> None:
            shell.flush()
            woken = loop.create_future()
            if run.wait(partial(_wake, woken), for_all=for_all):
                await woken

        try:
            while not run.fill(loop.time()):
                await wait(for_all=False)
            await wait(for_all=True)
        except BaseException:  # Cancelled: the calls run all the same.
            run.is_given_up = True
            raise
        return run.end(return_exceptions=return_exceptions)

    def _terms(self, timeout: float | None, retry: bool | None, key: str | None) -> Terms | None:
        check_seconds("timeout", timeout)
        if timeout is None and retry is None and key is None:
            return None
        return other_terms(self._machine.terms, timeout, retry, key)

    def bind(
        self, class_name: str, name: str, method: str, shape: MethodShape | None, terms: Terms | None = None
    ) -> Callable[..., PendingCall[Any]]:
        """See `tidegate.runtime.wire.stub.Binder`. `terms` are those of each of the calls."""
        result_type = Any if shape is None else shape.result_type
        return self._binding(class_name, name, method, result_type, shape, terms)

    def _binding(
        self, class_name: str, name: str, method: str, result_type: Any, shape: MethodShape | None, terms: Terms | None
    ) -> Callable[..., PendingCall[Any]]:
        plain = self._plain_binding(class_name, name, method, result_type, shape, terms)
        tracing = tracing_in_use()
        if tracing is None or (terms is not None and terms.traceparent is not None):
            return plain

        def send(*args: Any, **kwargs: Any) -> PendingCall[Any]:
            span = tracing.begin(class_name, name, method) if get_ident() == self._thread else None
            if span is None:
                return plain(*args, **kwargs)
            own = traced(terms or self._machine.terms, span.traceparent)
            try:
                call = self._plain_binding(class_name, name, method, result_type, shape, own)(*args, **kwargs)
            except BaseException as error:
                span.end(error)
                raise
            call.future.add_done_callback(lambda done: span.end(None if done.cancelled() else done.exception()))
            return call

        return send

    def _plain_binding(
        self, class_name: str, name: str, method: str, result_type: Any, shape: MethodShape | None, terms: Terms | None
    ) -> Callable[..., PendingCall[Any]]:
        """Everything that stays the same from call to call is looked up here."""
        shell = self._shell
        if shell is None:
            raise RuntimeError(NOT_ENTERED)
        machine, slot, decode = self._machine, self._machine.slot_of(class_name, name), result_decoder(result_type)
        loop, thread, call, flush = self._loop, self._thread, machine.call, shell.flush
        new_future, now, call_soon, is_running = loop.create_future, loop.time, loop.call_soon, loop.is_running
        retries = (terms or machine.terms).retries

        def send(*args: Any, **kwargs: Any) -> PendingCall[Any]:
            if args and kwargs and shape is not None:
                args, kwargs = (), shape.by_name(args, kwargs)
            raw = encode_arguments(args, kwargs) if args or kwargs else NO_RAW
            if get_ident() != thread:
                return self._send_in_loop(  # type: ignore[return-value]  # a plain coroutine, of which nothing is sent yet
                    class_name, name, method, raw, result_type, terms
                )
            if not shell.flushing:  # Once a turn.
                if not is_running():
                    self._check_loop()
                call_soon(flush)
                shell.flushing = True
            future = new_future()
            call(future, slot, class_name, name, method, raw, decode, terms, now(), current_task(loop) if retries else None)
            return PendingCall(future)

        return send

    def _check_loop(self) -> None:
        """The loop of the client does not run. It may later; not where another one runs, or when it has ended for good."""
        if self._loop.is_closed() or asyncio._get_running_loop() is not None:
            raise Unavailable("the client is closed") if self._machine.closed else RuntimeError(OTHER_LOOP)

    async def _send_in_loop(
        self, class_name: str, name: str, method: str, raw: msgspec.Raw, result_type: Any, terms: Terms | None
    ) -> Any:
        """A call made in another thread: it is sent when the loop of the client runs this, as it does when it is given to
        `asyncio.run_coroutine_threadsafe`."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(OTHER_LOOP)
        self._thread = get_ident()
        arguments = () if raw is NO_RAW else decode_any(raw)
        args, kwargs = ((), arguments) if isinstance(arguments, dict) else (arguments, None)
        return await self._binding(class_name, name, method, result_type, None, terms)(*args, **kwargs or {})

    async def ping(self, timeout: float | None = None) -> str:
        """Answers `pong` when the service does. `timeout`: seconds, here as for every question below."""
        answer: str = await self.call("", "", "ping", result_type=str, timeout=timeout)
        return answer

    async def topology(self, timeout: float | None = None) -> ServiceTopology:
        """Which worker owns which shard, and where it listens."""
        answer: ServiceTopology = await self.call("", "", "topology", result_type=ServiceTopology, timeout=timeout)
        return answer

    async def classes(self, timeout: float | None = None) -> dict[str, ClassInfo]:
        """The classes of the running app by name, with their methods and the JSON Schema of the arguments."""
        answer: dict[str, ClassInfo] = await self.call("", "", "classes", result_type=dict[str, ClassInfo], timeout=timeout)
        return answer

    async def status(self, timeout: float | None = None) -> ServiceStatus:
        """What the supervisor knows of the service and its processes, and the router that answers of itself."""
        answer: ServiceStatus = await self.call("", "", "status", result_type=ServiceStatus, timeout=timeout)
        return answer

    def statistics(self) -> ClientStatistics:
        """What this client has done and is doing."""
        return self._machine.statistics()


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
