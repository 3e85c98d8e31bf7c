"""What a process prints and logs: it holds nobody up, raises nothing, and never lands in a file of the service.

Guarantee: a line is taken at any time, from any thread, and its writer goes on at once, whatever has become of the stream:
closed, full, hung up, or read by nobody. What cannot be written is kept up to a bound; beyond it lines are lost and counted,
and the count is told where they would have stood, once something can be written again.

Rule 1: descriptors 0, 1 and 2 are open before anything else is, else the next file opened would get such a number, and be
        written into by whoever prints. What may be opened later is moved above them.
Rule 2: never O_NONBLOCK on a stream that was inherited: the setting belongs to everybody who has it.

A child gets pipes of its own, which the supervisor empties; only the supervisor knows the streams that the service was given. So
what is slow or stuck out there stops no child, nor any program which an object has started.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import os
import queue
import select
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from tidegate.runtime.descriptors import above_standard
from tidegate.runtime.limits import OUTPUT_BYTES_MAX, OUTPUT_FLUSH_S, OUTPUT_LINE_BYTES_MAX

_PIECE_BYTES = 64 << 10
_DRAIN_READS = 4
"""More than a pipe holds; what comes after that is of others, who have it still."""
_STREAMS = (1, 2)


def hold_standard_descriptors() -> None:
    """Call first in every process (rule 1)."""
    for fd in (0, *_STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)


def _lines(data: bytes) -> int:
    return data.count(b"\n") or 1


class Sink:
    """Where bytes go that are to come out at `fd`. `direct`: a write to it does not block, so it is tried at once; else, and
    for what does not fit, there is a thread."""

    def __init__(self, fd: int, *, direct: bool = False, bytes_max: int = OUTPUT_BYTES_MAX) -> None:
        self.fd = fd
        self._direct = direct
        self._bytes_max = bytes_max
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """In a forked child there is no thread, and what waits is the parent's to write."""
        self._lock = threading.RLock()  # Code that runs in a collection may print while this thread prints.
        self._pieces: deque[tuple[int, bytes]] = deque()
        """Each with the number of lines that were lost before it."""
        self._rest = b""
        """Of the first piece: what is left of it, if it was begun."""
        self._kept_bytes = 0
        self._is_empty = threading.Event()
        self._is_empty.set()
        self._lost = 0
        """Lines lost after the last piece."""
        self._draining = False
        self._thread: threading.Thread | None = None
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), _PIECE_BYTES):
            self._take(data[at : at + _PIECE_BYTES])
        if not self._direct or not self._drain(wait=False):
            self._leave_to_thread()

    def flush(self, within_s: float) -> bool:
        """Whether everything is out; waits no longer than that for it."""
        return self._is_empty.wait(within_s)

    def _take(self, piece: bytes) -> None:
        with self._lock:
            if self._kept_bytes + len(piece) > self._bytes_max:
                self._lost += _lines(piece)
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
                    self._rest = b"%d lines of output were lost: nobody took them\n" % lost + piece if lost else piece
                rest = self._rest
            try:
                written = os.write(self.fd, rest)
            except BlockingIOError:
                if wait:
                    _wait_writable(self.fd)
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
            lost, piece = self._pieces.popleft()
            self._kept_bytes -= len(piece)
            self._rest = b""
            if not failed:
                return
            lost += _lines(piece)
            if self._pieces:
                before, following = self._pieces[0]
                self._pieces[0] = (before + lost, following)
            else:
                self._lost += lost


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll(1_000)


# The streams of this process


class _Raw(io.RawIOBase):
    """Bytes of `sys.stdout` or `sys.stderr` on their way to a sink. It cannot be closed: others print, too."""

    def __init__(self, sink: Sink, fd: int) -> None:
        self._sink = sink
        self._fd = fd

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._sink.write(data)
        return len(data)

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def close(self) -> None:
        pass


class _Stream(io.TextIOWrapper):
    """What object code finds as `sys.stdout` and `sys.stderr`: a line at a time."""

    def close(self) -> None:
        self.flush()


@dataclass(frozen=True)
class Outputs:
    """Where this process prints and logs."""

    stdout: Sink
    stderr: Sink

    def descriptors(self) -> tuple[int, int]:
        return self.stdout.fd, self.stderr.fd

    def flush(self, within_s: float) -> None:
        give_up_at = time.monotonic() + within_s
        for sink in (self.stdout, self.stderr):
            sink.flush(max(0.0, give_up_at - time.monotonic()))


def take_streams() -> Outputs:
    """From now on `print`, the log and all else that goes through `sys.stdout` and `sys.stderr` neither blocks nor raises."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # There is none, or it is broken.
            pass
    own_pipes = bool(os.environ.pop(OWN_PIPES_VARIABLE, ""))  # Not for programs that object code starts.
    stdout, stderr = (_open_sink(fd, own_pipes) for fd in _STREAMS)
    sys.stdout, sys.stderr = (_text(sink, fd) for sink, fd in zip((stdout, stderr), _STREAMS, strict=True))
    outputs = Outputs(stdout, stderr)
    atexit.register(outputs.flush, OUTPUT_FLUSH_S)
    return outputs


def _text(sink: Sink, fd: int) -> _Stream:
    raw: Any = _Raw(sink, fd)
    return _Stream(raw, "utf-8", "backslashreplace", line_buffering=True)


OWN_PIPES_VARIABLE = "TIDEGATE_OWN_PIPES"
"""Set for a child whose stdout and stderr are pipes of its own."""


def _open_sink(fd: int, own_pipe: bool) -> Sink:
    if own_pipe:
        try:  # Opened once more it has settings of its own: programs which object code starts must not get EAGAIN.
            return Sink(above_standard(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)), direct=True)
        except OSError:
            pass
    return Sink(above_standard(os.dup(fd)))


# The streams of a child, on the supervisor's side


class Relay:
    """Takes what a child prints and hands it on in whole lines, until the last process that has the pipe ends."""

    def __init__(self, sink: Sink, loop: asyncio.AbstractEventLoop) -> None:
        self._sink = sink
        self._loop = loop
        self._partial = b""
        self._fd, self.theirs = os.pipe2(os.O_CLOEXEC)
        """The end for the child. To be closed here when the child has it."""
        os.set_blocking(self._fd, False)
        loop.add_reader(self._fd, self._on_readable)

    def drain(self) -> None:
        """What is there now: the last words of a child that has ended."""
        for _ in range(_DRAIN_READS):
            if self._fd < 0 or not self._on_readable():
                return

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _on_readable(self) -> bool:
        """Whether more may be waiting."""
        try:
            data = os.read(self._fd, _PIECE_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.close()
            if self._partial:
                self._sink.write(self._partial + b"\n")
            return False
        data = self._partial + data
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) > OUTPUT_LINE_BYTES_MAX:
            end = len(data)
        self._partial = data[end:]
        if end:
            self._sink.write(data[:end])
        return True


def relays(outputs: Outputs, loop: asyncio.AbstractEventLoop) -> list[Relay]:
    """For stdout and stderr of one child; one for both where both are the same here, so that their lines keep their order."""
    first, second = (os.fstat(fd) for fd in _STREAMS)
    if (first.st_dev, first.st_ino, first.st_rdev) == (second.st_dev, second.st_ino, second.st_rdev):
        return [Relay(outputs.stderr, loop)] * 2
    return [Relay(outputs.stdout, loop), Relay(outputs.stderr, loop)]
