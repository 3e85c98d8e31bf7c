"""A service on this machine is asked past its routers: its supervisor knows how it is, also while they hang.

Every supervisor listens on a unix socket whose name says what it is. The kernel lists them all; those that this user may open
are asked which service is theirs. Nobody has to know a directory, and nothing is written, also on a disk that is full.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import msgspec

from tidegate.runtime.lookup import addresses_of
from tidegate.runtime.wire.commands import Command, Ended, Said, Status, decode_answer, encode

_SOCKETS = Path("/proc/net/unix")
_NAME = re.compile(r" ((?:/|@tidegate/).*/?supervisor\.[0-9a-f]{8})$", re.MULTILINE)
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"})
_EVERYWHERE = frozenset({str(IPv4Address(0)), "*", f"[{IPv6Address(0)}]"})
ANSWER_S = 2.0
STATUS_BYTES_MAX = 64 << 20
"""Of an answer by who is trusted."""
TOLD_BYTES_MAX = 64 << 10
"""Of one by anybody: that it is done, or why not."""
_LISTEN = "0A"
"""A state of TCP, as the kernel lists it."""
_ACCEPTS = "00010000"
"""The flags of a unix socket that listens."""


def supervisors() -> list[str]:
    """Paths of their sockets; one that begins with `@` is abstract."""
    try:
        found = _NAME.findall(_SOCKETS.read_text(errors="surrogateescape"))
    except OSError:
        return []
    return sorted(set(found))


def unix_path(path: str) -> str:
    return f"\0{path[1:]}" if path.startswith("@") else path


def ask_supervisor(endpoint: str) -> dict[str, Any] | None:
    """The status of the service that listens there, if it is on this machine, its supervisor answers, and this user is the
    service's or root."""
    listening = functools.cache(lambda: _inodes_of(endpoint))
    for answer in _answers(Command("status"), trusted=lambda supervisor: _is_trusted(supervisor, listening)):
        if isinstance(answer, Status) and is_same(endpoint, str(answer.status.get("listen", ""))):
            return answer.status
    return None


def service_of(data: Path) -> dict[str, Any] | None:
    """The status of the service that uses this data directory, if its supervisor answers, and this user is the service's or root.
    Root believes the user whose directory it is."""
    try:
        owner, path = data.stat().st_uid, str(data.resolve())
    except OSError:
        return None
    for answer in _answers(Command("status"), trusted=lambda supervisor: _uid_of(supervisor) in (0, os.geteuid(), owner)):
        if isinstance(answer, Status) and str(Path(str(answer.status.get("data", ""))).resolve()) == path:
            return answer.status
    return None


def _uid_of(supervisor: socket.socket) -> int:
    credentials = supervisor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def tell_supervisors(command: Command) -> int:
    """All that this user may command hear it. How many have said that it is done; for the others is not waited long."""
    return sum(isinstance(answer, Ended) for answer in _answers(command, bytes_max=TOLD_BYTES_MAX))


def lives(path: str) -> bool:
    """Whether the supervisor that listens there answers a question."""
    return next(_answers(Command("status"), [path]), None) is not None


def _answers(
    command: Command,
    paths: Sequence[str] | None = None,
    *,
    trusted: Callable[[socket.socket], bool] = lambda _: True,
    bytes_max: int = STATUS_BYTES_MAX,
) -> Iterator[Said | Ended | Status]:
    """The last one of each supervisor, as they come. `paths`: of these only. Who is not trusted is not asked, and nothing that he
    says is read. Who says more than `bytes_max` is heard no longer."""
    with contextlib.ExitStack() as stack:
        asked = {each.fileno(): each for path in paths or supervisors() if (each := _asked(path, command, trusted)) is not None}
        heard = {fd: bytearray() for fd in asked}
        poll = select.poll()
        for fd, each in asked.items():
            stack.enter_context(each)
            poll.register(fd, select.POLLIN)
        give_up_at = time.monotonic() + ANSWER_S
        while asked and (left_s := give_up_at - time.monotonic()) > 0:  # One that hangs keeps nobody from the others.
            for fd, _ in poll.poll(left_s * 1_000):
                part = _part(asked[fd])
                heard[fd] += part
                if part and len(heard[fd]) <= bytes_max:
                    continue
                poll.unregister(fd)
                del asked[fd]
                said = heard.pop(fd)
                if not part and (answer := _read(bytes(said))) is not None:
                    yield answer


def is_trusted(supervisor: socket.socket, endpoint: str) -> bool:
    """Whether who listens on this unix socket may be believed: root, or this user. Root believes another user too, if it is his
    process, or a child of it, that listens on the endpoint: anybody can make a socket of any name."""
    return _is_trusted(supervisor, lambda: _inodes_of(endpoint))


