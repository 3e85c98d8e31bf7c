"""A start that fails for a reason that can pass is tried again by the service itself, with a growing pause, for ever.

Guarantee: what cannot pass ends at once. Who looks is told what is waited for and until when: in the log, and by systemd's status
line. A stop while it waits is obeyed at once.
"""

from __future__ import annotations

import itertools
import logging
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn

from tidegate.runtime.limits import START_PAUSE_S_MAX, START_PAUSE_S_MIN
from tidegate.runtime.supervisor.notify import Notifier
from tidegate.runtime.wire.supervisor_messages import Failed

log = logging.getLogger("tidegate")

_EXTEND_S = 30.0
"""Beyond a pause, for the try after it."""


def pauses() -> Iterator[float]:
    """In seconds, between one try and the next."""
    return (min(START_PAUSE_S_MIN * 2 ** min(number, 16), START_PAUSE_S_MAX) for number in itertools.count())


def keep_trying(attempt: Callable[[], Failed | None], notifier: Notifier, sleep: Callable[[float], None]) -> Failed | None:
    """Until `attempt` returns None, after a service that had started has stopped, or a failure that does not pass."""
    for pause_s in pauses():
        failed = attempt()
        if failed is None or failed.fatal:
            return failed
        stop_at_once()  # The attempt had handlers of its own.
        why = f"{failed.operation} {failed.place}: {failed.problem} ({failed.hint})"
        log.error("cannot start: %s; trying again in %g s", why, pause_s)
        notifier.extend_start(pause_s + _EXTEND_S)
        notifier.status(f"cannot start, tries again every {pause_s:g} s: {why}")
        sleep(pause_s)
    raise AssertionError("pauses never end")


def stop_at_once() -> None:
    """While nothing runs yet SIGTERM ends this process as asked, with exit code 0. (To process 1 of a container the kernel's own
    answer to it would be none.)"""
    signal.signal(signal.SIGTERM, _exit)


def _exit(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(0)
