"""Where commands come in; what they do is tested with a real service in `service/test_reload`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tidegate.runtime.data.audit import CommandGiver
from tidegate.runtime.supervisor.operators import command_socket
from tidegate.runtime.supervisor.operators.command_socket import CommandSocket
from tidegate.runtime.wire.commands import Command, Ended, Said, Status, decode_answer, encode

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def run(folder: Path, body: Callable[[CommandSocket, list[Command]], Awaitable[None]]) -> None:
    async def main() -> None:
        heard: list[Command] = []

        def obey(command: Command, caller: CommandGiver) -> int:
            assert caller == CommandGiver(os.getpid(), os.geteuid())
            heard.append(command)
            return len(heard)

        commands = CommandSocket(folder, obey, {"status": lambda: Status({"state": "serving"})})
        await commands.start()
        await body(commands, heard)
        commands.close()

    asyncio.run(main())


def test_a_command_is_answered_by_what_is_said_of_it_and_by_its_end(tmp_path: Path) -> None:
    async def body(commands: CommandSocket, heard: list[Command]) -> None:
        reader, writer = await asyncio.open_unix_connection(commands.path)
        writer.write(encode(Command("reload")) + b"\n")
        while not heard:
            await asyncio.sleep(0)
        commands.said(1, "it goes on")
        commands.said(2, "of another one")
        commands.ended(1, Ended((), None))
        assert [decode_answer(line) for line in (await reader.read()).splitlines()] == [Said("it goes on"), Ended((), None)]
        writer.close()

    run(tmp_path, body)


def test_who_asks_how_the_service_is_is_told_at_once(tmp_path: Path) -> None:
    async def body(commands: CommandSocket, heard: list[Command]) -> None:
        reader, writer = await asyncio.open_unix_connection(commands.path)
        writer.write(encode(Command("status")) + b"\n")
        assert decode_answer(await reader.read()) == Status({"state": "serving"})
        assert not heard
        writer.close()

    run(tmp_path, body)


def test_where_there_is_no_room_for_a_name_commands_are_heard_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(commands: CommandSocket, heard: list[Command]) -> None:
        assert commands.path.startswith("@tidegate/supervisor.")
        reader, writer = await asyncio.open_unix_connection(f"\0{commands.path[1:]}")
        writer.write(encode(Command("status")) + b"\n")
        assert isinstance(decode_answer(await reader.read()), Status)
        writer.close()

    run(tmp_path / "missing", body)
    assert "cannot listen for commands" in caplog.text


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_command_of_another_user_is_not_heard_wherever_it_comes_in(tmp_path: Path) -> None:
    connect = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('\\0' + sys.argv[1])"
    script = f"{connect}; print(s.recv(100))"

    async def body(commands: CommandSocket, heard: list[Command]) -> None:
        python = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
        process = await asyncio.create_subprocess_exec(
            python, "-c", script, commands.path[1:], stdout=subprocess.PIPE, user=65534, cwd="/"
        )
        assert (await process.communicate())[0] == b"b''\n"

    run(tmp_path / "missing", body)


def test_who_connects_and_says_nothing_is_told_so_and_keeps_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_socket, "COMMAND_S_MAX", 0.05)

    async def body(commands: CommandSocket, heard: list[Command]) -> None:
        reader, writer = await asyncio.open_unix_connection(commands.path)
        ended = decode_answer(await asyncio.wait_for(reader.readline(), 5.0))
        assert isinstance(ended, Ended)
        assert ended.failed is not None
        assert ended.failed.problem == "no command of this version of the service: none came within 0.05 s"
        assert await reader.read() == b""
        writer.close()
        assert heard == []

    run(tmp_path, body)


def test_who_still_says_nothing_at_a_stop_is_no_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(commands: CommandSocket, heard: list[Command]) -> None:
        _, writer = await asyncio.open_unix_connection(commands.path)
        await asyncio.sleep(0.02)
        writer.write(b"{")
        await asyncio.sleep(0.02)

    with caplog.at_level(logging.DEBUG):
        run(tmp_path, body)
        gc.collect()
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
