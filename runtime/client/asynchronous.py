"""The asynchronous client: `async with connect(endpoint) as client`.

Rule 1: no rules here. `client_machine` decides; this file moves bytes, completes futures and keeps one timer.
Rule 2: one loop, one thread. `client_sync` is for the others.

All calls made in one turn of the loop leave together, one message for each link.
"""

from __future__ import annotations

import asyncio
import math
import os
import stat
from _thread import get_ident
from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec
import zmq

from tidegate.runtime.addresses import LOOK_UP_AGAIN_S, check_target, has_name, look_up_in
from tidegate.runtime.client.links import AskTopology, ClientStatistics, Close, Effect, Open, check_seconds
from tidegate.runtime.client.machine import ClientMachine
from tidegate.runtime.errors import CallError, Unavailable
from tidegate.runtime.limits import CONNECT_TIMEOUT_S, TURN_MESSAGES_MAX
from tidegate.runtime.sockets.context import new_context
from tidegate.runtime.sockets.dealer import Dealer
from tidegate.runtime.wire.encoding import decode_any, encode_arguments, result_decoder
from tidegate.runtime.wire.pending import PendingCall
from tidegate.runtime.wire.protocol import NO_RAW
from tidegate.runtime.wire.slots import topology_from_reply
from tidegate.runtime.wire.stub import MethodShape, Stub

T = TypeVar("T")

TIMEOUT_S = 30.0
"""Of calls that name no timeout of their own. The service is told only of timeouts that were named."""
_FIRST_TOPOLOGY_S = 1.0
"""How long entering the client waits to learn where the objects live. Later is no error: calls then go round."""


def connect(endpoint: str, *, timeout: float | None = None, connect_timeout: float | None = None, direct: bool = True) -> Client:
    """The client of a service, to be entered with `async with`.

    `timeout`: seconds for calls that name none (default 30); a call not answered by then raises `DeadlineExceeded`.
    `connect_timeout`: seconds for which a call waits for a connection to the service (default 5); then it raises `Unavailable`
    and has not been sent. `direct`: talk straight to the workers whose sockets are on this machine.
    """
    return Client(endpoint, timeout=timeout, connect_timeout=connect_timeout, direct=direct)


