"""Where routers listen when several share one TCP port, or when systemd has opened the socket before the service began.

Rule 1: the routers of a shared port have a listening socket each (SO_REUSEPORT), to which the kernel deals connections. One
that nobody accepts from would swallow its share of them, so a socket begins to listen in its router and the supervisor keeps
no copy: it goes with its process, and a router that is started again gets a new one.
Rule 2: while any or all routers are down, the port stays the service's: a socket holds it which is bound and never listens.
It is bound before it allows others beside it, so that a second service is refused instead of taking half of the connections.
Rule 3: a socket of systemd's is one queue, which every router accepts from. What nobody has accepted waits there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any, Protocol

from tidegate.runtime.addresses import NOT_HERE
from tidegate.runtime.descriptors import connections_waiting_max
from tidegate.runtime.errors import OperatorError

_SYSTEMD_FD = 3
_SIOCGIFADDR = 0x8915
_INTERFACE_BYTES_MAX = 15

Address = tuple[int, tuple[Any, ...]]
"""Its family, and what `bind` takes."""

_HINTS = {
    errno.EADDRINUSE: "stop the process that uses it, or choose another endpoint with --listen",
    errno.EACCES: "choose a port above 1023 or a directory that this user may write to with --listen",
    errno.ENODEV: "this machine has no address and no interface of this name; choose another with --listen",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another with --listen",
}


def listen_hint(number: int | None) -> str:
    """What to do about an error of this number when listening."""
    return _HINTS.get(number or 0, "use an endpoint such as tcp://127.0.0.1:7711 or ipc:///run/tidegate/router")


class Port(Protocol):
    """Gives routers their sockets."""

    endpoint: str
    """Where clients connect, in numbers; a port of 0 is replaced."""

    def open(self) -> socket.socket:
        """A socket for one router, to be closed here as soon as the router has it. Raises OSError."""

    def close(self) -> None: ...


class SharedPort:
    """One port of TCP for as many listening sockets as `open` is called."""

    def __init__(self, endpoint: str) -> None:
        """Raises OperatorError, also when anybody has the port."""
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        try:
            self._holder = _hold_first(_addresses(host, int(port)))
        except OSError as error:
            problem = error.strerror or str(error)
            raise OperatorError("listen", endpoint, problem, listen_hint(error.errno)) from error
        self._family, self._address = self._holder.family, self._holder.getsockname()
        self.endpoint = _endpoint_of(self._holder)

    def open(self) -> socket.socket:
        opened = _socket(self._family)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            opened.bind(self._address)
        except OSError:
            opened.close()
            raise
        return opened

    def close(self) -> None:
        self._holder.close()


class SystemdSocket:
    """The socket of a socket unit; the same for every router."""

    def __init__(self, fd: int = _SYSTEMD_FD) -> None:
        """Raises OperatorError for what is no listening stream socket."""
        problem = "what systemd passed is no socket of TCP or unix that listens"
        try:
            os.set_inheritable(fd, False)
            self._socket = socket.socket(fileno=fd)
        except OSError as error:
            raise _wrong_sockets(problem) from error
        listens = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not listens or self._socket.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            self._socket.close()
            raise _wrong_sockets(problem)
        self.endpoint = _endpoint_of(self._socket)

    def open(self) -> socket.socket:
        return self._socket.dup()

    def close(self) -> None:
        self._socket.close()


def open_port(endpoint: str, routers: int, environment: Mapping[str, str], pid: int) -> Port | None:
    """None: the only router binds the endpoint by itself. Raises OperatorError."""
    if environment.get("LISTEN_PID") == str(pid):
        if (passed := environment.get("LISTEN_FDS")) != "1":
            raise _wrong_sockets(f"systemd passed {passed or 'no'} sockets, not 1")
        return SystemdSocket()
    if routers == 1:
        return None
    if not endpoint.startswith("tcp://"):
        hint = "listen on a tcp:// endpoint, or use --routers 1"
        raise OperatorError("listen", endpoint, f"{routers} routers cannot share a unix socket", hint)
    return SharedPort(endpoint)


def _wrong_sockets(problem: str) -> OperatorError:
    return OperatorError("listen", "LISTEN_FDS", problem, "the socket unit needs one ListenStream= and no Accept=yes")


def start_listening(fd: int) -> None:
    """In the router: from now on the socket that the supervisor has passed gets connections. Raises OSError."""
    os.set_inheritable(fd, False)
    listener = socket.socket(fileno=fd)
    try:
        listener.setblocking(False)  # Another router may have accepted what this one was woken for.
        listener.listen(connections_waiting_max())
    finally:
        listener.detach()


def _hold_first(addresses: list[Address]) -> socket.socket:
    """Routers share one address: of a name, the first that this machine has."""
    for address in addresses[:-1]:
        try:
            return _hold(*address)
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
    return _hold(*addresses[-1])


def _hold(family: int, address: tuple[Any, ...]) -> socket.socket:
    holder = _socket(family)
    try:
        holder.bind(address)
        # SO_REUSEADDR is for the connections of an earlier service which the kernel has not forgotten yet. From now on it
        # would let a second holder in whenever no router listens.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        holder.close()
        raise
    return holder


def _socket(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # As ZeroMQ does: IPv4 comes in by the same door.
    return made


def _addresses(host: str, port: int) -> list[Address]:
    """What can be listened on: `*`, an address in numbers, a name (what is written with dots first, which most clients try), or
    the name of an interface. Raises OSError."""
    if host == "*":
        both = socket.has_dualstack_ipv6()
        return [(socket.AF_INET6, ("::", port)) if both else (socket.AF_INET, ("", port))]
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [(socket.AF_INET, (_address_of_interface(host), port))]
    return sorted({(family, address) for family, _, _, _, address in found})


def _address_of_interface(name: str) -> str:
    asked = struct.pack("256s", os.fsencode(name)[:_INTERFACE_BYTES_MAX])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return socket.inet_ntoa(fcntl.ioctl(probe, _SIOCGIFADDR, asked)[20:24])


def _endpoint_of(bound: socket.socket) -> str:
    address = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        path = address if isinstance(address, str) else os.fsdecode(address).replace("\0", "@", 1)
        return f"ipc://{path}"
    host, port = address[:2]
    return f"tcp://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"tcp://{host}:{port}"
