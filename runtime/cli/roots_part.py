"""What root's process does for a child that has become another user: methods of objects that were made before, and no others.

Rule: the child says which method, and its arguments, and nothing that it says is code or a path: a part checks what it is given.
"""

from __future__ import annotations

import functools
import socket
import struct
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import msgspec

from tidegate.runtime.errors import OperatorError

_LENGTH = struct.Struct("<Q")
MESSAGE_BYTES_MAX = 1 << 30
"""More than any piece or manifest of a backup has."""


class Part(Protocol):
    @property
    def asked(self) -> Collection[str]:
        """Names of the methods that root's process carries out. Arguments and results are what MessagePack can say."""
        ...

    def close(self) -> None:
        """When the child has ended: what it has not asked to be kept is given up."""
        ...


class _Request(msgspec.Struct):
    part: str
    method: str
    arguments: list[Any]


class _Answer(msgspec.Struct):
    value: Any = None
    os_error: tuple[int, str, str | None] | None = None
    operator_error: tuple[str, str, str, str, bool] | None = None


class _Asked:
    """A part as the child has it: what root's process does it is asked for, and the rest is as it was when both began."""

    def __init__(self, part: Part, name: str, connection: socket.socket) -> None:
        self._part = part
        self._name = name
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._ask, name) if name in self._part.asked else getattr(self._part, name)

    def _ask(self, method: str, *arguments: Any) -> Any:
        _send(self._connection, _Request(self._name, method, list(arguments)))
        if (message := _receive(self._connection)) is None:
            raise OperatorError(method, self._name, "the process of root has ended", "give the command again")
        answer = msgspec.msgpack.decode(message, type=_Answer)
        if answer.operator_error is not None:
            operation, place, problem, hint, passes = answer.operator_error
            raise OperatorError(operation, place, problem, hint, passes=passes)
        if answer.os_error is not None:
            raise OSError(*answer.os_error)
        return answer.value


def asked(parts: Mapping[str, Part], connection: socket.socket) -> dict[str, Any]:
    """The same parts, for the child."""
    return {name: _Asked(part, name, connection) for name, part in parts.items()}


def serve(connection: socket.socket, parts: Mapping[str, Part]) -> None:
    """In root's process, until the child has ended, or says what it should not."""
    while (message := _receive(connection)) is not None:
        try:
            request = msgspec.msgpack.decode(message, type=_Request)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return
        part = parts.get(request.part)
        if part is None or request.method not in part.asked:
            return
        try:
            _send(connection, _answer(part, request))
        except OSError:  # It has ended meanwhile.
            return


def _answer(part: Part, request: _Request) -> _Answer:
    try:
        return _Answer(getattr(part, request.method)(*request.arguments))
    except OperatorError as error:
        return _Answer(operator_error=(error.operation, str(error.place), error.problem, error.hint, error.passes))
    except OSError as error:
        filename = None if error.filename is None else str(error.filename)
        return _Answer(os_error=(error.errno or 0, error.strerror or str(error), filename))


def _send(connection: socket.socket, message: _Request | _Answer) -> None:
    encoded = msgspec.msgpack.encode(message)
    connection.sendall(_LENGTH.pack(len(encoded)))
    connection.sendall(encoded)


def _receive(connection: socket.socket) -> bytes | None:
    """None at the end, and where there is more than is ever said."""
    head = _read(connection, _LENGTH.size)
    if head is None or (length := _LENGTH.unpack(head)[0]) > MESSAGE_BYTES_MAX:
        return None
    return _read(connection, length)


def _read(connection: socket.socket, count: int) -> bytes | None:
    found = bytearray()
    while len(found) < count:
        try:
            part = connection.recv(min(count - len(found), 1 << 20))
        except ConnectionError:
            return None
        if not part:
            return None
        found += part
    return bytes(found)
