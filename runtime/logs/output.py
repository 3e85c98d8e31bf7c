"""How lines leave a process: they hold nobody up, nothing is raised, and they never land in a file of the service.

Guarantee: a line is taken at any time, from any thread, and its writer goes on at once, whatever has become of the stream:
closed, full, hung up, or read by nobody. What cannot be written is kept up to a bound; beyond it lines are lost and counted,
and the count is told where they would have stood, once something can be written again.

Rule 1: descriptors 0, 1 and 2 are open before anything else is, else the next file opened would get such a number, and be
        written into by whoever prints. What may be opened later is moved above them.
Rule 2: never O_NONBLOCK on a stream that was inherited: the setting belongs to everybody who has it.

A child gets pipes of its own, which the supervisor empties; only the supervisor knows the streams that the service was given. So
what is slow or stuck out there stops no child, nor any program which an object has started. Lines that the child has made come
through others than what is written to descriptors 1 and 2, which may be anything, and is not believed to be lines. Where the
service logs to journald, children send their lines there themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tidegate.runtime.descriptors import above_standard
from tidegate.runtime.limits import OUTPUT_BYTES_MAX, OUTPUT_LINE_BYTES_MAX, OUTPUT_REST_S
from tidegate.runtime.logs.writer import LineWriter, Takes

_PIECE_BYTES = 64 << 10
_LOOK_READS = 4
"""As much as a pipe holds."""
_DRAIN_READS = 8
"""More than a pipe holds; what comes after that is of others, who have it still."""
_PIPE_BYTES = 256 << 10
_JOURNAL_PAUSE_MS = 20
_STREAMS = (1, 2)


class Sink:
    """Where bytes go that are to come out at `fd`. `direct`: a write to it does not block, so it is tried at once; else, and
    for what does not fit, there is a thread."""

    def __init__(self, fd: int, *, direct: bool = False, bytes_max: int = OUTPUT_BYTES_MAX) -> None:
        self.fd = fd
        self._direct = direct
        self._bytes_max = bytes_max
        self.loss_line: Callable[[int], bytes] = lambda lost: b"%d lines of output were lost: nobody took them\n" % lost
        """What stands where so many lines were lost."""
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """In a forked child there is no thread, and what waits is the parent's to write."""
        self._lock = threading.RLock()  # Code that runs in a collection may print while this thread prints.
        self._pieces: deque[tuple[int, bytes]] = deque()
        """Each with the number of lines that were lost before it."""
        self._rest = b""
        """Of the first piece, or of the line that tells a loss before it: what is left, if it was begun."""
        self._tells_loss = False
        self._kept_bytes = 0
        self._is_empty = threading.Event()
        self._is_empty.set()
        self._lost = 0
        """Lines lost after the last piece."""
        self._draining = False
        self._thread: threading.Thread | None = None
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def write(self, data: bytes) -> None:
        if len(data) > _PIECE_BYTES:
            for at in range(0, len(data), _PIECE_BYTES):
                self._put(data[at : at + _PIECE_BYTES])
        else:
            self._put(data)

    def _put(self, piece: bytes) -> None:
        if self._direct and not self._pieces:  # The commonest case: nothing waits, and there is room for all of it.
            with self._lock:
                if not (self._pieces or self._lost or self._draining) and self._has_sent(piece):
                    return
        self._take(piece)
        if not self._direct or not self._drain(wait=False):
            self._leave_to_thread()

    def _has_sent(self, piece: bytes) -> bool:
        """All of it. What is left of a piece that was begun stands first in the queue, and is the first that follows."""
        try:
            written = self._send(piece)
        except OSError:
            return False
        if written == len(piece):
            return True
        self._is_empty.clear()
        self._pieces.append((0, piece))
        self._kept_bytes += len(piece)
        self._rest = piece[written:]
        self._leave_to_thread()
        return True

    def _send(self, data: bytes) -> int:
        return os.write(self.fd, data)

    def flush(self, within_s: float) -> bool:
        """Whether everything is out; waits no longer than that for it."""
        return self._is_empty.wait(within_s)

    def _take(self, piece: bytes) -> None:
        with self._lock:
            if self._kept_bytes + len(piece) > self._bytes_max:
                self._lost += self._lines(piece)
                return
            self._is_empty.clear()
            self._pieces.append((self._lost, piece))
            self._kept_bytes += len(piece)
            self._lost = 0

    def _leave_to_thread(self) -> None:
        if self._thread is None:
            with self._lock:
                thread = self._thread = threading.Thread(target=self._work, name="tidegate-output", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # No thread to be had, or the interpreter is about to end: the next line tries again.
                self._thread = None
                return
        self._wake.put(None)

    def _work(self) -> None:
        wake = self._wake
        while True:
            wake.get()
            self._drain(wait=True)

    def _drain(self, *, wait: bool) -> bool:
        """Writes what there is; whether all of it was, or somebody else is at it. `wait` for as long as it takes."""
        with self._lock:
            if self._draining:
                return not wait
            self._draining = True
        while True:
            with self._lock:
                if not self._pieces:
                    self._is_empty.set()
                    self._draining = False
                    return True
                if not self._rest:
                    lost, piece = self._pieces[0]
                    self._tells_loss = lost > 0
                    self._rest = self.loss_line(lost) if lost else piece
                rest = self._rest
            try:
                written = self._send(rest)
            except BlockingIOError:
                if wait:
                    self._wait_writable()
                    continue
                with self._lock:
                    self._draining = False
                return False
            except OSError:  # Closed, full, hung up. The next line may have more luck.
                self._done(failed=True)
            else:
                self._rest = rest[written:]
                if not self._rest:
                    self._done()

    def _done(self, *, failed: bool = False) -> None:
        with self._lock:
            if self._tells_loss and not failed:
                self._pieces[0] = (0, self._pieces[0][1])
                self._tells_loss = False
                return
            lost, piece = self._pieces.popleft()
            self._kept_bytes -= len(piece)
            self._rest = b""
            if not failed:
                return
            lost += self._lines(piece)
            if self._pieces:
                before, following = self._pieces[0]
                self._pieces[0] = (before + lost, following)
            else:
                self._lost += lost

    def _lines(self, data: bytes) -> int:
        return data.count(b"\n") or 1

    def _wait_writable(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        poll.poll(1_000)


# The streams of this process


class JournalSink(Sink):
    """Datagrams for journald: one for each line. It stays the same socket while journald is started again."""

    PATH = "/run/systemd/journal/socket"

    def __init__(self, taker: socket.socket, path: str) -> None:
        self._taker = taker
        self._path = path
        super().__init__(taker.fileno(), direct=True)

    @classmethod
    def open(cls, path: str = PATH) -> JournalSink | None:
        """None where there is nobody to take them."""
        taker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            taker.sendto(b"", path)
        except OSError:
            taker.close()
            return None
        return cls(taker, path)

    def write(self, data: bytes) -> None:
        self._put(data)  # Never in pieces.

    def _send(self, data: bytes) -> int:
        self._taker.sendto(data, self._path)
        return len(data)

    def _lines(self, data: bytes) -> int:
        return 1

    def _wait_writable(self) -> None:
        select.poll().poll(_JOURNAL_PAUSE_MS)  # A socket that is connected to nobody always seems writable.


@dataclass(frozen=True)
class Outputs:
    """Where this process prints and logs."""

    stdout: LineWriter
    stderr: LineWriter

    @property
    def _sinks(self) -> list[Sink]:
        return [writer.sink for writer in (self.stdout, self.stderr) if isinstance(writer.sink, Sink)]

    def descriptors(self) -> list[int]:
        return [sink.fd for sink in self._sinks]

    def flush(self, within_s: float) -> None:
        give_up_at = time.monotonic() + within_s
        for sink in self._sinks:
            sink.flush(max(0.0, give_up_at - time.monotonic()))

    def name(self, process: str) -> None:
        """As lines name this process from now on."""
        self.stdout.process = self.stderr.process = process


LINES_VARIABLE = "TIDEGATE_LINE_FDS"
"""Set for a child: descriptors of the pipes for lines that would go to stdout and to stderr. They are its own; what comes out of
descriptors 1 and 2 is not made by `capture`, and may be anybody's."""


def open_sinks() -> tuple[Sink, Sink]:
    """For what would go to stdout, and to stderr."""
    if given := os.environ.pop(LINES_VARIABLE, ""):  # Not for programs that object code starts.
        try:
            stdout, stderr = (_own_pipe(int(fd)) for fd in given.split(","))
        except (OSError, ValueError):
            pass
        else:
            return stdout, stderr if stderr.fd != stdout.fd else stdout
    stderr = Sink(above_standard(os.dup(2)))
    return (stderr if _are_one() else Sink(above_standard(os.dup(1)))), stderr


def _are_one() -> bool:
    """Whether stdout and stderr are the same: then what goes there keeps its order."""
    first, second = (os.fstat(fd) for fd in _STREAMS)
    return (first.st_dev, first.st_ino, first.st_rdev) == (second.st_dev, second.st_ino, second.st_rdev)


def _own_pipe(fd: int) -> Sink:
    os.set_inheritable(fd, False)
    os.set_blocking(fd, False)  # Nobody else has this end.
    return Sink(fd, direct=True)


# The streams of a child, on the supervisor's side


class Relay:
    """Takes the lines that a child has made and hands them on, until the last process that has the pipe ends."""

    def __init__(self, sink: Takes, loop: asyncio.AbstractEventLoop) -> None:
        self._sink = sink
        self._loop = loop
        self._partial = b""
        self._fd, self.theirs = os.pipe2(os.O_CLOEXEC)
        """The end for the child. To be closed here when the child has it."""
        os.set_blocking(self._fd, False)
        with contextlib.suppress(OSError):  # Pipes of this user may take as much as they may.
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._rests: asyncio.TimerHandle | None = None
        loop.add_reader(self._fd, self._on_lines)

    def drain(self) -> None:
        """What is there now: the last words of a child that has ended."""
        for _ in range(_DRAIN_READS):
            if self._fd < 0 or not self._on_readable():
                return

    def close(self) -> None:
        if self._fd >= 0:
            if self._rests is not None:
                self._rests.cancel()
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _on_lines(self) -> None:
        """Each line by itself would wake this process; so many come together."""
        got = self._on_readable()
        for _ in range(_LOOK_READS - 1):
            if got < _PIECE_BYTES:
                break
            got = self._on_readable()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._rests = self._loop.call_later(OUTPUT_REST_S, self._rested)

    def _rested(self) -> None:
        self._rests = None
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._on_lines)

    def _on_readable(self) -> int:
        """How many bytes there were; with less than a piece of them nothing more was waiting."""
        try:
            data = os.read(self._fd, _PIECE_BYTES)
        except BlockingIOError:
            return 0
        got = len(data)
        if not data:
            self.close()
            if self._partial:
                self._hand_on(self._partial + b"\n")
            return 0
        data = self._partial + data
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) > OUTPUT_LINE_BYTES_MAX:
            end = len(data)
        self._partial = data[end:]
        if end:
            self._hand_on(data[:end])
        return got

    def _hand_on(self, lines: bytes) -> None:
        self._sink.write(lines)