class Client:
    """Calls objects. Usable until the `async with` block is left; a stub of it stays usable after any error."""

    def __init__(
        self, endpoint: str, *, timeout: float | None = None, connect_timeout: float | None = None, direct: bool = True
    ) -> None:
        self._machine = new_machine(endpoint, timeout, connect_timeout, direct)
        self._direct = direct and is_local(endpoint)
        self._context: zmq.Context[Any] | None = None
        self._dealers: dict[int, Dealer] = {}
        self._names: dict[int, asyncio.Task[None]] = {}
        """By link: who looks its name up, until it is connected."""
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    async def __aenter__(self) -> Client:
        if self._context is not None:
            raise RuntimeError("a client is entered once; make another one with connect()")
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._new_future = self._loop.create_future
        self._call_soon = self._loop.call_soon
        self._time = self._loop.time
        self._context = new_context()
        self._topology_known = self._loop.create_future()
        try:
            self._flush()
        except (ValueError, Unavailable):  # Of a form that ZeroMQ alone knows to be wrong.
            self.close()
            raise
        if self._direct:
            await asyncio.wait([self._topology_known], timeout=_FIRST_TOPOLOGY_S)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Calls in flight are answered by an error. Entered or not, closed or not: harmless."""
        self._machine.close()
        self._perform(self._machine.take_effects())
        if self._timer is not None:
            self._timer.cancel()
        if self._context is not None:
            self._context.term()

    # Calls

    @overload
    def stub(self, target: type[T], name: str, *, timeout: float | None = None) -> T: ...
    @overload
    def stub(self, target: str, name: str, *, timeout: float | None = None) -> Any: ...
    def stub(self, target: type[T] | str, name: str, *, timeout: float | None = None) -> T | Any:
        """The object's methods as awaitables. Made from a class, it is typed as that class, and results have their
        annotated types. `timeout` is that of every call made with this stub."""
        return Stub(self if timeout is None else TimedBinder(self, timeout), target, name)

    def call(
        self, class_name: str, name: str, method: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None,
        result_type: Any = Any, timeout: float | None = None,
    ) -> PendingCall[Any]:  # fmt: skip
        """One call without a stub. Arguments that cannot be sent raise here; everything else comes with the future."""
        check_seconds("timeout", timeout)
        send = self._binding(class_name, name, method, result_type, None, timeout)
        return send(*args, **kwargs or {})

    def bind(
        self, class_name: str, name: str, method: str, shape: MethodShape | None, timeout: float | None = None
    ) -> Callable[..., PendingCall[Any]]:
        """See `tidegate.runtime.wire.stub.Binder`. `timeout` is that of each of the calls."""
        result_type = Any if shape is None else shape.result_type
        return self._binding(class_name, name, method, result_type, shape, timeout)

    def _binding(
        self, class_name: str, name: str, method: str, result_type: Any, shape: MethodShape | None, timeout: float | None
    ) -> Callable[..., PendingCall[Any]]:
        """Everything that stays the same from call to call is looked up here."""
        if self._context is None:
            raise RuntimeError("the client has not been entered: use it inside `async with connect(…) as client:`")
        machine, slot, decode = self._machine, self._machine.slot_of(class_name, name), result_decoder(result_type)
        call, new_future, now, thread = machine.call, self._new_future, self._time, self._thread

        def send(*args: Any, **kwargs: Any) -> PendingCall[Any]:
            if args and kwargs and shape is not None:
                args, kwargs = (), shape.by_name(args, kwargs)
            raw = encode_arguments(args, kwargs) if args or kwargs else NO_RAW
            if get_ident() != thread:
                return self._send_in_loop(  # type: ignore[return-value]  # a plain coroutine, of which nothing is sent yet
                    class_name, name, method, raw, result_type, timeout
                )
            future = new_future()
            call(future, slot, class_name, name, method, raw, decode, timeout, now())
            if not self._flushing:
                self._flushing = True
                self._call_soon(self._flush)
            return PendingCall(future)

        return send

    async def _send_in_loop(
        self, class_name: str, name: str, method: str, raw: msgspec.Raw, result_type: Any, timeout: float | None
    ) -> Any:
        """A call made in another thread: it is sent when the loop of the client runs this, as it does when it is given to
        `asyncio.run_coroutine_threadsafe`."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "the client belongs to another event loop: give the call to asyncio.run_coroutine_threadsafe(call, loop), "
                "connect in this loop too, or use tidegate.connect_sync, which any thread may use"
            )
        self._thread = get_ident()
        arguments = () if raw is NO_RAW else decode_any(raw)
        args, kwargs = ((), arguments) if isinstance(arguments, dict) else (arguments, None)
        return await self.call(class_name, name, method, args, kwargs, result_type, timeout)

    async def ping(self, timeout: float | None = None) -> Any:
        """Answers when the service does."""
        return await self.call("", "", "ping", timeout=timeout)

    async def topology(self, timeout: float | None = None) -> Any:
        """Epoch, slots of the shards, endpoint of each shard's worker."""
        return await self.call("", "", "topology", timeout=timeout)

    async def classes(self, timeout: float | None = None) -> Any:
        """Classes of the running app, their methods, the JSON Schema of the arguments."""
        return await self.call("", "", "classes", timeout=timeout)

    async def status(self, timeout: float | None = None) -> Any:
        """What the supervisor knows of its processes."""
        return await self.call("", "", "status", timeout=timeout)

    def statistics(self) -> ClientStatistics:
        """What this client has done and is doing."""
        return self._machine.statistics()

    # Bytes

    def _flush(self) -> None:
        self._flushing = False
        machine, dealers = self._machine, self._dealers
        while machine.has_work():
            for number, body in machine.take_messages(self._time()):
                dealer = dealers.get(number)
                if dealer is None:
                    continue
                if not dealer.send(body):
                    self._lost(number, dealer)
                elif dealer.readable():  # The send may have consumed the edge.
                    self._call_soon(self._read, number)
            self._perform(machine.take_effects())
        if machine.next_deadline() < self._timer_at:
            self._set_timer()

    def _flush_soon(self) -> None:
        if not self._flushing and self._machine.has_work():
            self._flushing = True
            self._call_soon(self._flush)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Open():
                    self._open(effect)
                case Close():
                    self._stop_following(effect.link)
                    self._detach(effect.link)
                case AskTopology():
                    self.call("", "", "topology").add_done_callback(self._topology_answered)

    def _open(self, effect: Open) -> None:
        if effect.reconnect and has_name(effect.endpoint):
            self._names[effect.link] = self._loop.create_task(self._follow_name(effect.link, effect.endpoint))
            return
        try:
            self._attach(effect.link, [effect.endpoint], reconnect=effect.reconnect)
        except (zmq.ZMQError, Unavailable) as exc:
            if effect.reconnect:
                raise exc if isinstance(exc, Unavailable) else ValueError(f"{effect.endpoint}: {exc}") from exc
            self._machine.link_lost(effect.link, self._time())

    async def _follow_name(self, number: int, endpoint: str) -> None:
        """Tries every address of the name; until one answers the name is looked up again and again."""
        tried: list[str] = []
        while True:
            try:
                found = await look_up_in(self._loop, endpoint)
                if found != tried:
                    self._detach(number)
                    tried = []
                    self._attach(number, found, reconnect=True)
                    tried = found
                self._machine.problem = ""
            except (OSError, zmq.ZMQError, Unavailable) as error:  # The next try may find a descriptor.
                self._machine.problem = getattr(error, "strerror", "") or str(error)
            await asyncio.sleep(LOOK_UP_AGAIN_S)

    def _stop_following(self, number: int) -> None:
        task = self._names.pop(number, None)
        if task is not None:
            task.cancel()

    def _attach(self, number: int, endpoints: list[str], *, reconnect: bool) -> None:
        assert self._context is not None
        dealer = self._dealers[number] = Dealer(self._context, endpoints, reconnect=reconnect)
        for monitor in dealer.monitors():
            self._loop.add_reader(monitor, self._watch, number)
        self._call_soon(self._watch, number)

    def _detach(self, number: int) -> None:
        dealer = self._dealers.pop(number, None)
        if dealer is None:
            return
        for fd in dealer.monitors():
            self._loop.remove_reader(fd)
        if dealer.is_connected:
            self._loop.remove_reader(dealer.socket.fileno())
        dealer.close()

    def _read(self, number: int) -> None:
        dealer = self._dealers.get(number)
        if dealer is None:
            return
        bodies = dealer.receive(TURN_MESSAGES_MAX)
        for body in bodies:
            self._machine.message_received(number, body, self._time())
        if len(bodies) == TURN_MESSAGES_MAX:
            self._call_soon(self._read, number)
        self._flush_soon()

    def _watch(self, number: int) -> None:
        dealer = self._dealers.get(number)
        while dealer is not None and (change := dealer.change(self._loop.remove_reader)) is not None:
            if change == "lost":
                self._lost(number, dealer)
                break
            self._stop_following(number)
            self._loop.add_reader(dealer.socket.fileno(), self._read, number)
            self._call_soon(self._read, number)
            self._machine.link_connected(number, self._time())
        self._flush_soon()

    def _lost(self, number: int, dealer: Dealer) -> None:
        while bodies := dealer.receive(TURN_MESSAGES_MAX):
            for body in bodies:
                self._machine.message_received(number, body, self._time())
        self._machine.link_lost(number, self._time())

    # Time and topology

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = self._machine.next_deadline()
        if self._timer_at < math.inf:
            self._timer = self._loop.call_at(self._timer_at, self._on_timer)

    def _on_timer(self) -> None:
        self._machine.handle_timer(self._time())
        self._set_timer()
        self._flush_soon()

    def _topology_answered(self, answer: asyncio.Future[Any]) -> None:
        try:
            topology = topology_from_reply(answer.result())
        except (CallError, ValueError, asyncio.CancelledError):
            pass  # The link was lost, and the next one asks again; or a service that has no topology to tell.
        else:
            self._machine.topology_received(topology, local_sockets(topology.endpoints), self._time())
        if not self._topology_known.done():
            self._topology_known.set_result(None)
        self._flush_soon()


