"""`breakpoint()` in the code of an object: a worker has no terminal.

With `--dev` the worker stops there and waits for whoever talks to it by a socket in the service's private directory; the log says
how (`python -m tidegate.shard.worker.debugger PATH`). The whole worker waits meanwhile, and the supervisor lets it. Without
`--dev` the line is passed over, and that is said. Who sets PYTHONBREAKPOINT has chosen another debugger.
"""

from __future__ import annotations

import logging
import os
import pdb  # noqa: T100  # what the user has asked for
import selectors
import socket
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

log = logging.getLogger("tidegate")

_READ_BYTES = 64 << 10


def set_breakpoint_hook(directory: Path, *, dev: bool) -> None:
    if "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = partial(_stop, directory) if dev else _pass_over


def _pass_over(*_: Any, **__: Any) -> None:
    text = "breakpoint() at %s is passed over: a worker has no terminal; start the service with --dev to stop there"
    log.warning(text, _place(sys._getframe(1)))


def _stop(directory: Path, *_: Any, **__: Any) -> None:
    frame = sys._getframe(1)
    path = directory / f"debug.{os.getpid()}"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen(1)
        text = "breakpoint() at %s: this worker waits; debug it from another terminal: %s -m tidegate.shard.worker.debugger %s"
        log.warning(text, _place(frame), sys.executable, path)
        connection, _address = door.accept()
    path.unlink(missing_ok=True)
    _Debugger(connection).set_trace(frame)


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class _Debugger(pdb.Pdb):
    """Ends when it is told to go on and has no breakpoints of its own; so it does when nobody listens any more."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._answers = connection.makefile("w")
        super().__init__(stdin=connection.makefile("r"), stdout=self._answers, nosigint=True)

    def set_continue(self) -> None:
        super().set_continue()
        if not self.breaks:
            self._hang_up()

    def set_quit(self) -> None:
        super().set_quit()
        self._hang_up()

    def do_EOF(self, _: str) -> bool:  # noqa: N802  # its name in `cmd`
        self.clear_all_breaks()
        self.set_continue()
        return True

    def _hang_up(self) -> None:
        try:
            self._answers.flush()
            self._connection.shutdown(socket.SHUT_RDWR)
        except (OSError, ValueError):  # It has hung up before.
            pass


def talk(path: str) -> None:
    """What is typed goes to the worker, and what it says is shown, until it goes on."""
    with socket.socket(socket.AF_UNIX) as connection, selectors.DefaultSelector() as selector:
        connection.connect(path)
        selector.register(connection, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is connection:
                    said = connection.recv(_READ_BYTES)
                    if not said:
                        return
                    sys.stdout.write(said.decode(errors="replace"))
                    sys.stdout.flush()
                elif typed := os.read(sys.stdin.fileno(), _READ_BYTES):
                    connection.sendall(typed)
                else:
                    selector.unregister(sys.stdin)
                    connection.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    talk(sys.argv[1])
