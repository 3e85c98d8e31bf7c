"""Where the routers listen. The supervisor makes the sockets and hands them on, so that a router may be replaced, or die.

Rule 1: one router, or a unix socket: the socket is one queue (`KeptPort`), from which every router accepts. The supervisor keeps
it: what nobody has accepted waits there, while a router is started again too. A socket of systemd's is the same, and outlives the
service.
Rule 2: several routers that share a port of TCP have a listening socket each (SO_REUSEPORT), to which the kernel deals
connections (`SharedPort`). One that nobody accepts from would swallow its share of them, so a socket begins to listen in its
router and the supervisor keeps no copy: it goes with its process, and a router that is started again gets a new one.
Rule 3: while any or all routers are down, the port stays the service's: a socket holds it. It is bound before it allows others
beside it, so that a second service is refused instead of taking half of the connections.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Protocol

from tidegate.runtime.addresses import NOT_HERE
from tidegate.runtime.descriptors import connections_waiting_max
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.lookup import addresses_of

_SYSTEMD_FD = 3
_IPC = "ipc://"
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


_PASSES = frozenset({errno.EADDRINUSE, *NOT_HERE, errno.ENODEV, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
"""Whoever has the address may end, an interface may come up, a disk get room."""


def listen_passes(number: int | None) -> bool:
    return number in _PASSES


def cannot_listen(endpoint: str, error: OSError) -> OperatorError:
    problem = error.strerror or str(error)
    return OperatorError("listen", endpoint, problem, listen_hint(error.errno), passes=listen_passes(error.errno))


def listen_hint(number: int | None) -> str:
    """What to do about an error of this number when listening."""
    return _HINTS.get(number or 0, "use an endpoint such as tcp://127.0.0.1:7711 or ipc:///run/tidegate/router")


class Port(Protocol):
    """Gives routers their sockets."""

    endpoint: str
    """Where clients connect; a port of 0 is replaced."""

    def open(self) -> list[socket.socket]:
        """Those for one router, to be closed here as soon as the router has them. Raises OSError."""

    def close(self) -> None: ...


class KeptPort:
    """Sockets that listen from now on; the same for every router."""

    def __init__(self, endpoint: str, sockets: list[socket.socket], path: str = "") -> None:
        """`path`: of a unix socket that is to be removed in the end."""
        self.endpoint = endpoint
        self._sockets = sockets
        self._path = path
        self._inode = os.stat(path).st_ino if path else 0

    def open(self) -> list[socket.socket]:
        return [each.dup() for each in self._sockets]

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        with contextlib.suppress(OSError):
            if self._path and os.stat(self._path).st_ino == self._inode:  # Somebody else may have taken it.
                os.unlink(self._path)


def keep_port(endpoint: str) -> KeptPort:
    """Of a name: every address of it that this machine has. Raises OperatorError, also when anybody listens there."""
    try:
        if endpoint.startswith(_IPC):
            return _keep_path(endpoint)
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        sockets = _listen_all(_addresses(host, int(port)))
    except OSError as error:
        raise cannot_listen(endpoint, error) from error
    bound = _endpoint_of(sockets[0])
    return KeptPort(f"tcp://{host}:{bound.rpartition(':')[2]}" if len(sockets) > 1 else bound, sockets)


def _listen_all(addresses: list[Address]) -> list[socket.socket]:
    found: list[socket.socket] = []
    elsewhere: OSError | None = None
    for family, address in addresses:
        made = _socket(family)
        try:
            made.bind((address[0], found[0].getsockname()[1], *address[2:]) if found else address)
            made.listen(connections_waiting_max())
            found.append(made)
        except OSError as error:
            made.close()
            if error.errno not in NOT_HERE:
                for each in found:
                    each.close()
                raise
            elsewhere = error
    if not found:
        assert elsewhere is not None
        raise elsewhere
    return found


def _keep_path(endpoint: str) -> KeptPort:
    """What an earlier service has left of it goes, if it is sure that nobody listens there."""
    path = endpoint.removeprefix(_IPC)
    is_file = not path.startswith("@")
    made = socket.socket(socket.AF_UNIX)
    os.fchmod(made.fileno(), 0o600)  # Its file will be so, whatever the umask leaves open.
    try:
        if is_file and not _somebody_listens(path):
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    os.unlink(path)
        made.bind(path if is_file else f"\0{path[1:]}")
        made.listen(connections_waiting_max())
    except OSError:
        made.close()
        raise
    return KeptPort(endpoint, [made], path if is_file else "")


def _somebody_listens(path: str) -> bool:
    """Or may, for all that this user can tell. Who listens and has no room for another one that waits is not waited for."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)


