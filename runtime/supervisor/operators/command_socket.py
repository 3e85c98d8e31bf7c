"""Where commands of operators come in (`tidegate reload`): a unix socket in the run directory. Nothing is decided here.

Guarantee: a command that was heard is carried out whatever becomes of who gave it; who does not read is not waited for. Nobody
but the service's user and root is heard. On a disk without room for its name the socket has one that needs none.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tidegate.runtime.data.audit import CommandGiver
from tidegate.runtime.wire.commands import COMMAND_BYTES_MAX, Command, Ended, Said, ShownConfig, Status, decode_command, encode
from tidegate.runtime.wire.supervisor_messages import Failed

COMMAND_S_MAX = 10.0
"""Who connects says within this time what it wants, or keeps a descriptor of the supervisor for ever."""

log = logging.getLogger("tidegate")


class CommandSocket:
    def __init__(
        self,
        run_directory: Path,
        obey: Callable[[Command, CommandGiver], int],
        answers: Mapping[str, Callable[[], Status | ShownConfig]],
    ) -> None:
        """`obey` begins a command of that caller and returns its number, of which `said` and `ended` speak. They may be called by
        it, before it has returned. `answers`: what is answered at once to those that are questions."""
        # The random part keeps a command apart that reaches another machine's service through a tunnel, and finds a socket of the
        # same path on its own machine.
        self.path = f"{run_directory}/supervisor.{secrets.token_hex(4)}"
        """Where it listens; one that begins with `@` is abstract."""
        self._obey = obey
        self._answers = answers
        self._waiting: dict[int, list[asyncio.StreamWriter]] = {}
        self._early: dict[int, list[Said | Ended]] | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Without it the service serves all the same."""
        try:
            self._server = await asyncio.start_unix_server(self._on_connected, self.path, limit=COMMAND_BYTES_MAX)
        except OSError as error:
            named, self.path = self.path, f"@tidegate/supervisor.{secrets.token_hex(4)}"
            log.warning("cannot listen for commands at %s: %s; they are heard at %s", named, error.strerror or error, self.path)
            address = f"\0{self.path[1:]}"
            self._server = await asyncio.start_unix_server(self._on_connected, address, limit=COMMAND_BYTES_MAX)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            if not self.path.startswith("@"):
                Path(self.path).unlink(missing_ok=True)

    def said(self, number: int, text: str) -> None:
        self._tell(number, Said(text))

    def ended(self, number: int, ended: Ended) -> None:
        self._tell(number, ended)
        for writer in self._waiting.pop(number, ()):
            writer.close()

    def _tell(self, number: int, message: Said | Ended) -> None:
        if self._early is not None:
            self._early.setdefault(number, []).append(message)
        for writer in self._waiting.get(number, ()):
            _write(writer, message)

    def _on_connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The task is ours: of one that a stop cancels before it has begun Python 3.11 would log an error."""
        task = asyncio.get_running_loop().create_task(self._on_connection(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = _caller(writer.get_extra_info("socket"))
        if caller.uid not in (0, os.geteuid()):
            writer.close()
            return
        try:
            async with asyncio.timeout(COMMAND_S_MAX):
                line = await reader.readline()
            command = decode_command(line)
        except asyncio.CancelledError:  # A stop. Let through, it would be logged by Python 3.11 as an error.
            writer.close()
            return
        except (msgspec.MsgspecError, ValueError, RecursionError, OSError) as error:
            why = f"none came within {COMMAND_S_MAX:g} s" if isinstance(error, TimeoutError) else error
            problem = f"no command of this version of the service: {why}"
            _write(writer, Ended((), Failed("command", self.path, problem, "use the tidegate command that the service is of")))
            writer.close()
            return
        if (answer := self._answers.get(command.what)) is not None:
            _write(writer, answer())
            writer.close()
            return
        self._early = {}
        number = self._obey(command, caller)
        early, self._early = self._early.get(number, []), None
        for message in early:
            _write(writer, message)
        if early and isinstance(early[-1], Ended):
            writer.close()
        else:
            self._waiting.setdefault(number, []).append(writer)


def _caller(connection: Any) -> CommandGiver:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return CommandGiver(pid, uid)


def _write(writer: asyncio.StreamWriter, message: Said | Ended | Status | ShownConfig) -> None:
    if not writer.is_closing():
        writer.write(encode(message) + b"\n")
