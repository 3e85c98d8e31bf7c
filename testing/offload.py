"""`self.offload` in a test: the function runs here, at one instant, as if another process had done it."""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Callable
from typing import Any

from tidegate.shard.objects.offload import Offload, packed, run_packed


class OffloadHere(Offload):
    """Function, arguments and result are copies, as those that another process has. No object's context is seen."""

    async def run(self, function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Raises what `function` raises, and TypeError for what cannot be sent to another process."""
        _, work = packed(function, args, keywords)
        return await contextvars.Context().run(self._loop.run_in_executor, None, _run, work)


def _run(work: bytes) -> Any:
    return copy.deepcopy(run_packed(work))
