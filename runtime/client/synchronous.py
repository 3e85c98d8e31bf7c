"""The synchronous client: `with connect_sync(endpoint) as client`, for plain and for threaded code.

Rule 1: no rules here, and no sockets: machine and shell are those of the asynchronous client.
Rule 2: no background thread. The thread that calls moves the bytes, on sockets which nobody else uses meanwhile: a thread
hop costs as much again as a whole call (87 us beside 80 us on the machine where it was tried).

A client keeps as many sets of sockets as there were threads calling at once; the last one used is the next one used. In a child
of a fork it begins anew: what it had belongs to the parent, and to threads that the child does not have.
"""

from __future__ import annotations

import collections
import math
import os
import select
import sys
import time
from asyncio import _get_running_loop
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

import zmq

from tidegate.runtime import descriptors
from tidegate.runtime.client.access import ShownKey
from tidegate.runtime.client.answers import ClassInfo, ServiceStatus, ServiceTopology
from tidegate.runtime.client.bulk import AT_ONCE, EACH, Map, MapCalls, mapped
from tidegate.runtime.client.links import check_seconds
from tidegate.runtime.client.machine import ClientMachine
from tidegate.runtime.client.shell import FIRST_TOPOLOGY_S, Shell, new_machine
from tidegate.runtime.client.terms import Terms, other_terms, traced
from tidegate.runtime.client.tracing import tracing_in_use
from tidegate.runtime.errors import Unavailable
from tidegate.runtime.sockets.context import new_context
from tidegate.runtime.wire.encoding import Decode, encode_arguments, result_decoder
from tidegate.runtime.wire.stub import MethodShape, ObjectHandle, TermsBinder, bind_call

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

BLOCKS_OBJECTS = (
    "{}/{} {}: a client of connect_sync would stop the event loop, and with it every object of this worker, until the call is "
    "answered, also the one that is called: call an object of this service by `await self.stub(Class, name).method()`; another "
    "service by `async with tidegate.connect(…)`, or by this client in `await asyncio.to_thread(…)`"
)
_POLL_S_MAX = 3_600.0

_forks = 0
"""By which this process is away from the one that imported this."""
_inherited: list[object] = []
"""Sockets and contexts of the parent: kept, because nothing may be done with them here, closing included."""


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


def connect_sync(
    endpoint: str, *, timeout: float | None = None, connect_timeout: float | None = None, direct: bool = True, retry: bool = True,
    key_file: str | Path | None = None,
) -> SyncClient:  # fmt: skip
    """The client of a service, to be entered with `with`. The arguments are those of `connect`."""
    return SyncClient(endpoint, timeout=timeout, connect_timeout=connect_timeout, direct=direct, retry=retry, key_file=key_file)


