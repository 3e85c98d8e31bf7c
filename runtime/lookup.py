"""Names of hosts, looked up so that nobody has to wait for the answer.

The C library asks its servers for as long as they may take: it heeds no time, and no Ctrl-C. A thread in which it asks cannot
be ended, and one of an executor is waited for: by `asyncio.run`, and by the interpreter at its end. So each question has a thread
of its own, which ends with the process, and whoever has asked may go.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")
Found: TypeAlias = Sequence[tuple[Any, ...]]
"""As `socket.getaddrinfo` has it."""


def aside(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """What it returns or raises. Once this is cancelled nobody hears of it. Raises OSError where no thread is to be had."""
    future: Future[T] = Future()

    def run() -> None:
        with contextlib.suppress(InvalidStateError):  # It was cancelled.
            try:
                answer = function(*arguments)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(answer)

    try:
        threading.Thread(target=run, name="tidegate-look-up", daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    return future


class Question(Generic[T]):
    """The same for who watches descriptors: this one is readable when there is an answer."""

    def __init__(self, function: Callable[..., T], *arguments: Any) -> None:
        """Raises OSError."""
        self._ours, theirs = socket.socketpair()
        try:
            self._answer = aside(function, *arguments)
        except OSError:
            self.close()
            theirs.close()
            raise
        self._answer.add_done_callback(lambda _: theirs.close())

    def fileno(self) -> int:
        return self._ours.fileno()

    def result(self) -> T:
        """Once there is one."""
        return self._answer.result(0)

    def close(self) -> None:
        """Whether or not there is an answer."""
        self._ours.close()


def addresses_of(host: str, port: int | None, within_s: float | None = None, flags: int = 0) -> Found:
    """Of a host, for streams. Ctrl-C ends it. Raises OSError, TimeoutError among them, and UnicodeError."""
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, flags=flags)
    return aside(ask).result(within_s)
