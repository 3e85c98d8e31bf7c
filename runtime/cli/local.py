"""A service on this machine is asked past its routers: its supervisor knows how it is, also while they hang.

Every supervisor listens on a unix socket whose name says what it is. The kernel lists them all; those that this user may open
are asked which service is theirs. Nobody has to know a directory, and nothing is written, also on a disk that is full.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import msgspec

from tidegate.runtime.wire.commands import Command, Status, decode_answer, encode

_SOCKETS = Path("/proc/net/unix")
_NAME = re.compile(r" ((?:/|@tidegate/).*/?supervisor\.[0-9a-f]{8})$", re.MULTILINE)
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"})
_EVERYWHERE = frozenset({str(IPv4Address(0)), "*", f"[{IPv6Address(0)}]"})
ANSWER_S = 2.0


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
    with contextlib.ExitStack() as stack:
        asked = {each.fileno(): each for path in supervisors() if (each := _asked(path)) is not None}
        heard: dict[int, bytes] = dict.fromkeys(asked, b"")
        poll = select.poll()
        for fd, each in asked.items():
            stack.enter_context(each)
            poll.register(fd, select.POLLIN)
        give_up_at = time.monotonic() + ANSWER_S
        while asked and (left_s := give_up_at - time.monotonic()) > 0:  # One that hangs keeps nobody from the others.
            for fd, _ in poll.poll(left_s * 1_000):
                part = _part(asked[fd])
                heard[fd] += part
                if part:
                    continue
                poll.unregister(fd)
                del asked[fd]
                status = _read(heard.pop(fd))
                if status is not None and is_same(endpoint, str(status.get("listen", ""))):
                    return status
    return None


def _asked(path: str) -> socket.socket | None:
    supervisor = socket.socket(socket.AF_UNIX)
    supervisor.setblocking(False)
    try:
        supervisor.connect(unix_path(path))
        supervisor.sendall(encode(Command("status")) + b"\n")
    except OSError:  # Another user's, or one that is gone or has no time for anybody.
        supervisor.close()
        return None
    return supervisor


def _part(supervisor: socket.socket) -> bytes:
    try:
        return supervisor.recv(1 << 20)
    except OSError:
        return b""


def _read(answer: bytes) -> dict[str, Any] | None:
    try:
        read = decode_answer(answer)
    except (msgspec.MsgspecError, ValueError):  # Of another version.
        return None
    return read.status if isinstance(read, Status) else None


def is_same(asked: str, listens: str) -> bool:
    """Whether who connects to `asked`, on the machine of a service that listens there, comes to that service."""
    if asked == listens:
        return True
    if asked.startswith("ipc://") or not listens.startswith("tcp://"):
        return False
    (host, _, port), (other, _, other_port) = (each.removeprefix("tcp://").rpartition(":") for each in (asked, listens))
    return port == other_port and host in _LOOPBACK and other in _LOOPBACK | _EVERYWHERE
