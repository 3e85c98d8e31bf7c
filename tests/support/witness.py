"""What reaches the outside: an HTTP server and a line server on loopback that remember what came and when.

Times are `time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator

from aiohttp import web


class Witness:
    def __init__(self) -> None:
        self.http = ""
        self.line_port = 0
        self.seen: dict[str, float] = {}
        """When each text arrived first."""
        self._meetings: dict[str, asyncio.Barrier] = {}

    def _saw(self, text: str) -> None:
        self.seen.setdefault(text, time.monotonic())

    async def _on_request(self, request: web.Request) -> web.Response:
        """`/meet/NAME/N` answers when N requests for it have come: all at one instant. Everything else is answered at once."""
        self._saw(await request.text())
        match request.path.split("/"):
            case [_, "meet", name, parties]:
                await self._meetings.setdefault(name, asyncio.Barrier(int(parties))).wait()
        return web.Response(text="ok")

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self._saw(line.decode().strip())
            writer.write(b"ok\n")
        writer.close()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._on_request)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.http = f"http://127.0.0.1:{runner.addresses[0][1]}"
        lines = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        self.line_port = lines.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            lines.close()
            await runner.cleanup()


@contextlib.contextmanager
def witness() -> Iterator[Witness]:
    """Serves in a thread of its own, so that it notices what happens while the test waits for something else."""
    it = Witness()
    ready = threading.Event()
    over: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with it.serving():
            end = asyncio.Event()
            over.append((asyncio.get_running_loop(), end))
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield it
    finally:
        loop, end = over[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
