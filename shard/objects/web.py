"""`self.fetch`: one HTTP client session for all objects of a worker.

Shared, because connections are worth keeping and because the output gate knows by itself whose bytes it
holds (`loop.transports`).
Cookies are not kept: what one object receives must not be sent by another.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

from tidegate.runtime.extras import how_to_install

if TYPE_CHECKING:
    import aiohttp


class Web:
    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        """Made at the first use, in a context that belongs to no object."""
        if self._session is None or self._session.closed:
            self._session = contextvars.Context().run(_new_session)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _new_session() -> aiohttp.ClientSession:
    try:
        import aiohttp
    except ImportError:
        raise RuntimeError(f"self.fetch needs aiohttp: {how_to_install('tidegate[fetch]')}") from None
    # The connector's cache of names asks in a task, which would be the first object's: where that object is reset before the
    # task has begun, everybody who connects to that host afterwards waits for ever (aiohttp 3.14.5).
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(use_dns_cache=False))
