"""The shell under both clients: it moves bytes between machine and links, keeps one timer, and follows the names of hosts.

Rule 1: no rules of calls here: the machine decides.
Rule 2: nothing waits here. Whoever drives the shell waits, an event loop or a thread with a `Poller`; it cannot tell which.
Rule 3: a readiness edge is never lost (`dealer`): after every send, and after as many messages as one turn takes, it is asked
again.
Rule 4: a link is one thing, whatever carries it: to a worker that offers it and can be reached so, a unix stream (`stream`), and
else ZeroMQ (`dealer`). The machine does not know which.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import secrets
import stat
from collections.abc import Callable
from typing import Any, Protocol

import zmq

from tidegate.runtime.addresses import LOOK_UP_AGAIN_S, check_target, has_name, look_up
from tidegate.runtime.client.access import ShownKey
from tidegate.runtime.client.gathering import Gathering
from tidegate.runtime.client.links import AskTopology, Close, Effect, Open, check_seconds
from tidegate.runtime.client.machine import NO_SLOT, ClientMachine
from tidegate.runtime.client.terms import Terms
from tidegate.runtime.errors import Unauthorized, Unavailable
from tidegate.runtime.limits import TURN_MESSAGES_MAX
from tidegate.runtime.lookup import Question
from tidegate.runtime.sockets.dealer import Dealer
from tidegate.runtime.sockets.stream import Stream
from tidegate.runtime.wire.access import ClientKey
from tidegate.runtime.wire.encoding import decode_any
from tidegate.runtime.wire.protocol import NO_RAW
from tidegate.runtime.wire.slots import topology_from_reply

TIMEOUT_S = 30.0
"""Of calls that name no timeout of their own. The service is told only of timeouts that were named."""
FIRST_TOPOLOGY_S = 1.0
"""How long a client waits at first to learn where the objects live. Later is no error: calls then go round."""


REFUSED_AGAIN_S = 1.0
"""After a service has said that it does not know the key it is asked again: somebody may add it to the list."""
_REFUSED = "the access key is not, or no longer, on the list of the service"
_UNFIT_WITHOUT = "it ends connections in the greeting: it may want an access key, by key_file=, --key-file or TIDEGATE_KEY_FILE"
_UNFIT = "it ends connections in the greeting: it may take no access keys, or not be the service that the key is for"


class Timer(Protocol):
    def cancel(self) -> object: ...


class Driver(Protocol):
    """Who turns a shell. Every event loop is one."""

    def time(self) -> float: ...
    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> object: ...
    def call_at(self, when: float, callback: Callable[..., object], /, *args: Any) -> Timer: ...
    def add_reader(self, fd: Any, callback: Callable[..., object], /, *args: Any) -> object: ...
    def remove_reader(self, fd: Any, /) -> object: ...
    def add_writer(self, fd: Any, callback: Callable[..., object], /, *args: Any) -> object: ...
    def remove_writer(self, fd: Any, /) -> object: ...


_ASKED = Terms(TIMEOUT_S, is_told=False, retries=False)
"""The machine itself asks for the topology, and knows when to ask again."""
_SESSION_BYTES = 12


def new_machine(endpoint: str, timeout: float | None, connect_timeout: float | None, direct: bool, retry: bool) -> ClientMachine:
    """As `connect` was asked for. Raises ValueError and TypeError."""
    if problem := check_target(endpoint):
        raise ValueError(f"{endpoint!r} {problem}")
    check_seconds("timeout", timeout)
    check_seconds("connect_timeout", connect_timeout)
    return ClientMachine(
        endpoint,
        terms=Terms(TIMEOUT_S if timeout is None else timeout, is_told=timeout is not None, retries=retry),
        direct=direct and _is_local(endpoint),
        session=secrets.token_urlsafe(_SESSION_BYTES),
        chance=random.random,
        connect_timeout=connect_timeout,
    )


class Shell:
    """The links of one machine. Who has given the machine a call flushes, at once or when all calls of a turn are made."""

    def __init__(
        self,
        machine: ClientMachine,
        context: zmq.Context[Any],
        driver: Driver,
        topology_known: Callable[[], object],
        key: ShownKey | None = None,
        *,
        callers_go_on: bool = False,
    ) -> None:
        """`topology_known` is called whenever the service has told where the objects live, or has not been able to.
        `callers_go_on`: who gets an answer goes on in a callback of the driver, and may make his next call there."""
        self._machine = machine
        self._context = context
        self._driver = driver
        self._time = driver.time
        self._call_soon = driver.call_soon
        self._topology_known = topology_known
        self._key = key
        self._callers_go_on = callers_go_on
        self._transports: dict[int, Dealer | Stream] = {}
        """What carries each link."""
        self._writing: dict[int, int] = {}
        """Links that wait until they can write, and their descriptors."""
        self._streams: dict[str, str] = {}
        """By endpoint of a worker, where it takes streams."""
        self._shown: dict[int, ClientKey | None] = {}
        """By link: the key that it was made with."""
        self._names: dict[int, _Name] = {}
        """By link, until it is connected."""
        self.flushing = False
        """Somebody has asked for a flush at the end of this turn."""
        self._answered_since = False
        """More callers go on behind that flush."""
        self._flushes = 0
        """Looks for more answers are for the flush with this number. Who does not wait for them flushes before, and ends them."""
        self._gathering = Gathering()
        self._timer: Timer | None = None
        self._timer_at = math.inf
        self._has_started = False
        self._closed = False

    def start(self) -> None:
        """Begins to connect. Raises ValueError for an endpoint that only ZeroMQ knows to be wrong, Unavailable where no
        descriptor is left."""
        self.flush()
        self._has_started = True

    def close(self, *, is_heard: bool = True) -> None:
        """Calls in flight are answered by an error, if anybody can hear it; nothing is watched any more."""
        self._closed = True
        self._begin_flush()
        self._machine.close(is_heard=is_heard)
        self._perform(self._machine.take_effects())
        for number in list(self._transports):
            self._detach(number)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # It knows the shell: who drops a client gets its descriptors back at once.

    # Out

    def flush(self) -> None:
        """Sends what the machine has, and does what it asks for."""
        self._begin_flush()
        machine, transports = self._machine, self._transports
        while machine.has_work():
            for number, body in machine.take_messages(self._time()):
                transport = transports.get(number)
                if transport is None:
                    continue
                if not transport.send(body):
                    self._lost(number, transport)
                elif transport.has_unsent:
                    self._write_later(number, transport)
                elif transport.readable():  # The send may have consumed the edge.
                    self._call_soon(self._read, number)
            self._perform(machine.take_effects())
        if machine.next_deadline() < self._timer_at:
            self._set_timer()

    def _begin_flush(self) -> None:
        self.flushing = self._answered_since = False
        self._flushes += 1

    def _flush_soon(self) -> None:
        if self.flushing:
            return
        if self._machine.has_work():
            self.flushing = True
            self._call_soon(self.flush)
        elif self._machine.next_deadline() < self._timer_at:
            self._set_timer()

    def _flush_behind(self, number: int) -> None:
        """Right after the callers that have just been answered, so that their next calls leave in the same turn of the loop.
        Perhaps more answers are looked for first."""
        if number != self._flushes:
            return
        found, self._answered_since = self._answered_since, False
        if (found or self._machine.may_gather()) and self._gathering.goes_on(self._time(), found=found):
            if self._gathering.lets_others_run:
                with contextlib.suppress(OSError):  # A sandbox may allow as little as it likes.
                    os.sched_yield()  # Perhaps a worker waits for this processor.
            self._call_soon(self._flush_behind, number)
        else:
            self.flush()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Open():
                    self._open(effect)
                case Close():
                    self._forget_name(effect.link)
                    self._detach(effect.link)
                case AskTopology():
                    asked = _AskedTopology(self._topology_answered_soon)
                    self._machine.call(asked, NO_SLOT, "", "", "topology", NO_RAW, decode_any, _ASKED, self._time())

    # Links

    def _open(self, effect: Open) -> None:
        if effect.reconnect and has_name(effect.endpoint):
            self._names[effect.link] = _Name(effect.endpoint)
            self._look_up(effect.link)
            return
        try:
            self._attach(effect.link, [effect.endpoint], reconnect=effect.reconnect)
        except (zmq.ZMQError, Unavailable) as exc:
            if not effect.reconnect:
                self._machine.link_lost(effect.link, self._time())
            elif not self._has_started:
                raise exc if isinstance(exc, Unavailable) else ValueError(f"{effect.endpoint}: {exc}") from exc
            else:
                self._machine.problem = str(exc)
                self._driver.call_at(self._time() + LOOK_UP_AGAIN_S, self._open_again, effect)

    def _open_again(self, effect: Open) -> None:
        if not self._closed:
            self._open(effect)

    def _attach(self, number: int, endpoints: list[str], *, reconnect: bool) -> None:
        transport = None if reconnect else self._stream_to(endpoints[0])
        if transport is None:
            shown = self._shown[number] = self._newest_key()
            transport = Dealer(self._context, endpoints, reconnect=reconnect, key=shown)
        self._transports[number] = transport
        for monitor in transport.monitors():
            self._driver.add_reader(monitor, self._watch, number)
        self._call_soon(self._watch, number)

    def _newest_key(self) -> ClientKey | None:
        return None if self._key is None else self._key.newest()

    def _stream_to(self, endpoint: str) -> Dealer | Stream | None:
        """None: it takes none, or not from here."""
        path = self._streams.get(endpoint)
        if path is None or self._newest_key() is not None:
            return None
        try:
            return Stream(path)
        except OSError:
            return None

    def _detach(self, number: int) -> None:
        self._shown.pop(number, None)
        transport = self._transports.pop(number, None)
        if transport is None:
            return
        for fd in transport.monitors():
            self._driver.remove_reader(fd)
        if transport.is_connected:
            self._driver.remove_reader(transport.socket.fileno())
        self._write_no_longer(number)
        transport.close()

    def _watch(self, number: int) -> None:
        transport = self._transports.get(number)
        while transport is not None and (change := transport.change(self._driver.remove_reader)) is not None:
            if change == "unfit":
                for monitor in transport.monitors():  # One of them may be new.
                    self._driver.add_reader(monitor, self._watch, number)
                self._machine.problem = _UNFIT_WITHOUT if self._shown[number] is None else _UNFIT
                if transport.reconnects and self._newest_key() != self._shown[number]:
                    self._forget_name(number)
                    self._detach(number)
                    self._open_again(Open(number, self._machine.endpoint, reconnect=True))
                    break
                continue
            if change == "refused":
                self._refused(number, transport)
                break
            if change == "lost":
                self._lost(number, transport)
                break
            self._forget_name(number)
            self._driver.add_reader(transport.socket.fileno(), self._read, number)
            self._call_soon(self._read, number)
            self._machine.link_connected(number, self._time())
        self._flush_soon()

    def _read(self, number: int) -> None:
        transport = self._transports.get(number)
        if transport is None:
            return
        bodies = transport.receive(TURN_MESSAGES_MAX)
        for body in bodies:
            self._machine.message_received(number, body, self._time())
        if transport.has_ended:
            self._watch(number)
        elif len(bodies) == TURN_MESSAGES_MAX:
            self._call_soon(self._read, number)
        if not bodies or not self._callers_go_on:
            self._flush_soon()
        elif self.flushing:
            self._answered_since = True
        else:
            self.flushing = True
            self._gathering.begin(self._time())
            self._call_soon(self._flush_behind, self._flushes)

    def _write_later(self, number: int, transport: Dealer | Stream) -> None:
        if number not in self._writing:
            fd = self._writing[number] = transport.socket.fileno()
            self._driver.add_writer(fd, self._write, number)

    def _write(self, number: int) -> None:
        transport = self._transports[number]
        if not transport.send_rest():
            self._lost(number, transport)
            self._write_no_longer(number)
            self._flush_soon()
        elif not transport.has_unsent:
            self._write_no_longer(number)

    def _write_no_longer(self, number: int) -> None:
        if (fd := self._writing.pop(number, None)) is not None:
            self._driver.remove_writer(fd)

    def _lost(self, number: int, transport: Dealer | Stream) -> None:
        """What arrived before is delivered before the loss is told."""
        while bodies := transport.receive(TURN_MESSAGES_MAX):
            for body in bodies:
                self._machine.message_received(number, body, self._time())
        self._machine.link_lost(number, self._time())

    def _refused(self, number: int, transport: Dealer | Stream) -> None:
        """The library does not try again, nor does it say to whom of several addresses that has happened."""
        if not self._machine.link_refused(number, Unauthorized(_REFUSED), self._time()):
            self._lost(number, transport)
            return
        self._forget_name(number)
        self._detach(number)
        self._topology_known()
        self._driver.call_at(
            self._time() + REFUSED_AGAIN_S, self._open_again, Open(number, self._machine.endpoint, reconnect=True)
        )

    # Names of hosts

    def _look_up(self, number: int) -> None:
        name = self._names.get(number)
        if name is None:
            return
        try:
            name.asked = Question(look_up, name.endpoint)
        except OSError as error:  # No descriptor, or no thread.
            self._look_up_again(number, name, error)
        else:
            self._driver.add_reader(name.asked.fileno(), self._looked_up, number)

    def _looked_up(self, number: int) -> None:
        """Tries every address of the name; until one answers the name is looked up again and again."""
        name = self._names.get(number)
        if name is None or name.asked is None:
            return
        asked = name.asked
        self._hear_no_more(name)
        try:
            found = asked.result()
            if found != name.tried:
                self._detach(number)
                name.tried = []
                self._attach(number, found, reconnect=True)
                name.tried = found
        except (OSError, zmq.ZMQError, Unavailable) as error:  # The next try may find a descriptor.
            self._look_up_again(number, name, error)
        else:
            self._look_up_again(number, name, None)

    def _look_up_again(self, number: int, name: _Name, problem: Exception | None) -> None:
        self._machine.problem = "" if problem is None else getattr(problem, "strerror", "") or str(problem)
        name.again = self._driver.call_at(self._time() + LOOK_UP_AGAIN_S, self._look_up, number)

    def _hear_no_more(self, name: _Name) -> None:
        if name.asked is not None:
            self._driver.remove_reader(name.asked.fileno())
            name.asked.close()
            name.asked = None

    def _forget_name(self, number: int) -> None:
        name = self._names.pop(number, None)
        if name is not None:
            self._hear_no_more(name)
            if name.again is not None:
                name.again.cancel()

    # Time and topology

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = self._machine.next_deadline()
        if self._timer_at < math.inf:
            self._timer = self._driver.call_at(self._timer_at, self._on_timer)

    def _on_timer(self) -> None:
        self._machine.handle_timer(self._time())
        self._set_timer()
        self._flush_soon()

    def _topology_answered_soon(self, reply: Any) -> None:
        """Not in the middle of the message that has it, and not while everything is being closed."""
        if not self._closed:
            self._call_soon(self._topology_answered, reply)

    def _topology_answered(self, reply: Any) -> None:
        try:
            topology = topology_from_reply(reply)
        except ValueError:
            pass  # The link was lost, and the next one asks again; or a service that has no topology to tell.
        else:
            pairs = zip(topology.endpoints, topology.streams, strict=False)
            self._streams = {endpoint: path for endpoint, path in pairs if endpoint is not None and path is not None}
            self._machine.keys_told(kept=reply.get("keys") is True)
            self._machine.topology_received(topology, _local_sockets(topology.endpoints), self._time())
        self._topology_known()
        self._flush_soon()


class _AskedTopology:
    """Waits for the reply to the call; an error is no topology."""

    __slots__ = ("_is_done", "_tell")

    def __init__(self, tell: Callable[[Any], object]) -> None:
        self._tell = tell
        self._is_done = False

    def done(self) -> bool:
        return self._is_done

    def set_result(self, result: Any) -> None:
        self._is_done = True
        self._tell(result)

    def set_exception(self, exception: BaseException) -> None:
        self.set_result(None)


class _Name:
    """Of a host, to which no connection has been made yet."""

    __slots__ = ("again", "asked", "endpoint", "tried")

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.tried: list[str] = []
        self.asked: Question[list[str]] | None = None
        self.again: Timer | None = None


def _is_local(endpoint: str) -> bool:
    """Whether the service is on this machine, so that the paths of its sockets mean the same here."""
    scheme, _, address = endpoint.partition("://")
    return scheme == "ipc" or (scheme == "tcp" and address.startswith(("127.", "localhost:", "[::1]:")))


def _local_sockets(endpoints: tuple[str | None, ...]) -> frozenset[str]:
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