class SharedPort:
    """One port of TCP for as many listening sockets as `open` is called."""

    def __init__(self, endpoint: str) -> None:
        """Raises OperatorError, also when anybody has the port."""
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        try:
            self._holder = _hold_first(_addresses(host, int(port)))
        except OSError as error:
            raise cannot_listen(endpoint, error) from error
        self._family, self._address = self._holder.family, self._holder.getsockname()
        self.endpoint = _endpoint_of(self._holder)

    def open(self) -> list[socket.socket]:
        opened = _socket(self._family)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            opened.bind(self._address)
        except OSError:
            opened.close()
            raise
        return [opened]

    def close(self) -> None:
        self._holder.close()


def systemd_port(fd: int = _SYSTEMD_FD) -> KeptPort:
    """The socket of a socket unit, which stays open below, for another try. Raises OperatorError for what is no listening stream
    socket."""
    problem = "what systemd passed is no socket of TCP or unix that listens"
    try:
        os.set_inheritable(fd, False)
        passed = socket.socket(fileno=os.dup(fd))
    except OSError as error:
        raise _wrong_sockets(problem) from error
    listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or passed.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        passed.close()
        raise _wrong_sockets(problem)
    return KeptPort(_endpoint_of(passed), [passed])


def is_at(endpoint: str, bound: str) -> bool:
    """Whether a socket at `bound`, as `systemd_port` says it, is where one would listen for this endpoint; True also where nobody
    can tell."""
    if _IPC in (endpoint[: len(_IPC)], bound[: len(_IPC)]) or endpoint == bound:
        return endpoint == bound
    (host, _, port), (bound_host, _, bound_port) = (each.removeprefix("tcp://").rpartition(":") for each in (endpoint, bound))
    if port != bound_port:
        return False
    try:
        there = [ip_address(str(address[0])) for _, address in _addresses(host, int(port))]
        has = ip_address(bound_host.strip("[]"))
    except (OSError, ValueError):
        return True
    return any(each == has or (each.is_unspecified and has.is_unspecified) for each in there)


def open_port(endpoint: str, routers: int, environment: Mapping[str, str], pid: int) -> Port:
    """Raises OperatorError."""
    if environment.get("LISTEN_PID") == str(pid):
        if (passed := environment.get("LISTEN_FDS")) != "1":
            raise _wrong_sockets(f"systemd passed {passed or 'no'} sockets, not 1")
        return systemd_port()
    return keep_port(endpoint) if routers == 1 or endpoint.startswith(_IPC) else SharedPort(endpoint)


def _wrong_sockets(problem: str) -> OperatorError:
    return OperatorError("listen", "LISTEN_FDS", problem, "the socket unit needs one ListenStream= and no Accept=yes")


def start_listening(fd: int) -> str:
    """In the router: from now on the socket that the supervisor has passed gets connections. Its endpoint. Raises OSError."""
    os.set_inheritable(fd, False)
    listener = socket.socket(fileno=fd)
    try:
        listener.setblocking(False)  # Another router may have accepted what this one was woken for.
        listener.listen(connections_waiting_max())
        return _endpoint_of(listener)
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
        found = addresses_of(host.strip("[]"), port)
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