class SyncClient:
    """Calls objects and waits for the results. May be used by any number of threads at once."""

    def __init__(
        self, endpoint: str, *, timeout: float | None = None, connect_timeout: float | None = None, direct: bool = True,
        retry: bool = True, key_file: str | Path | None = None,
    ) -> None:  # fmt: skip
        self._idle: collections.deque[_Lines] = collections.deque()
        self._forks = _forks
        self._closed = False
        self._key = ShownKey(key_file)  # What raises comes behind what `__del__` needs.
        self._new_machine = partial(new_machine, endpoint, timeout, connect_timeout, direct, retry)
        first = self._new_machine()  # What is wrong with the arguments shows here.
        self._terms = first.terms
        self._topology_s = (
            min(FIRST_TOPOLOGY_S, math.inf if connect_timeout is None else connect_timeout) if first.direct else 0.0
        )
        self._context: zmq.Context[Any] = new_context()

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing():  # Then half of what it needs has gone, and the process takes the sockets along.
            self._close_idle()  # Sockets and context know each other: without this they would stay until the collector runs.

    def close(self) -> None:
        """Later calls are refused; those which other threads are waiting for go on to their end."""
        self._closed = True
        self._close_idle()

    def _begin_anew(self) -> None:
        """This process has been forked since."""
        _inherited.append((self._idle, self._context))
        self._idle, self._context, self._forks = collections.deque(), new_context(), _forks

    def _close_idle(self) -> None:
        if self._forks != _forks:
            self._begin_anew()
        while self._idle:
            try:
                lines = self._idle.pop()
            except IndexError:  # Another thread took the last one.
                break
            lines.close()

    @overload
    def stub(
        self, target: type[T], name: str, *, timeout: float | None = None, retry: bool | None = None, key: str | None = None
    ) -> SyncStub[T]: ...
    @overload
    def stub(
        self, target: str, name: str, *, timeout: float | None = None, retry: bool | None = None, key: str | None = None
    ) -> Any: ...
    def stub(
        self, target: type[T] | str, name: str, *, timeout: float | None = None, retry: bool | None = None, key: str | None = None
    ) -> SyncStub[T] | Any:
        """The object's methods, which wait for the result. `timeout` (seconds) and `retry` are those of every call made with this
        stub, `key` is that of the one call that it is for (see `Client.stub`).

        Made from a class, results have their annotated types, and type checkers know them:

            counter = client.stub(Counter, "alice")
            number = counter(Counter.add, 2)      # an int; a misspelt method or a wrong argument is reported

        `counter.add(2)` does the same, unknown to checkers; made from the name of a class, the stub has this form only.
        """
        terms = self._other_terms(timeout, retry, key)
        return SyncStub(self if terms is None else TermsBinder(self, terms), target, name)

    def call(
        self, class_name: str, name: str, method: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None,
        result_type: Any = Any, timeout: float | None = None, *, retry: bool | None = None, key: str | None = None,
    ) -> Any:  # fmt: skip
        """One call without a stub."""
        terms = self._other_terms(timeout, retry, key)
        return self._call(terms, class_name, name, method, args, kwargs, result_type)

    @overload
    def map(
        self, target: type[T], method: Callable[Concatenate[T, ...], Coroutine[Any, Any, R]], calls: MapCalls, *,
        return_exceptions: Literal[False] = False,
        at_once: int = AT_ONCE, timeout: float | None = None, retry: bool | None = None,
    ) -> list[R]: ...  # fmt: skip
    @overload
    def map(
        self, target: type[T], method: Callable[Concatenate[T, ...], Coroutine[Any, Any, R]], calls: MapCalls, *,
        return_exceptions: bool, at_once: int = AT_ONCE, timeout: float | None = None, retry: bool | None = None,
    ) -> list[R | BaseException]: ...  # fmt: skip
    @overload
    def map(
        self, target: str, method: str, calls: MapCalls, *,
        return_exceptions: bool = False, at_once: int = AT_ONCE, timeout: float | None = None, retry: bool | None = None,
    ) -> list[Any]: ...  # fmt: skip
    def map(
        self, target: type | str, method: Callable[..., Any] | str, calls: MapCalls, *,
        return_exceptions: bool = False, at_once: int = AT_ONCE, timeout: float | None = None, retry: bool | None = None,
    ) -> list[Any]:  # fmt: skip
        """Calls a method of many objects and waits for all. See `Client.map`:

        numbers = client.map(Counter, Counter.add, [("alice", 2), ("bob", 3)])
        """
        class_name, name, result_type = mapped(target, method)
        if getattr(_get_running_loop(), "serves_objects", False):
            raise RuntimeError(BLOCKS_OBJECTS.format(class_name, EACH, name))
        terms, tracing = self._other_terms(timeout, retry, None), tracing_in_use()
        span = None if tracing is None else tracing.begin(class_name, EACH, name)
        if span is not None:
            terms = traced(terms or self._terms, span.traceparent)
        lines = self._take_lines((terms or self._terms).timeout)
        try:
            run = lines.map(lambda machine: Map(machine, class_name, name, result_type, calls, at_once, terms))
            self._idle.append(lines)
            if self._closed:
                self._close_idle()
            results = run.end(return_exceptions=return_exceptions)
        except BaseException as error:
            if span is not None:
                span.end(error)
            raise
        if span is not None:
            span.end(None)
        return results

    def _other_terms(self, timeout: float | None, retry: bool | None, key: str | None) -> Terms | None:
        check_seconds("timeout", timeout)
        if timeout is None and retry is None and key is None:
            return None
        return other_terms(self._terms, timeout, retry, key)

    def _call(
        self, terms: Terms | None, class_name: str, name: str, method: str,
        args: tuple[Any, ...], kwargs: dict[str, Any] | None, result_type: Any,
    ) -> Any:  # fmt: skip
        if getattr(_get_running_loop(), "serves_objects", False):
            raise RuntimeError(BLOCKS_OBJECTS.format(class_name, name, method))
        tracing = tracing_in_use()
        span = None if tracing is None else tracing.begin(class_name, name, method)
        if span is None:
            return self._plain_call(terms, class_name, name, method, args, kwargs, result_type)
        try:
            own = traced(terms or self._terms, span.traceparent)
            result = self._plain_call(own, class_name, name, method, args, kwargs, result_type)
        except BaseException as error:
            span.end(error)
            raise
        span.end(None)
        return result

    def _plain_call(
        self, terms: Terms | None, class_name: str, name: str, method: str,
        args: tuple[Any, ...], kwargs: dict[str, Any] | None, result_type: Any,
    ) -> Any:  # fmt: skip
        arguments, decode = encode_arguments(args, kwargs), result_decoder(result_type)
        started = time.monotonic()
        lines = self._take_lines((terms or self._terms).timeout)
        try:
            answer = lines.call(class_name, name, method, arguments, decode, terms, started)
        except BaseException:  # Interrupted, or refused: what is in flight on them is nobody's any more.
            lines.close()
            raise
        self._idle.append(lines)
        if self._closed:
            self._close_idle()
        return answer.result()

    def bind(
        self, class_name: str, name: str, method: str, shape: MethodShape | None, terms: Terms | None = None
    ) -> Callable[..., Any]:
        """See `tidegate.runtime.wire.stub.Binder`. `terms` are those of each of the calls."""
        return bind_call(partial(self._call, terms), class_name, name, method, shape)

    def _take_lines(self, timeout: float) -> _Lines:
        if self._closed:
            raise Unavailable("the client is closed")
        if self._forks != _forks:
            self._begin_anew()
        try:
            return self._idle.pop()
        except IndexError:
            return _Lines(self._context, self._new_machine(), min(self._topology_s, timeout), self._key)

    def ping(self, timeout: float | None = None) -> str:
        """Answers `pong` when the service does. `timeout`: seconds, here as for every question below."""
        answer: str = self.call("", "", "ping", result_type=str, timeout=timeout)
        return answer

    def topology(self, timeout: float | None = None) -> ServiceTopology:
        """Which worker owns which shard, and where it listens."""
        answer: ServiceTopology = self.call("", "", "topology", result_type=ServiceTopology, timeout=timeout)
        return answer

    def classes(self, timeout: float | None = None) -> dict[str, ClassInfo]:
        """The classes of the running app by name, with their methods and the JSON Schema of the arguments."""
        answer: dict[str, ClassInfo] = self.call("", "", "classes", result_type=dict[str, ClassInfo], timeout=timeout)
        return answer

    def status(self, timeout: float | None = None) -> ServiceStatus:
        """What the supervisor knows of the service and its processes, and the router that answers of itself."""
        answer: ServiceStatus = self.call("", "", "status", result_type=ServiceStatus, timeout=timeout)
        return answer


