"""The synchronous client: `with connect_sync(endpoint) as client`, for plain and for threaded code.

Rule 1: no rules here. `client_machine` decides, exactly as for the asynchronous client.
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
import time
from asyncio import _get_running_loop
from collections.abc import Callable
from functools import partial
from typing import Any

import zmq

from tidegate.runtime import descriptors
from tidegate.runtime.addresses import LOOK_UP_AGAIN_S, has_name, look_up
from tidegate.runtime.client.asynchronous import TimedBinder, is_local, local_sockets, new_machine
from tidegate.runtime.client.links import AskTopology, Close, Open, check_seconds
from tidegate.runtime.client.machine import NO_SLOT, ClientMachine
from tidegate.runtime.errors import CallError, Unavailable
from tidegate.runtime.limits import TURN_MESSAGES_MAX
from tidegate.runtime.sockets.context import new_context
from tidegate.runtime.sockets.dealer import Dealer
from tidegate.runtime.wire.encoding import Decode, decode_any, encode_arguments, result_decoder
from tidegate.runtime.wire.protocol import NO_RAW
from tidegate.runtime.wire.slots import topology_from_reply
from tidegate.runtime.wire.stub import MethodShape, Stub, bind_call

BLOCKS_OBJECTS = (
    "{}/{} {}: a client of connect_sync would stop the event loop, and with it every object of this worker, until the call is "
    "answered, also the one that is called: call an object of this service by `await self.stub(Class, name).method()`; another "
    "service by `async with tidegate.connect(…)`, or by this client in `await asyncio.to_thread(…)`"
)
_FIRST_TOPOLOGY_S = 1.0
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
    endpoint: str, *, timeout: float | None = None, connect_timeout: float | None = None, direct: bool = True
) -> SyncClient:
    """The client of a service, to be entered with `with`. The arguments are those of `connect`."""
    return SyncClient(endpoint, timeout=timeout, connect_timeout=connect_timeout, direct=direct)


class SyncClient:
    """Calls objects and waits for the results. May be used by any number of threads at once."""

    def __init__(
        self, endpoint: str, *, timeout: float | None = None, connect_timeout: float | None = None, direct: bool = True
    ) -> None:
        self._idle: collections.deque[_Lines] = collections.deque()
        self._new_machine = partial(new_machine, endpoint, timeout, connect_timeout, direct)
        self._new_machine()  # What is wrong with the arguments shows here.
        self._timeout = timeout
        self._topology_s = _FIRST_TOPOLOGY_S if connect_timeout is None else min(_FIRST_TOPOLOGY_S, connect_timeout)
        self._direct = direct and is_local(endpoint)
        self._context: zmq.Context[Any] = new_context()
        self._forks = _forks
        self._closed = False

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
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

    def stub(self, target: type | str, name: str, *, timeout: float | None = None) -> Any:
        """The object's methods as plain functions. Made from a class, results have their annotated types."""
        return Stub(self if timeout is None else TimedBinder(self, timeout), target, name)

    def call(
        self, class_name: str, name: str, method: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None,
        result_type: Any = Any, timeout: float | None = None,
    ) -> Any:  # fmt: skip
        """One call without a stub."""
        if getattr(_get_running_loop(), "serves_objects", False):
            raise RuntimeError(BLOCKS_OBJECTS.format(class_name, name, method))
        check_seconds("timeout", timeout)
        arguments, decode = encode_arguments(args, kwargs), result_decoder(result_type)
        started = time.monotonic()
        lines = self._take_lines(timeout)
        try:
            answer = lines.call(class_name, name, method, arguments, decode, timeout, started)
        except BaseException:  # Interrupted, or refused: what is in flight on them is nobody's any more.
            lines.close()
            raise
        self._idle.append(lines)
        if self._closed:
            self._close_idle()
        return answer.result()

    def bind(
        self, class_name: str, name: str, method: str, shape: MethodShape | None, timeout: float | None = None
    ) -> Callable[..., Any]:
        """See `tidegate.runtime.wire.stub.Binder`. `timeout` is that of each of the calls."""
        return bind_call(partial(self.call, timeout=timeout), class_name, name, method, shape)

    def _take_lines(self, timeout: float | None) -> _Lines:
        if self._closed:
            raise Unavailable("the client is closed")
        if self._forks != _forks:
            self._begin_anew()
        try:
            return self._idle.pop()
        except IndexError:
            limits = (self._topology_s, self._timeout if timeout is None else timeout)
            topology_s = min(limit for limit in limits if limit is not None) if self._direct else 0.0
            return _Lines(self._context, self._new_machine(), topology_s)

    def ping(self, timeout: float | None = None) -> Any:
        """Answers when the service does."""
        return self.call("", "", "ping", timeout=timeout)

    def topology(self, timeout: float | None = None) -> Any:
        """Epoch, slots of the shards, endpoint of each shard's worker."""
        return self.call("", "", "topology", timeout=timeout)

    def classes(self, timeout: float | None = None) -> Any:
        """Classes of the running app, their methods, the JSON Schema of the arguments."""
        return self.call("", "", "classes", timeout=timeout)

    def status(self, timeout: float | None = None) -> Any:
        """What the supervisor knows of its processes."""
        return self.call("", "", "status", timeout=timeout)


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


