"""Real asyncio libraries inside objects, against real servers: what they do passes both gates.

Two proofs each. Input gate: many calls wait for the library and then read, add one and write; no number comes twice. Output gate:
what is sent after a `put` reaches the server only when the commit is durable, and never when it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import httpx
import pytest
import redis.asyncio
import trustme
from aiohttp import web

from tests.support.host_world import Call, World
from tests.support.waiting import wait_until
from tidegate.runtime.addresses import free_port
from tidegate.runtime.errors import ObjectReset
from tidegate.shard.objects.object import DurableObject

CALLS = 24
AUTHORITY = trustme.CA()


def client_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


class Servers:
    """Where the servers of a test listen, and what the HTTP and the line server have seen."""

    http = https = ""
    lines = redis = 0
    dsn = ""
    seen: list[str]


class Client(DurableObject):
    """Each `ask_…` sends the text to a server and returns what comes back."""

    async def count(self, library: str) -> int:
        """A read-modify-write after something from outside."""
        await getattr(self, f"_ask_{library}")("count")
        value: int = await self.storage.get("n", 0)
        await self.storage.put("n", value + 1)
        return value

    async def tell(self, library: str) -> Any:
        self.storage.put("told", library)
        return await getattr(self, f"_ask_{library}")("told")

    async def tell_unconfirmed(self, library: str) -> Any:
        self.storage.put("told", library, allow_unconfirmed=True)
        return await getattr(self, f"_ask_{library}")("told")

    async def _ask_fetch(self, text: str) -> str:
        async with self.fetch.post(Servers.http, data=text) as answer:
            return await answer.text()

    async def _ask_https(self, text: str) -> str:
        async with self.fetch.post(Servers.https, data=text, ssl=client_tls()) as answer:
            return await answer.text()

    async def _ask_session(self, text: str) -> str:
        async with aiohttp.ClientSession() as session, session.post(Servers.http, data=text) as answer:
            return await answer.text()

    async def _ask_httpx(self, text: str) -> str:
        async with httpx.AsyncClient() as client:
            return (await client.post(Servers.http, content=text)).text

    async def _ask_streams(self, text: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", Servers.lines)
        writer.write(f"{text}\n".encode())
        await writer.drain()
        line = await reader.readline()
        writer.close()
        return line.decode().strip()

    async def _ask_start_tls(self, text: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", Servers.lines)
        writer.write(b"tls\n")
        await reader.readline()
        await writer.start_tls(client_tls(), server_hostname="localhost")
        writer.write(f"{text}\n".encode())
        line = await reader.readline()
        writer.close()
        return line.decode().strip()

    async def _ask_sockets(self, text: str) -> str:
        loop = asyncio.get_running_loop()
        with socket.socket() as plain:
            plain.setblocking(False)
            await loop.sock_connect(plain, ("127.0.0.1", Servers.lines))
            await loop.sock_sendall(plain, f"{text}\n".encode())
            return (await loop.sock_recv(plain, 100)).decode().strip()

    async def _ask_redis(self, text: str) -> int:
        async with redis.asyncio.Redis(port=Servers.redis) as client:
            return int(await client.incr(text))

    async def _ask_postgres(self, text: str) -> int:
        connection = await asyncpg.connect(Servers.dsn)
        try:
            return int(await connection.fetchval("select length($1::text)", text))
        finally:
            await connection.close()

    async def _ask_timer(self, text: str) -> str:
        await asyncio.sleep(0.001)
        return text

    async def _ask_thread(self, text: str) -> str:
        return await asyncio.to_thread(str.upper, text)

    async def _ask_queue(self, text: str) -> str:
        queue: asyncio.Queue[str] = asyncio.Queue(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(queue.put(text))
            got = group.create_task(queue.get())
        return got.result()

    async def _ask_lock(self, text: str) -> str:
        async with asyncio.Lock(), asyncio.timeout(5):
            await asyncio.gather(asyncio.sleep(0), asyncio.wait_for(asyncio.sleep(0.001), 1))
        return text


@contextlib.asynccontextmanager
async def web_server() -> AsyncIterator[None]:
    async def answer(request: web.Request) -> web.Response:
        Servers.seen.append(await request.text())
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(tls)
    for name, context in (("http", None), ("https", tls)):
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        setattr(Servers, name, f"{name}://localhost:{runner.addresses[-1][1]}/")
    try:
        yield
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def line_server() -> AsyncIterator[None]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(tls)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line == b"tls\n":
                writer.write(b"go\n")
                await writer.start_tls(tls)
            else:
                Servers.seen.append(line.decode().strip())
                writer.write(b"ok\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    Servers.lines = server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.close()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    Servers.redis = free_port()
    folder = tmp_path_factory.mktemp("redis")
    arguments = ["--port", str(Servers.redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(["redis-server", *arguments], stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: listens(Servers.redis), "Redis")
        yield
        process.terminate()


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[None]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    with tempfile.TemporaryDirectory() as folder:
        yield from _run_postgres(programs[-1], Path(folder))


def _run_postgres(initdb: Path, folder: Path) -> Iterator[None]:
    user: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:  # The server refuses to run as root.
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user |= {"user": account.pw_uid, "group": account.pw_gid}
    subprocess.run([initdb, "-D", "data", "-A", "trust", "-U", "tide"], check=True, capture_output=True, **user)
    port = free_port()
    server: list[str | Path] = [initdb.with_name("postgres"), "-D", "data", "-p", str(port), "-h", "127.0.0.1", "-k", folder]
    with subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user) as process:
        ready: list[str | Path] = [initdb.with_name("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-t", "20"]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL")
        Servers.dsn = f"postgresql://tide@127.0.0.1:{port}/postgres"
        yield
        process.terminate()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


LIBRARIES = (
    "fetch", "https", "session", "httpx", "streams", "start_tls", "sockets", "redis", "postgres",
    "timer", "thread", "queue", "lock",
)  # fmt: skip
SENDING = ("fetch", "https", "session", "httpx", "streams", "start_tls", "sockets")


@pytest.fixture
def servers(library: str, request: pytest.FixtureRequest) -> None:
    if library in ("redis", "postgres"):
        request.getfixturevalue(f"{library}_server")
    Servers.seen = []


async def until_answered(call: Call) -> Any:
    async with asyncio.timeout(10):
        return await call.reply


async def a_while(world: World) -> None:
    """Long enough for anything that is not held back to arrive on the loopback."""
    await asyncio.sleep(0.15)
    await world.settle()


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_read_modify_write_after_any_library_never_gives_a_number_twice(library: str, servers: None) -> None:
    async with web_server(), line_server():
        world = World(Client)
        calls = [world.call(Client, "one", "count", library) for _ in range(CALLS)]
        numbers = [await until_answered(call) for call in calls]
        await world.host.web.close()
    assert sorted(numbers) == list(range(CALLS))


@pytest.mark.parametrize("library", SENDING)
async def test_what_a_library_sends_after_a_put_leaves_when_the_commit_is_durable(library: str, servers: None) -> None:
    async with web_server(), line_server():
        world = World(Client, auto=False)
        call = world.call(Client, "one", "tell", library)
        await a_while(world)
        assert Servers.seen == []
        world.commit()
        assert await until_answered(call) == "ok"
        assert Servers.seen == ["told"]
        await world.host.web.close()


@pytest.mark.parametrize("library", SENDING)
async def test_what_a_library_sends_after_a_put_never_leaves_when_the_commit_fails(library: str, servers: None) -> None:
    async with web_server(), line_server():
        world = World(Client, auto=False)
        call = world.call(Client, "one", "tell", library)
        await a_while(world)
        world.fail_commit()
        with pytest.raises(ObjectReset):
            await until_answered(call)
        await a_while(world)
        assert Servers.seen == []
        await world.host.web.close()


@pytest.mark.parametrize("library", SENDING)
async def test_what_a_library_sends_after_an_unconfirmed_put_leaves_at_once(library: str, servers: None) -> None:
    async with web_server(), line_server():
        world = World(Client, auto=False)
        call = world.call(Client, "one", "tell_unconfirmed", library)
        assert await until_answered(call) == "ok"
        assert Servers.seen == ["told"]
        world.commit()
        await world.host.web.close()