def _is_trusted(supervisor: socket.socket, listening: Callable[[], list[set[str]]]) -> bool:
    credentials = supervisor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return uid in (0, os.geteuid()) or (os.geteuid() == 0 and _listens(pid, listening()))


def _listens(pid: int, listening: list[set[str]]) -> bool:
    """Whether it is this process, or a child of it, to which whoever connects comes, by whatever address: `listening` has those
    of the endpoint."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return False
    has: set[str] = set().union(*map(_sockets_of, (str(pid), *children)))
    return bool(listening) and not any(has.isdisjoint(inodes) for inodes in listening)


def _sockets_of(pid: str) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def _inodes_of(endpoint: str) -> list[set[str]]:
    """Of the sockets that listen there, as links of descriptors name them: for each address that the name has, and at which
    somebody listens. A port alone says nothing: another user may listen on it at another address of the machine."""
    if endpoint.startswith("ipc://"):
        return _inodes_of_path(endpoint.removeprefix("ipc://"))
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    listening = _listening(int(port))
    return [inodes for address in _addresses(host) if (inodes := _at(address, listening))]


def _inodes_of_path(path: str) -> list[set[str]]:
    """None where two have this name: in a root of his own anybody may give it to a socket."""
    lines = [line.split(maxsplit=7) for line in _SOCKETS.read_text(errors="surrogateescape").splitlines()[1:]]
    found = {f"socket:[{each[6]}]" for each in lines if len(each) == 8 and each[7] == path and each[3] == _ACCEPTS}
    return [found] if len(found) == 1 else []


def _addresses(host: str) -> set[IPv4Address | IPv6Address]:
    with contextlib.suppress(OSError, UnicodeError):
        found = addresses_of(host.strip("[]"), None, ANSWER_S)
        return {_as_four(ip_address(str(address[0]).partition("%")[0])) for *_, address in found}
    return set()


def _as_four(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    return getattr(address, "ipv4_mapped", None) or address


def _listening(port: int) -> dict[IPv4Address | IPv6Address, set[str]]:
    """On this port: sockets by address."""
    found: dict[IPv4Address | IPv6Address, set[str]] = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                at, _, number = fields[1].rpartition(":")
                if fields[3] == _LISTEN and int(number, 16) == port:
                    words = (int(at[start : start + 8], 16) for start in range(0, len(at), 8))  # As the machine has numbers.
                    address = _as_four(ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words)))
                    found.setdefault(address, set()).add(f"socket:[{fields[9]}]")
    return found


def _at(address: IPv4Address | IPv6Address, listening: Mapping[IPv4Address | IPv6Address, set[str]]) -> set[str]:
    """The kernel prefers who listens at the address itself, then who does at every one of its family."""
    everywhere = (IPv6Address(0),) if address.version == 6 else (IPv4Address(0), IPv6Address(0))
    return next((listening[each] for each in (address, *everywhere) if each in listening), set())


def connect(supervisor: socket.socket, path: str, timeout_s: float) -> None:
    """Raises TimeoutError where all who may wait there do. With a timeout of Python's the kernel would not wait at all, without
    one for ever."""
    seconds, rest = divmod(timeout_s, 1)
    supervisor.setblocking(True)
    supervisor.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(rest * 1e6)))
    try:
        supervisor.connect(unix_path(path))
    except BlockingIOError:
        raise TimeoutError(f"nobody is let in within {timeout_s:g} s") from None


def _asked(path: str, command: Command, trusted: Callable[[socket.socket], bool]) -> socket.socket | None:
    with contextlib.ExitStack() as stack:
        try:
            supervisor = stack.enter_context(socket.socket(socket.AF_UNIX))
            supervisor.setblocking(False)
            supervisor.connect(unix_path(path))
            if not trusted(supervisor):
                return None
            supervisor.sendall(encode(command) + b"\n")
        except OSError:  # Another user's, or one that is gone or has no time for anybody; or there is no descriptor left.
            return None
        stack.pop_all()
        return supervisor


def _part(supervisor: socket.socket) -> bytes:
    try:
        return supervisor.recv(1 << 20)
    except OSError:
        return b""


def _read(answer: bytes) -> Said | Ended | Status | None:
    try:
        read: Said | Ended | Status = decode_answer(answer)
        return read
    except (msgspec.MsgspecError, ValueError, RecursionError):  # Of another version.
        return None


def is_same(asked: str, listens: str) -> bool:
    """Whether who connects to `asked`, on the machine of a service that listens there, comes to that service."""
    if asked == listens:
        return True
    if asked.startswith("ipc://") or not listens.startswith("tcp://"):
        return False
    (host, _, port), (other, _, other_port) = (each.removeprefix("tcp://").rpartition(":") for each in (asked, listens))
    return port == other_port and host in _LOOPBACK and other in _LOOPBACK | _EVERYWHERE
