"""Waiting for what is about to come true: one way, one bound, and a failure that says what was waited for and what was seen last.

For what real processes, threads and disks do. Where there is virtual time or an event to wait for, wait for that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

WITHIN_S = 60.0
"""Hardly anything here takes a second on an idle machine; a test that is one of several on two busy cores needs the rest."""

Answer = TypeVar("Answer")


def wait_until(
    condition: Callable[[], Answer],
    what: str,
    within_s: float = WITHIN_S,
    *,
    seen: Callable[[], object] | None = None,
    pause_s: float = 0.005,
) -> Answer:
    """Asks until the answer counts as true, and returns that answer. AssertionError after `within_s` seconds: it says `what` was
    waited for, and the last answer, or what `seen` gives where the answer is a bare no."""
    give_up_at = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < give_up_at, _in_vain(what, within_s, seen() if seen else answer)
        time.sleep(pause_s)
    return answer


async def wait_until_in_loop(
    condition: Callable[[], Answer],
    what: str,
    within_s: float = WITHIN_S,
    *,
    seen: Callable[[], object] | None = None,
    pause_s: float = 0.001,
) -> Answer:
    """The same in a coroutine: the loop goes on meanwhile. `within_s` counts by the wall clock whatever the loop's does."""
    give_up_at = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < give_up_at, _in_vain(what, within_s, seen() if seen else answer)
        await asyncio.sleep(pause_s)
    return answer


def _in_vain(what: str, within_s: float, seen: object) -> str:
    return f"{what}: not within {within_s:g} s; seen last: {seen if isinstance(seen, str) else repr(seen)}"