class SyncStub(ObjectHandle, Generic[T]):
    """An object's methods as plain functions: `stub(Counter.add, 2)`, checked by type checkers, or `stub.add(2)`.

    Python has no type for "this class with every `async` taken away": a checker would take what `stub.add(2)` returns for a
    coroutine. So checkers are shown no attributes of this class, and the call form has the types of the method.
    """

    def __call__(self, method: Callable[Concatenate[T, P], Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of the method, called with the arguments. Raises what the method raises, `CallError`s, and TypeError for
        what is no method of the class."""
        name = getattr(method, "__name__", None)
        if not isinstance(name, str) or (self._class is not None and not _has(self._class, name, method)):
            raise TypeError(f"{self!r} is called with a method of the class, as in stub(Class.method, 1), not with {method!r}")
        result: R = self._method(name)(*args, **kwargs)
        return result

    if not TYPE_CHECKING:
        __getattr__ = ObjectHandle._method


def _has(cls: type, name: str, method: object) -> bool:
    """Itself, or as what it overrides."""
    return any(vars(base).get(name) is method for base in cls.__mro__)


class _Answer:
    """Waits for one reply; a future without callbacks."""

    __slots__ = ("_exception", "_is_done", "_result")

    def __init__(self) -> None:
        self._is_done = False
        self._exception: BaseException | None = None
        self._result: Any = None

    def done(self) -> bool:
        return self._is_done

    def set_result(self, result: Any) -> None:
        self._is_done, self._result = True, result

    def set_exception(self, exception: BaseException) -> None:
        self._is_done, self._exception = True, exception

    def result(self) -> Any:
        if self._exception is not None:
            raise self._exception
        return self._result


class _Lines:
    """One shell with the poller that turns it, used by one thread at a time."""

    def __init__(self, context: zmq.Context[Any], machine: ClientMachine, topology_s: float, key: ShownKey) -> None:
        """`topology_s`: for how long it is waited for, so that the first call goes straight to its worker. 0: not at all."""
        descriptors.require("connect")
        self._machine = machine
        self._poller = Poller()
        topology = _Answer()
        self._shell = Shell(machine, context, self._poller, lambda: topology.set_result(None), key)
        try:
            self._shell.start()
            give_up_at = time.monotonic() + topology_s
            while not topology.done() and time.monotonic() < give_up_at:
                self._poller.turn(give_up_at)
        except BaseException:  # Ctrl-C among them.
            self.close()
            raise

    def call(
        self, class_name: str, name: str, method: str, args: Any, decode: Decode, terms: Terms | None, started: float
    ) -> _Answer:
        answer = _Answer()
        self._poller.turn(-math.inf)  # What happened to the links while nobody called.
        slot = self._machine.slot_of(class_name, name)
        self._machine.call(answer, slot, class_name, name, method, args, decode, terms, started)
        self._shell.flush()
        while not answer.done():
            self._poller.turn(math.inf)
        return answer

    def map(self, begin: Callable[[ClientMachine], Map]) -> Map:
        try:
            self._poller.turn(-math.inf)  # What happened to the links while nobody called.
            run = begin(self._machine)
            while not run.fill(time.monotonic()):
                self._wait_for(run, for_all=False)
            self._wait_for(run, for_all=True)
        except BaseException:  # Interrupted: what is in flight is nobody's any more.
            self.close()
            raise
        return run

    def _wait_for(self, run: Map, *, for_all: bool) -> None:
        self._shell.flush()
        woken = _Answer()
        if run.wait(lambda: woken.set_result(None), for_all=for_all):
            while not woken.done():
                self._poller.turn(math.inf)

    def close(self) -> None:
        self._shell.close()
        self._poller.close()


class Poller:
    """Turns a shell in the thread that waits for it: what a shell uses of an event loop, and nothing else."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], object]] = {}
        self._writers: dict[int, Callable[[], object]] = {}
        self._soon: collections.deque[Callable[[], object]] = collections.deque()
        self._timers: list[_Timer] = []
        self._wake_at = math.inf
        """When the first of the timers is due."""
        self.time = time.monotonic

    def turn(self, until: float) -> None:
        """Waits until something happened, a timer is due, or `until`, unless there is something to run; then everything runs that
        can run without waiting."""
        soon, wake_at = self._soon, min(until, self._wake_at)
        if not soon:
            wait_s = 0.0 if wake_at <= 0.0 else min(max(0.0, wake_at - time.monotonic()), _POLL_S_MAX)
            for fd, events in self._epoll.poll(wait_s):
                if events != select.EPOLLIN and (writer := self._writers.get(fd)) is not None:
                    writer()
                if events != select.EPOLLOUT and (reader := self._readers.get(fd)) is not None:
                    reader()
            if self._wake_at < math.inf and self._wake_at <= time.monotonic():
                self._run_timers(time.monotonic())
        while soon:
            soon.popleft()()

    def _run_timers(self, now: float) -> None:
        for timer in [timer for timer in self._timers if timer.when <= now]:
            timer.cancel()
            timer.callback()

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._soon.append(partial(callback, *args))

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> _Timer:
        timer = _Timer(self, when, partial(callback, *args))
        self._timers.append(timer)
        self._wake_at = min(self._wake_at, when)
        return timer

    def forget(self, timer: _Timer) -> None:
        if timer in self._timers:
            self._timers.remove(timer)
            self._wake_at = min((timer.when for timer in self._timers), default=math.inf)

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        self._watch(fd, self._readers, partial(callback, *args))

    def remove_reader(self, fd: int) -> None:
        self._watch(fd, self._readers, None)

    def add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        self._watch(fd, self._writers, partial(callback, *args))

    def remove_writer(self, fd: int) -> None:
        self._watch(fd, self._writers, None)

    def _watch(self, fd: int, watching: dict[int, Callable[[], object]], callback: Callable[[], object] | None) -> None:
        before = fd in self._readers or fd in self._writers
        if callback is None:
            del watching[fd]
        else:
            watching[fd] = callback
        events = select.EPOLLIN * (fd in self._readers) + select.EPOLLOUT * (fd in self._writers)
        if not events:
            self._epoll.unregister(fd)
        elif before:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)

    def close(self) -> None:
        self._epoll.close()


class _Timer:
    __slots__ = ("_poller", "callback", "when")

    def __init__(self, poller: Poller, when: float, callback: Callable[[], object]) -> None:
        self._poller = poller
        self.when = when
        self.callback = callback

    def cancel(self) -> None:
        self._poller.forget(self)