class RawRelay(Relay):
    """The same for what comes out of a child past Python: of C code, of programs that an object has started. Nothing of it is
    believed; each line becomes one of that process."""

    def __init__(self, writer: LineWriter, stream: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(writer.sink, loop)
        self.writer = writer
        self._stream = stream

    def _hand_on(self, lines: bytes) -> None:
        for line in lines.removesuffix(b"\n").split(b"\n"):
            self.writer.say(logging.INFO, self._stream, line.decode(errors="backslashreplace"))


@dataclass(frozen=True)
class Relays:
    """All that comes out of one child."""

    lines: tuple[Relay, Relay]
    """What would go to stdout, and to stderr: one for both where both are the same here, so that lines keep their order."""
    raw: tuple[RawRelay, RawRelay]

    @property
    def each(self) -> list[Relay]:
        return list(dict.fromkeys((*self.lines, *self.raw)))

    def theirs(self) -> list[int]:
        """The ends for the child, to be closed here when it has them."""
        return [relay.theirs for relay in self.each]

    def name(self, process: str) -> None:
        for relay in self.raw:
            relay.writer.process = process


def relays(outputs: Outputs, loop: asyncio.AbstractEventLoop, process: str) -> Relays:
    """For one child, which is called so in what is not made by `capture`."""
    stdout, stderr = outputs.stdout, outputs.stderr
    if _are_one():
        lines, raw = Relay(stderr.sink, loop), RawRelay(stderr.named(process), "stderr", loop)
        return Relays((lines, lines), (raw, raw))
    return Relays(
        (Relay(stdout.sink, loop), Relay(stderr.sink, loop)),
        (RawRelay(stdout.named(process), "stdout", loop), RawRelay(stderr.named(process), "stderr", loop)),
    )
