"""What a worker does for its disk while it has nothing else to do: it looks now and then whether there is room again, so that
nobody has to write to find out, and a log that was large under load goes back to one small segment when the load is over. Where
neither can be, since the last checkpoint, it does not look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import LOG_REST_LOOKS, UPKEEP_EVERY_S
from tidegate.shard.log.commit_log import LogFull
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.checkpoints.checkpoint import Checkpointer, CheckpointTrouble


class Upkeep:
    """On the loop thread."""

    def __init__(self, checkpointer: Checkpointer, trouble: Callable[[CheckpointTrouble], None]) -> None:
        """`trouble` is told of failures after which the worker must end."""
        self._checkpointer = checkpointer
        self._trouble = trouble
        self._position = -1
        self._looks = 0
        """For so many of them nothing was written."""
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = loop.create_task(self._run(), name="upkeep", context=NEUTRAL)

    async def _run(self) -> None:
        to_look = self._checkpointer.to_look
        while True:
            await to_look.wait()
            await asyncio.sleep(UPKEEP_EVERY_S)
            to_look.clear()
            if await self.look():
                to_look.set()

    async def look(self) -> bool:
        """Whether it is worth another look before the next checkpoint is over, or finds no room."""
        position = self._checkpointer.done_to()
        if position is None:
            self._looks = 0
            return False
        if self._checkpointer.without_room is not None:
            return await self._look_for_room()
        self._looks = self._looks + 1 if position == self._position else 0
        self._position = position
        if self._looks == LOG_REST_LOOKS:
            return await self._shrink_log(position)
        return self._looks < LOG_REST_LOOKS

    async def _look_for_room(self) -> bool:
        try:
            await self._checkpointer.lend()
        except LogFull:
            return True  # As before.
        except OperatorError as error:
            self._trouble(CheckpointTrouble(error, True))
        return False

    async def _shrink_log(self, position: int) -> bool:
        try:
            await self._checkpointer.shrink_log(position)
        except LogFull:
            self._looks = 0  # There is no room for a small one beside the large ones.
            return True
        except OperatorError as error:
            self._trouble(CheckpointTrouble(error, True))
        return False

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
