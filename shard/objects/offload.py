"""`self.offload`: a function in another process, so that what computes for long holds up nobody.

Guarantee: arguments are taken at the call; the result comes back through the input gate, as whatever an object waits for.
The processes have nothing of the service (see `worker/forks`), run on all cores behind the workers, and end with their worker.

Rule: nothing is started before the first use. Processes are forked, so that they know the app's modules as the worker does.
"""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import ForkingPickler
from typing import Any

from tidegate.runtime.errors import Overloaded
from tidegate.runtime.limits import OFFLOAD_PROCESSES, OFFLOADED_MAX

NICENESS = 5
"""How far the processes stand behind the workers where cores are short."""


class Offload:
    """The processes of one worker."""

    def __init__(self, processes: int = OFFLOAD_PROCESSES) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._running = 0

    async def run(self, function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Raises what `function` raises; TypeError for what cannot be sent to another process; Overloaded; RuntimeError if the
        process ended."""
        name = getattr(function, "__qualname__", repr(function))
        try:
            work = bytes(ForkingPickler.dumps((function, args, keywords)))
        except Exception as exc:
            raise TypeError(f"offload: {name} or its arguments cannot be sent to another process: {exc}; {_ADVICE}") from exc
        if self._running >= OFFLOADED_MAX:
            raise Overloaded(f"{self._running} functions are offloaded by this worker and not done")
        pool = self._pool
        if pool is None:
            pool = self._pool = contextvars.Context().run(self._new_pool)
        self._running += 1
        try:
            return await asyncio.wrap_future(pool.submit(_work, work))
        except BrokenProcessPool as exc:
            if self._pool is pool:
                self._pool = None  # The next one is of new processes.
                pool.shutdown(wait=False)
            text = f"offload: the process that ran {name}, or another one beside it, ended: what it did is unknown"
            raise RuntimeError(text) from exc
        finally:
            self._running -= 1

    def _new_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("fork")
        return ProcessPoolExecutor(self._processes, mp_context=context, initializer=os.nice, initargs=(NICENESS,))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


_ADVICE = "give it a function of a module and plain values"


def _work(work: bytes) -> Any:
    function, args, keywords = ForkingPickler.loads(work)
    return function(*args, **keywords)
