"""shard/objects/offload.py: whoever offloads is answered, also where the system has no process for it. (What goes right, over a
service: `tests/service/test_offload.py`.)"""

from __future__ import annotations

import asyncio
import errno
import operator
import os
from typing import NoReturn

import pytest

from tidegate.runtime.errors import Overloaded
from tidegate.shard.objects.offload import Offload


async def test_whoever_offloads_is_told_when_no_process_can_be_started_and_the_next_one_gets_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its future was never settled, and a seat was lost each time."""

    def no_fork() -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    offload = Offload(asyncio.get_running_loop(), 1, 60.0)
    try:
        async with asyncio.timeout(20):
            with monkeypatch.context() as patch:
                patch.setattr(os, "fork", no_fork)
                calls = [asyncio.create_task(offload.run(operator.add, (1, each), {})) for each in range(3)]
                for call in calls:
                    with pytest.raises(Overloaded, match=r"add has not begun.*temporarily unavailable"):
                        await call
            assert await asyncio.gather(*(offload.run(operator.add, (1, each), {}) for each in range(3))) == [1, 2, 3]
    finally:
        offload.close()
