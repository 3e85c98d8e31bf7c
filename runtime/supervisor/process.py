"""One child process: started, spoken to, watched, killed. Knows nothing of what the child does.

Start children from the main thread only: the kernel kills them when the *thread* that started them ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tidegate.runtime.child.child import LOCK_FD_VARIABLE, STUCK_FD_VARIABLE
from tidegate.runtime.child.control import stream_to_child
from tidegate.runtime.logs.output import LINES_VARIABLE, Outputs, Relay, Relays, relays
from tidegate.runtime.supervisor.rules.seats import CpuTime
from tidegate.runtime.wire.supervisor_messages import HELD_UP_EXIT, FromChild, OpenShards, ToChild, WorkerSpec

STACK_BYTES_MAX = 8 << 10
"""Of what a child says that is stuck."""
STACK_WRITTEN_S = 0.05


def describe_exit(returncode: int) -> str:
    """What happened, in words: `exited with code 3`, `was killed by SIGSEGV`."""
    if returncode == HELD_UP_EXIT:
        return "ended itself because it was held up"
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"was killed by {name}"


def cpu_time(pid: int) -> CpuTime:
    """Nothing where the kernel does not tell, or when it has ended."""
    ran_ns = waited_ns = 0
    wants_core = False
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):  # It has ended meanwhile.
                ran, waited, _ = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()
                ran_ns, waited_ns = ran_ns + int(ran), waited_ns + int(waited)
                state = Path(f"/proc/{pid}/task/{thread}/stat").read_bytes().rpartition(b") ")[2]
                wants_core |= state.startswith(b"R")
    return CpuTime(ran_ns / 1e9, waited_ns / 1e9, wants_core)


class ChildProcess:
    """Messages arrive in the order sent, all of them before `on_exit`, which is called exactly once."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        lock_fd: int | None,
        kept_fds: Sequence[int] = (),
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[FromChild], None],
        on_exit: Callable[[int], None],
        on_stuck: Callable[[str], None] | None = None,
        outputs: Outputs | None = None,
        name: str = "",
    ) -> None:
        """Starts it. `--control-fd N` is added to the command. It gets `kept_fds` under the same numbers. What it prints goes on
        to `outputs`, or where our own prints go; `name` is what it is called there. Raises OSError."""
        self._loop = loop
        self._on_exit = on_exit
        self._on_stuck = on_stuck
        self._stuck_fd, stuck_theirs = (-1, None) if on_stuck is None else os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        control, theirs = socket.socketpair()
        self._relays = None if outputs is None else relays(outputs, loop, name)
        try:
            with theirs:
                self._popen = _start(command, theirs, environment, lock_fd, kept_fds, stuck_theirs, self._relays)
        except OSError:
            control.close()
            for relay in self._each_relay:
                relay.close()
            if on_stuck is not None:
                os.close(self._stuck_fd)
            raise
        finally:
            if stuck_theirs is not None:
                os.close(stuck_theirs)
            for relay in self._each_relay:
                os.close(relay.theirs)
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._control = stream_to_child(control, loop, self.pid)
        self._control.start(on_message)
        self._early: list[ToChild] | None = []
        """What it is to be told after its first message; a worker, after it was told which shards to open: until then it takes
        nothing else."""
        loop.add_reader(self._pidfd, self._on_exited)
        if on_stuck is not None:
            loop.add_reader(self._stuck_fd, self._on_stuck_begun)

    def begin(self, first: ToChild) -> None:
        """What it waits for once it is started and has its modules. What was sent before comes behind it."""
        assert self._early is not None, "it has begun"
        self._control.send(first)
        if not isinstance(first, WorkerSpec):
            self._send_early()

    def send(self, message: ToChild) -> None:
        """Never blocks and never fails: a child that does not read is for liveness to judge."""
        if self._early is None:
            self._control.send(message)
        elif isinstance(message, OpenShards):
            self._control.send(message)
            self._send_early()
        else:
            self._early.append(message)

    def _send_early(self) -> None:
        early, self._early = self._early or [], None
        for message in early:
            self._control.send(message)

    def call(self, name: str) -> None:
        """It is somebody else from now on."""
        if self._relays is not None:
            self._relays.name(name)

    @property
    def _each_relay(self) -> list[Relay]:
        return [] if self._relays is None else self._relays.each

    def kill(self) -> None:
        """SIGKILL. `on_exit` follows."""
        self._popen.kill()

    def _on_stuck_begun(self) -> None:
        """It writes its stack, line by line."""
        self._loop.remove_reader(self._stuck_fd)
        self._loop.call_later(STACK_WRITTEN_S, self._on_stuck_said)

    def _on_stuck_said(self) -> None:
        if self._stuck_fd < 0:
            return
        try:
            said = os.read(self._stuck_fd, STACK_BYTES_MAX)
        except BlockingIOError:
            said = b"-"
        if said and self._on_stuck is not None:  # Else it has ended.
            self._on_stuck(said.decode(errors="replace").strip())
            self._loop.add_reader(self._stuck_fd, self._on_stuck_begun)

    def _on_exited(self) -> None:
        if self._stuck_fd >= 0:
            self._loop.remove_reader(self._stuck_fd)
            os.close(self._stuck_fd)
            self._stuck_fd = -1
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        returncode = self._popen.wait()
        self._control.receive_rest()  # Its last words first: they say why.
        self._control.close()
        for relay in self._each_relay:
            relay.drain()
        self._on_exit(returncode)


def _start(
    command: Sequence[str],
    control: socket.socket,
    environment: Mapping[str, str],
    lock_fd: int | None,
    kept_fds: Sequence[int],
    stuck_fd: int | None,
    relays: Relays | None,
) -> subprocess.Popen[bytes]:
    kept = [control.fileno(), *kept_fds]
    environment = dict(environment)
    if lock_fd is not None:
        kept.append(lock_fd)
        environment[LOCK_FD_VARIABLE] = str(lock_fd)
    if stuck_fd is not None:
        kept.append(stuck_fd)
        environment[STUCK_FD_VARIABLE] = str(stuck_fd)
    stdout = stderr = None
    if relays is not None:
        stdout, stderr = (relay.theirs for relay in relays.raw)
        lines = [relay.theirs for relay in relays.lines]
        environment[LINES_VARIABLE] = ",".join(map(str, lines))
        kept += lines
    return subprocess.Popen(
        [*command, "--control-fd", str(control.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=kept,
        env=environment,
        process_group=0,  # A Ctrl-C on the terminal is for the supervisor alone.
    )
