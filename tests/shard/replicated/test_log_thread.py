"""The thread that speaks with the servers: what it does ends when it is closed, whatever it waits for."""

from __future__ import annotations

import asyncio
import queue
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hanging_names import HANGING, hanging_names, ready_to_hang
from tidegate.shard.replicated import log_thread
from tidegate.shard.replicated.log_thread import LogThread, in_numbers


async def nothing() -> None:
    pass


async def said_by(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    said = await reader.read()
    writer.close()
    return said


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_it_connects_to_whichever_address_of_a_name_is_listened_at(host: str) -> None:
    thread = LogThread(lambda: RuntimeError("closed"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        future = asyncio.run_coroutine_threadsafe(said_by(host, port), thread.loop)
        server.settimeout(30)
        with server.accept()[0] as accepted:
            accepted.sendall(b"hello")
        assert future.result(30) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        thread.wait(said_by(host, port))
    with pytest.raises(OSError, match=r"."):
        thread.wait(said_by("no-such-host.invalid", 1))
    thread.close(nothing)


def test_a_host_in_numbers_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_thread, "look_up", None)
    thread = LogThread(lambda: RuntimeError("closed"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        future = asyncio.run_coroutine_threadsafe(said_by("127.0.0.1", server.getsockname()[1]), thread.loop)
        server.settimeout(30)
        server.accept()[0].close()
        assert future.result(30) == b""
    thread.close(nothing)


def test_with_tls_the_server_is_greeted_by_its_name_and_not_by_its_address() -> None:
    thread = LogThread(lambda: RuntimeError("closed"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        future = asyncio.run_coroutine_threadsafe(
            asyncio.open_connection("localhost", server.getsockname()[1], ssl=True, family=socket.AF_INET), thread.loop
        )
        server.settimeout(30)
        with server.accept()[0] as accepted:
            accepted.settimeout(30)
            assert b"localhost" in accepted.recv(1 << 16)
        assert isinstance(future.exception(30), OSError)
    thread.close(nothing)


def test_an_address_keeps_its_scope() -> None:
    assert in_numbers(("fe80::1", 7, 0, 3)) == "fe80::1%3"
    assert in_numbers(("fe80::1%eth0", 7, 0, 3)) == "fe80::1%eth0"
    assert [in_numbers(("::1", 7, 0, 0)), in_numbers(("127.0.0.1", 7))] == ["::1", "127.0.0.1"]


PROGRAM = f"""
import asyncio, sys, threading
from tidegate.shard.replicated.log_thread import LogThread

thread = LogThread(lambda: RuntimeError("closed"))

async def nothing():
    pass

def close():
    sys.stdin.readline()
    thread.close(nothing)

threading.Thread(target=close).start()
try:
    thread.wait(asyncio.open_connection({HANGING!r}, 1))
except RuntimeError as error:
    print(error)
"""


def test_it_closes_and_the_process_ends_while_a_name_is_looked_up(tmp_path: Path) -> None:
    pipe, environment = subprocess.PIPE, hanging_names(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment
    )
    ready_to_hang(process)
    said, _ = process.communicate("close\n", timeout=60)
    assert (said, process.returncode) == ("closed\n", 0)


async def seven() -> int:
    return 7


async def fails() -> int:
    raise ValueError("it does")


async def for_ever() -> int:
    await asyncio.Event().wait()
    return 0


def test_what_is_begun_blocks_nobody_and_its_end_is_told_once_whatever_it_is() -> None:
    class Closed(Exception):
        pass

    thread = LogThread(Closed)
    told: queue.Queue[int | BaseException] = queue.Queue()
    thread.begin(seven(), told.put)
    assert told.get(timeout=60) == 7
    thread.begin(fails(), told.put)
    assert isinstance(told.get(timeout=60), ValueError)
    thread.begin(for_ever(), told.put)
    thread.close(nothing)
    assert isinstance(told.get(timeout=60), Closed), "it was under way"
    thread.begin(seven(), told.put)
    assert isinstance(told.get(timeout=60), Closed), "it is closed"
    assert told.empty()