class _Name:
    """Of a host, to which no connection has been made yet."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.tried: list[str] = []
        self.look_up_at = -math.inf


class _Lines:
    """One machine with its sockets, used by one thread at a time."""

    def __init__(self, context: zmq.Context[Any], machine: ClientMachine, topology_s: float) -> None:
        """`topology_s`: for how long it is waited for, so that the first call goes straight to its worker. 0: not at all."""
        self._context = context
        self._machine = machine
        descriptors.require("connect")
        self._epoll = select.epoll()
        self._dealers: dict[int, Dealer] = {}
        self._link_by_fd: dict[int, int] = {}
        self._names: dict[int, _Name] = {}
        """By link: those that are not connected yet."""
        self._topology = _Answer()
        self._topology_known = False
        try:
            self._flush()
        except (ValueError, Unavailable):
            self.close()
            raise
        give_up_at = time.monotonic() + topology_s
        while not self._topology_known and time.monotonic() < give_up_at:
            self._wait(give_up_at)

    def call(
        self, class_name: str, name: str, method: str, args: Any, decode: Decode, timeout: float | None, started: float
    ) -> _Answer:
        answer = _Answer()
        self._handle(self._epoll.poll(0))  # What happened to the links while nobody called.
        slot = self._machine.slot_of(class_name, name)
        self._machine.call(answer, slot, class_name, name, method, args, decode, timeout, started)
        self._flush()
        while not answer.done():
            self._wait(math.inf)
        return answer

    def close(self) -> None:
        for dealer in self._dealers.values():
            dealer.close()
        self._dealers.clear()
        self._epoll.close()

    def _wait(self, until: float) -> None:
        """Until something happened, or a deadline passed."""
        wake_at = min(until, self._machine.next_deadline(), *(name.look_up_at for name in self._names.values()))
        self._handle(self._epoll.poll(max(0.0, min(wake_at - time.monotonic(), _POLL_S_MAX))))
        for number in list(self._names):
            self._follow_name(number)
        now = time.monotonic()
        if self._machine.next_deadline() <= now:
            self._machine.handle_timer(now)
        self._flush()

    def _handle(self, ready: list[tuple[int, int]]) -> None:
        for fd, _ in ready:
            number = self._link_by_fd.get(fd)
            if number is not None:
                self._watch(number)
                self._read(number)

    def _flush(self) -> None:
        machine = self._machine
        while machine.has_work():
            for number, body in machine.take_messages(time.monotonic()):
                dealer = self._dealers.get(number)
                if dealer is None:
                    continue
                if not dealer.send(body):
                    self._machine.link_lost(number, time.monotonic())
                elif dealer.readable():
                    self._read(number)
            for effect in machine.take_effects():
                match effect:
                    case Open():
                        self._open(effect)
                    case Close():
                        self._names.pop(effect.link, None)
                        self._detach(effect.link)
                    case AskTopology():
                        self._topology = _Answer()
                        now = time.monotonic()
                        machine.call(self._topology, NO_SLOT, "", "", "topology", NO_RAW, decode_any, None, now)

    def _open(self, effect: Open) -> None:
        if effect.reconnect and has_name(effect.endpoint):
            self._names[effect.link] = _Name(effect.endpoint)
            self._follow_name(effect.link)
            return
        try:
            self._attach(effect.link, [effect.endpoint], reconnect=effect.reconnect)
        except (zmq.ZMQError, Unavailable) as exc:
            if effect.reconnect:
                raise exc if isinstance(exc, Unavailable) else ValueError(f"{effect.endpoint}: {exc}") from exc
            self._machine.link_lost(effect.link, time.monotonic())

    def _follow_name(self, number: int) -> None:
        """Tries every address of the name; until one answers the name is looked up again and again."""
        name = self._names[number]
        if name.look_up_at > time.monotonic():
            return
        try:
            found = look_up(name.endpoint)
        except OSError as error:
            self._machine.problem = error.strerror or str(error)
        else:
            self._machine.problem = ""
            if found != name.tried:
                self._detach(number)
                self._attach(number, found, reconnect=True)
                name.tried = found
        name.look_up_at = time.monotonic() + LOOK_UP_AGAIN_S

    def _attach(self, number: int, endpoints: list[str], *, reconnect: bool) -> None:
        dealer = self._dealers[number] = Dealer(self._context, endpoints, reconnect=reconnect)
        for fd in dealer.monitors():
            self._register(fd, number)
        self._watch(number)

    def _register(self, fd: int, number: int) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._link_by_fd[fd] = number

    def _unregister(self, fd: int) -> None:
        self._epoll.unregister(fd)
        del self._link_by_fd[fd]

    def _detach(self, number: int) -> None:
        dealer = self._dealers.pop(number, None)
        if dealer is None:
            return
        for fd in dealer.monitors():
            self._unregister(fd)
        if dealer.is_connected:
            self._unregister(dealer.socket.fileno())
        dealer.close()

    def _read(self, number: int) -> None:
        dealer = self._dealers.get(number)
        while dealer is not None and (bodies := dealer.receive(TURN_MESSAGES_MAX)):
            for body in bodies:
                self._machine.message_received(number, body, time.monotonic())
        if self._topology.done():
            self._topology_answered()

    def _watch(self, number: int) -> None:
        dealer = self._dealers.get(number)
        while dealer is not None and (change := dealer.change(self._unregister)):
            now = time.monotonic()
            if change == "connected":
                self._names.pop(number, None)
                self._register(dealer.socket.fileno(), number)
                self._machine.link_connected(number, now)
            else:
                self._read(number)
                self._machine.link_lost(number, now)
                break

    def _topology_answered(self) -> None:
        answer, self._topology = self._topology, _Answer()
        try:
            topology = topology_from_reply(answer.result())
        except (CallError, ValueError):
            return  # The link was lost, and the next one asks again; or a service that has no topology to tell.
        finally:
            self._topology_known = True
        self._machine.topology_received(topology, local_sockets(topology.endpoints), time.monotonic())
