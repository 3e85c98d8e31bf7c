"""The control stream: what a supervisor and a child of its tell each other, one JSON object a line over an inherited socket pair.

Guarantee: messages arrive in the order sent, and nobody waits for the other side: what it does not take yet is kept. Sending
never fails; that the other side is gone is told once, where the stream ends.

Rule 1: the end of the stream means that the other side is gone. A child then stops at once: its calls are answered by nobody.
Rule 2: a line that is no message costs no other message: code of the app may have found the descriptor.

Both ends are the same code. Before it has a loop a child waits for its first message, and may leave a last one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from tidegate.runtime.wire.supervisor_messages import FromChild, FromSupervisor, OpenShards, RouterSpec, ToChild, WorkerSpec

_READ_BYTES = 64 << 10

Heard = TypeVar("Heard")

log = logging.getLogger("tidegate")


class SupervisorGone(Exception):
    """The control stream ended before the spec, or the parent is not the supervisor: there is nobody to work for."""


# Lines

_encode = msgspec.json.Encoder().encode
_decode_spec = msgspec.json.Decoder(WorkerSpec | RouterSpec).decode
_decode_open = msgspec.json.Decoder(OpenShards).decode
_decode_from_supervisor = msgspec.json.Decoder(FromSupervisor).decode
decode_from_child = msgspec.json.Decoder(FromChild).decode


def encode_line(message: ToChild | FromChild) -> bytes:
    """Texts of the app may hold what UTF-8 cannot carry, halves of surrogate pairs: a question mark takes their place."""
    try:
        return _encode(message) + b"\n"
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(message, str_keys=True), ensure_ascii=False)
        return text.encode(errors="replace") + b"\n"


class LineBuffer:
    """Joins what arrives and cuts it into lines."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        """Parts of a line that has not ended: a value may be in it."""

    def feed(self, data: bytes) -> list[bytes]:
        first, *more = data.split(b"\n")
        self._begun.append(first)
        if not more:
            return []
        lines = [b"".join(self._begun), *more[:-1]]
        self._begun = more[-1:]
        return [line for line in lines if line]


# On a loop


class ControlStream(Generic[Heard]):
    """One end of a stream; `Heard` is what the other side says."""

    def __init__(
        self, control: socket.socket, loop: asyncio.AbstractEventLoop, decode: Callable[[bytes], Heard], other_side: str
    ) -> None:
        """`other_side` names it in the log."""
        control.setblocking(False)
        self._socket = control
        self._loop = loop
        self._decode = decode
        self._other_side = other_side
        self._lines = LineBuffer()
        self._unsent = bytearray()
        self._is_open = True
        self._on_message: Callable[[Heard], None]
        self._on_end: Callable[[], None]

    def start(self, on_message: Callable[[Heard], None], on_end: Callable[[], None] = lambda: None) -> None:
        """`on_end` is called once, when the other side is gone; not after `close`."""
        self._on_message = on_message
        self._on_end = on_end
        self._loop.add_reader(self._socket.fileno(), self._receive)

    def send(self, message: ToChild | FromChild) -> None:
        if not self._is_open:
            return
        was_empty = not self._unsent
        self._unsent += encode_line(message)
        if was_empty:
            self._write(watched=False)

    def flush_blocking(self) -> None:
        """Waits until everything sent is in the kernel's hands; for the last message (`Drained`) before the exit."""
        if not self._is_open or not self._unsent:
            return
        self._socket.setblocking(True)
        try:
            self._socket.sendall(self._unsent)
        except OSError:
            pass
        self._unsent.clear()

    def receive_rest(self) -> None:
        """All that is there, for one who knows that the other side writes no more. Not up to the end of the stream, which a
        process forked by user code may hold open."""
        while self._is_open and self._receive():
            pass

    def close(self) -> None:
        self._stop()
        self._socket.close()

    def _stop(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())

    def _write(self, *, watched: bool = True) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:  # Whoever reads hears of the end.
            self._unsent.clear()
            sent = 0
        del self._unsent[:sent]
        if self._unsent and not watched:
            self._loop.add_writer(self._socket.fileno(), self._write)
        elif not self._unsent and watched:
            self._loop.remove_writer(self._socket.fileno())

    def _receive(self) -> bool:
        """Whether more may be waiting."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._stop()
            self._on_end()
            return False
        for line in self._lines.feed(data):
            try:
                message = self._decode(line)
            except Exception as error:
                log.error("%s sent %d bytes that are no message: %s", self._other_side, len(line), error)
                continue
            self._on_message(message)
            if not self._is_open:
                return False
        return True


def stream_to_supervisor(control_fd: int, loop: asyncio.AbstractEventLoop) -> ControlStream[FromSupervisor]:
    return ControlStream(socket.socket(fileno=control_fd), loop, _decode_from_supervisor, "the supervisor")


def stream_to_child(control: socket.socket, loop: asyncio.AbstractEventLoop, pid: int) -> ControlStream[FromChild]:
    return ControlStream(control, loop, decode_from_child, f"process {pid}")


# Without a loop


def receive_spec(control_fd: int) -> WorkerSpec | RouterSpec:
    """Waits for the first line. Leaves everything after it to the stream. Raises SupervisorGone."""
    spec: WorkerSpec | RouterSpec = _decode_spec(_receive_line(control_fd))
    return spec


def wait_for_open(control_fd: int) -> OpenShards:
    """Of a worker: the line after the spec. Raises SupervisorGone."""
    opened: OpenShards = _decode_open(_receive_line(control_fd))
    return opened


def _receive_line(control_fd: int) -> bytes:
    with socket.socket(fileno=os.dup(control_fd)) as control:
        control.setblocking(True)
        line = b""
        while not line.endswith(b"\n"):
            seen = control.recv(_READ_BYTES, socket.MSG_PEEK)
            if not seen:
                raise SupervisorGone("the control stream ended before its time")
            end = seen.find(b"\n")
            line += control.recv(end + 1 if end >= 0 else len(seen))
    return line


def send_blocking(control_fd: int, message: FromChild) -> None:
    """A `Failed` that must be out before the exit. Silent if nobody listens."""
    with socket.socket(fileno=os.dup(control_fd)) as control:
        control.setblocking(True)
        try:
            control.sendall(encode_line(message))
        except OSError:
            pass
