"""One child process: started, spoken to, watched, killed. Knows nothing of what the child does.

Start children from the main thread only: the kernel kills them when the *thread* that started them ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence

from tidegate.runtime.child.child import LOCK_FD_VARIABLE
from tidegate.runtime.child.output import OWN_PIPES_VARIABLE, Outputs, relays
from tidegate.runtime.wire.supervisor_messages import FromChild, LineBuffer, ToChild, decode_from_child, encode_line

_READ_BYTES = 64 << 10

log = logging.getLogger("tidegate")


def describe_exit(returncode: int) -> str:
    """What happened, in words: `exited with code 3`, `was killed by SIGSEGV`."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"was killed by {name}"


class ChildProcess:
    """Messages arrive in the order sent, all of them before `on_exit`, which is called exactly once."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        lock_fd: int | None,
        kept_fd: int | None = None,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[FromChild], None],
        on_exit: Callable[[int], None],
        outputs: Outputs | None = None,
    ) -> None:
        """Starts it. `--control-fd N` is added to the command. It gets `kept_fd` under the same number. What it prints goes on to
        `outputs`, or where our own prints go. Raises OSError."""
        self._loop = loop
        self._on_message = on_message
        self._on_exit = on_exit
        self._lines = LineBuffer()
        self._unsent = bytearray()
        self._control, theirs = socket.socketpair()
        self._relays = [] if outputs is None else relays(outputs, loop)
        streams = [relay.theirs for relay in self._relays]
        try:
            with theirs:
                self._popen = _start(command, theirs, environment, lock_fd, kept_fd, streams)
        except OSError:
            for relay in self._relays:
                relay.close()
            raise
        finally:
            for fd in set(streams):
                os.close(fd)
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._control.setblocking(False)
        self._hearing = True
        loop.add_reader(self._control.fileno(), self._on_readable)
        loop.add_reader(self._pidfd, self._on_exited)

    def send(self, message: ToChild) -> None:
        """Never blocks and never fails: a child that does not read is for liveness to judge."""
        was_empty = not self._unsent
        self._unsent += encode_line(message)
        if was_empty and self._hearing:
            self._write(watched=False)

    def kill(self) -> None:
        """SIGKILL. `on_exit` follows."""
        self._popen.kill()

    def _write(self, *, watched: bool = True) -> None:
        try:
            sent = self._control.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:  # It is dying; `on_exit` follows.
            self._unsent.clear()
            sent = 0
        del self._unsent[:sent]
        if self._unsent and not watched:
            self._loop.add_writer(self._control.fileno(), self._write)
        elif not self._unsent and watched:
            self._loop.remove_writer(self._control.fileno())

    def _on_readable(self) -> None:
        self._receive()

    def _receive(self) -> bool:
        """Whether more may be waiting."""
        try:
            data = self._control.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._stop_hearing()
            return False
        for line in self._lines.feed(data):
            try:
                message = decode_from_child(line)
            except Exception as error:  # Code of the app has found the descriptor; what the child itself says next counts.
                log.error("process %d sent %d bytes that are no message: %s", self._popen.pid, len(line), error)
                continue
            self._on_message(message)
        return True

    def _stop_hearing(self) -> None:
        self._hearing = False
        self._loop.remove_reader(self._control.fileno())
        self._loop.remove_writer(self._control.fileno())

    def _on_exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        returncode = self._popen.wait()
        # Its last words first: they say why. Not up to the end of the stream, which a process forked by user code may hold
        # open, but all that is there: the child writes no more.
        while self._hearing and self._receive():
            pass
        if self._hearing:
            self._stop_hearing()
        self._control.close()
        for relay in self._relays:
            relay.drain()
        self._on_exit(returncode)


def _start(
    command: Sequence[str],
    control: socket.socket,
    environment: Mapping[str, str],
    lock_fd: int | None,
    kept_fd: int | None,
    streams: list[int],
) -> subprocess.Popen[bytes]:
    kept = [control.fileno(), *([] if kept_fd is None else [kept_fd])]
    environment = dict(environment)
    if lock_fd is not None:
        kept.append(lock_fd)
        environment[LOCK_FD_VARIABLE] = str(lock_fd)
    if streams:
        environment[OWN_PIPES_VARIABLE] = "1"
    stdout, stderr = streams or (None, None)
    return subprocess.Popen(
        [*command, "--control-fd", str(control.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=kept,
        env=environment,
        process_group=0,  # A Ctrl-C on the terminal is for the supervisor alone.
    )
