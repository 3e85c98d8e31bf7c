"""Where commands of operators come in (`tidegate reload`): a unix socket in the run directory. Nothing is decided here.

Guarantee: a command that was heard is carried out whatever becomes of who gave it; who does not read is not waited for.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from tidegate.runtime.wire.commands import Command, Ended, Said, decode_command, encode
from tidegate.runtime.wire.supervisor_messages import Failed

COMMAND_BYTES_MAX = 64 << 10
COMMAND_S_MAX = 10.0
"""Who connects says within this time what it wants, or keeps a descriptor of the supervisor for ever."""

log = logging.getLogger("tidegate")


class CommandSocket:
    def __init__(self, run_directory: Path, obey: Callable[[Command], int]) -> None:
        """`obey` begins a command and returns its number, of which `said` and `ended` speak. They may be called by it, before it
        has returned."""
        # The random part keeps a command apart that reaches another machine's service through a tunnel, and finds a socket of the
        # same path on its own machine.
        self.path = run_directory / f"supervisor.{secrets.token_hex(4)}"
        self._obey = obey
        self._waiting: dict[int, list[asyncio.StreamWriter]] = {}
        self._early: dict[int, list[Said | Ended]] | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """On a full disk there may be no room for a name: then no command comes in, and the service serves all the same."""
        try:
            self._server = await asyncio.start_unix_server(self._on_connection, self.path, limit=COMMAND_BYTES_MAX)
        except OSError as error:
            log.warning("cannot listen for commands at %s: %s", self.path, error.strerror or error)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)

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

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(COMMAND_S_MAX):
                line = await reader.readline()
            command = decode_command(line)
        except asyncio.CancelledError:  # A stop. Let through, it would be logged by Python 3.11 as an error.
            writer.close()
            return
        except (msgspec.MsgspecError, ValueError, OSError) as error:
            why = f"none came within {COMMAND_S_MAX:g} s" if isinstance(error, TimeoutError) else error
            problem = f"no command of this version of the service: {why}"
            _write(
                writer, Ended((), Failed("command", str(self.path), problem, "use the tidegate command that the service is of"))
            )
            writer.close()
            return
        self._early = {}
        number = self._obey(command)
        early, self._early = self._early.get(number, []), None
        for message in early:
            _write(writer, message)
        if early and isinstance(early[-1], Ended):
            writer.close()
        else:
            self._waiting.setdefault(number, []).append(writer)


def _write(writer: asyncio.StreamWriter, message: Said | Ended) -> None:
    if not writer.is_closing():
        writer.write(encode(message) + b"\n")
