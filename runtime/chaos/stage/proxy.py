"""A door beside the router's: every byte goes through, until the connections are broken.

A thread with a loop of its own. Its methods may be called from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from random import Random

CHUNK_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    def __init__(self, host: str, port: int) -> None:
        """Towards `host:port`. It listens on a free loopback port, named by `endpoint`."""
        self._target = host, port
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._socket.getsockname()[1]}"
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="proxy", daemon=True)
        self._thread.start()
        self._started.wait()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        server = await asyncio.start_server(self._serve, sock=self._socket)
        self._started.set()
        await self._closing.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, ours = await asyncio.open_connection(*self._target)
        except OSError:  # Nobody there now: as a client would meet it, the connection ends.
            writer.transport.abort()
            return
        pair = writer, ours
        self._pairs.add(pair)
        try:
            await asyncio.gather(_pump(reader, ours), _pump(theirs, writer))
        finally:
            self._pairs.discard(pair)
            for each in pair:
                each.transport.abort()

    def drop(self, share: float, chance: Random) -> int:
        """Breaks this share of the connections, by a reset; how many these were."""
        return asyncio.run_coroutine_threadsafe(self._drop(share, chance), self._loop).result()

    async def _drop(self, share: float, chance: Random) -> int:
        broken = [pair for pair in self._pairs if chance.random() < share]
        for pair in broken:
            for each in pair:
                if (under := each.get_extra_info("socket")) is not None:
                    with contextlib.suppress(OSError):
                        under.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.transport.abort()
        return len(broken)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
