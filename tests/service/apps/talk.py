"""Objects that write: by loggers, prints, warnings, in tasks, threads and programs."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import warnings

from tidegate import DurableObject

log = logging.getLogger("app.orders")

FORGED = "2026-01-01T00:00:00.000+00:00 ERROR   supervisor: forged"


class Talk(DurableObject):
    async def say(self, text: str) -> None:
        print("printed", text)
        print("complained", text, file=sys.stderr)
        log.info("logged %s", text, extra={"order": 7})
        logging.getLogger("some.library").warning("noticed %s", text)
        warnings.warn(f"old {text}", stacklevel=1)

    async def later(self, text: str) -> None:
        await asyncio.sleep(0.001)
        log.info("later %s", text)
        await asyncio.gather(self._part(f"first {text}"), self._part(f"second {text}"))
        await asyncio.to_thread(print, "in a thread", text)

    async def _part(self, text: str) -> None:
        await asyncio.sleep(0)
        print(text)

    async def past_python(self) -> None:
        os.write(2, b"written to 2\n")
        await asyncio.to_thread(subprocess.run, ["echo", FORGED], check=True)

    async def forge(self) -> None:
        log.info("no\n%s \x1b[2J\r%s", FORGED, FORGED)
        print(f"no\n{FORGED}")

    async def fail(self, text: str) -> None:
        raise ValueError(text)

    async def caught(self) -> None:
        try:
            await self.fail("inner")
        except ValueError:
            log.exception("caught")
