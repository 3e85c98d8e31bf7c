"""`self.offload` in a test: the function runs here, at one instant, as if another process had done it."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

from tidegate.shard.loop.task import settable
from tidegate.shard.objects.offload import Offload, packed, run_packed, unpacked


class OffloadHere(Offload):
    """Function, arguments and what comes of it travel as they do to another process. No object's context is seen."""

    async def run(self, function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Raises what `function` raises, and TypeError for what cannot be sent to another process."""
        name, work = packed(function, args, keywords)
        outcome = await contextvars.Context().run(self._loop.run_in_executor, None, run_packed, name, work)
        error, result = unpacked(name, outcome)
        if error is not None:
            raise settable(error)
        return result
