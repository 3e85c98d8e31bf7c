"""What an app or a program puts into its tracing may be wrong, and costs the trace then, never the call."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from tidegate.runtime.errors import one_line

FAILURES_TOLD_MAX = 32
"""Different ones are remembered, so that none is told again."""

log = logging.getLogger("tidegate")


def harmless(method: Callable[..., Any]) -> Callable[..., Any]:
    """A mistake in a provider, a processor or a sampler is told once, and None returned. The call goes on, or is answered: its
    writes are durable by then."""

    @functools.wraps(method)
    def guarded(*args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            _say_once(f"{type(error).__name__}: {one_line(str(error))}")
            return None

    return guarded


@functools.lru_cache(maxsize=FAILURES_TOLD_MAX)
def _say_once(failure: str) -> None:
    log.warning("a call could not be traced: %s; its trace is not whole, the call is answered", failure)
