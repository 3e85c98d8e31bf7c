"""What becomes of a process that object code forks from its worker: by `os.fork`, `multiprocessing`, a `preexec_fn`.

Guarantee: it keeps nothing of the service: neither the lock of the data directory, nor the control stream, nor sockets of
callers, nor files of log and store, nor the core that the worker is pinned to. It does its own work undisturbed; where it uses
its object's storage, stubs or gates it gets an error, and where it comes back to the worker's loop it ends.

Rule 1: descriptors are not closed but put on /dev/null: their numbers stay taken, since objects of ours, which know nothing of
        the fork, may still close them.
Rule 2: a worker that forks nothing pays nothing. The child alone gets other methods in the place of those that it must not use.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from tidegate.runtime.child.control import ControlStream
from tidegate.runtime.sockets.edge import Edge
from tidegate.runtime.sockets.endpoint import Endpoint
from tidegate.runtime.sockets.streams import Streams
from tidegate.shard.host.host import Host
from tidegate.shard.host.outbound import Caller
from tidegate.shard.host.turn import Turn
from tidegate.shard.log.commit_log import CommitLog
from tidegate.shard.loop.loop import GatedLoop
from tidegate.shard.loop.spare import SpareTask
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.objects.storage import Storage, Transaction
from tidegate.shard.objects.threads import no_objects_here
from tidegate.shard.store.checkpoints.checkpoint import Checkpointer
from tidegate.shard.store.state.lmdb_state import LmdbBatch, LmdbState
from tidegate.shard.worker.committer import Committer
from tidegate.shard.worker.peers import Peers
from tidegate.shard.worker.worker import Worker

log = logging.getLogger("tidegate")

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_LEAD_TO_THE_LOOP: tuple[type, ...] = (
    Host, SpareTask, Turn, Worker, Endpoint, Streams, Edge, Committer, Checkpointer, ControlStream, Peers, GatedLoop, CommitLog,
    LmdbState, LmdbBatch,
)  # fmt: skip
_OF_OBJECTS: tuple[type, ...] = (Storage, Transaction, Caller)
_OF_ALL_OBJECTS = ("spawn", "block_concurrency", "fetch", "offload", "abort")


def open_descriptors() -> dict[int, str]:
    """All of this process but the standard streams, and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # That of the listing itself.
            if int(name) > 2:
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


class Forks:
    """What belongs to the worker, and must not go on in a fork of it."""

    def __init__(self, cores: Iterable[int], kept: Iterable[int]) -> None:
        """Call before any code of objects runs. `cores`: what the process was given before it was pinned. Of the descriptors that
        are open now, those in `kept` are not ours."""
        self._cores = frozenset(cores)
        self._worker_pid = os.getpid()
        self._folders: tuple[str, ...] = ()
        kept = set(kept)
        self._ours = {fd: what for fd, what in open_descriptors().items() if fd not in kept}
        self._others: dict[int, str] = {}
        self._forking = threading.local()
        self._parts: tuple[object, ...] = ()
        os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def app_is_loaded(self) -> None:
        """What has been opened since is of the app."""
        self._others = open_descriptors()

    def worker_runs(self, worker: Worker, data_dir: Path, run_dir: Path) -> None:
        """What has been opened since is ours, and so is whatever belongs to these directories. No program gets any of it. Call
        on the running loop, which has opened more, before any code of objects."""
        self._parts = worker.parts()
        self._folders = (f"{data_dir}/", f"{run_dir}/")
        for fd, what in open_descriptors().items():
            if self._others.get(fd) != what and self._ours.get(fd) != what:
                self._ours[fd] = what
                os.set_inheritable(fd, False)  # LMDB leaves one open that is.

    def _before(self) -> None:
        self._forking.in_main_thread = threading.current_thread() is threading.main_thread()
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # Until the child has handlers of its own.

    def _in_parent(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def _in_child(self) -> None:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd, what in open_descriptors().items():
            with contextlib.suppress(OSError):
                if fd != null and (self._ours.get(fd) == what or self._belongs_here(fd, what)):
                    os.dup2(null, fd, inheritable=False)
        os.close(null)
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, self._cores)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)
        in_main_thread = self._forking.in_main_thread
        if os.getppid() == self._worker_pid and in_main_thread and (mp := sys.modules.get("multiprocessing.util")):
            mp.register_after_fork(self, _end_with_worker)  # Runs in those of `multiprocessing`, and in no others.
        no_objects_here()
        _replace_methods()
        for each in self._parts:
            _replace_callbacks(each)

    def _belongs_here(self, fd: int, what: str) -> bool:
        if not what.startswith("socket:"):
            return what.startswith(self._folders) if self._folders else False
        with socket.socket(fileno=os.dup(fd)) as found:
            if found.family != socket.AF_UNIX:
                return False
            names: list[Any] = [found.getsockname()]
            with contextlib.suppress(OSError):
                names.append(found.getpeername())
        return any(isinstance(name, str) and name.startswith(self._folders) for name in names if self._folders)


def _end_with_worker(forks: Forks) -> None:
    """Children of `multiprocessing` are ended by their parent when it ends. A worker that is killed cannot do that."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != forks._worker_pid:
        os._exit(1)


def end_children() -> None:
    """What `multiprocessing` does when a process ends, for a worker, which ends in another way."""
    if (mp := sys.modules.get("multiprocessing.process")) is not None:
        for child in mp.active_children():
            with contextlib.suppress(Exception):
                child.terminate()


# In the child


def _replace_methods() -> None:
    for cls in _LEAD_TO_THE_LOOP:
        for name in _functions(cls):
            setattr(cls, name, _end)
    for cls in _OF_OBJECTS:
        for name in _functions(cls):
            if not name.startswith("_"):
                setattr(cls, name, _refusing(name))
    for name in _OF_ALL_OBJECTS:
        refuse = _refusing(name)
        setattr(DurableObject, name, property(refuse) if name == "fetch" else refuse)


def _replace_callbacks(part: object) -> None:
    for name in [*getattr(part, "__dict__", ()), *getattr(type(part), "__slots__", ())]:
        if isinstance(getattr(part, name, None), types.MethodType | types.BuiltinMethodType):
            setattr(part, name, _end)


def _functions(cls: type) -> list[str]:
    own = [each for each in cls.__mro__ if each.__module__.startswith("tidegate.")]
    return [
        name
        for each in own
        for name, value in vars(each).items()
        if isinstance(value, types.FunctionType) and not (name.startswith("__") and name.endswith("__"))
    ]


def _end(*_: Any, **__: Any) -> NoReturn:
    """In the place of whatever the worker does when object code has returned, raised or waits."""
    error = sys.exc_info()[1]
    if isinstance(error, SystemExit):  # It meant to end.
        os._exit(error.code if isinstance(error.code, int) else int(error.code is not None))
    log.error(
        "process %d, forked by an object, came back to the worker's loop and was ended there: end it with os._exit, or give its "
        "work to multiprocessing.Process", os.getpid(),
    )  # fmt: skip
    os._exit(1)


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, _name: str = name, **__: Any) -> NoReturn:  # No closure: `threads` may change it in its place.
        raise RuntimeError(
            f"{_name}: this process was forked from the worker of its object and has no part in it; give it what it needs as "
            "arguments, and let the object take its result"
        )

    return refuse