def new_machine(endpoint: str, timeout: float | None, connect_timeout: float | None, direct: bool) -> ClientMachine:
    """As `connect` was asked for. Raises ValueError and TypeError."""
    if problem := check_target(endpoint):
        raise ValueError(f"{endpoint!r} {problem}")
    check_seconds("timeout", timeout)
    check_seconds("connect_timeout", connect_timeout)
    return ClientMachine(
        endpoint,
        timeout=TIMEOUT_S if timeout is None else timeout,
        direct=direct and is_local(endpoint),
        deadline_to_server=timeout is not None,
        connect_timeout=CONNECT_TIMEOUT_S if connect_timeout is None else connect_timeout,
    )


class TimedBinder:
    """Behind a stub that has a timeout of its own."""

    def __init__(self, client: Any, timeout: float) -> None:
        check_seconds("timeout", timeout)
        self._client = client
        self._timeout = timeout

    def bind(self, class_name: str, name: str, method: str, shape: MethodShape | None) -> Callable[..., Any]:
        send: Callable[..., Any] = self._client.bind(class_name, name, method, shape, self._timeout)
        return send


def is_local(endpoint: str) -> bool:
    """Whether the service is on this machine, so that the paths of its sockets mean the same here."""
    scheme, _, address = endpoint.partition("://")
    return scheme == "ipc" or (scheme == "tcp" and address.startswith(("127.", "localhost:", "[::1]:")))


def local_sockets(endpoints: tuple[str | None, ...]) -> frozenset[str]:
    """Those of the workers' endpoints that are sockets in the file system of this machine."""
    found = set()
    for endpoint in endpoints:
        if endpoint is not None and endpoint.startswith("ipc://"):
            try:
                mode = os.stat(endpoint.removeprefix("ipc://")).st_mode
            except OSError:
                continue
            if stat.S_ISSOCK(mode):
                found.add(endpoint)
    return frozenset(found)
