"""What an app says about logging while it is loaded: its levels and handlers count, in the service's form.

Lines go to the standard error by the service's own handler, which never blocks. `logging.basicConfig` does nothing where there is
a handler, so while the app is loaded there is none, and Python's last resort is the service's; a handler for a standard stream
that the app has added, to the root or to any other logger, would say each line twice, or without its fields, and wait for a
reader: the service's takes its place, and that is said.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tidegate.runtime.logs.capture import OWN, set_levels

log = logging.getLogger("tidegate")

_STREAMS = ("stdout", "stderr", "__stdout__", "__stderr__")


@contextmanager
def app_may_configure() -> Iterator[None]:
    """Around the loading of the app."""
    root = logging.getLogger()
    ours, last_resort, level = root.handlers[:], logging.lastResort, root.level
    root.handlers.clear()
    logging.lastResort = ours[0] if ours else last_resort
    try:
        yield
    finally:
        logging.lastResort = last_resort
        given = [handler for handler in root.handlers if handler not in ours]
        doubled = [handler for handler in given if _is_of_standard_stream(handler)]
        root.handlers[:] = [*ours, *(handler for handler in given if handler not in doubled)]
        doubled += _replace_in_other_loggers(ours)
        _keep_own_loggers(level)
        set_levels()
        if doubled:
            what = "the app's handler for its standard streams (logging.basicConfig)"
            text = f"{what} gives way to the service's; its level counts: %s"
            log.info(text, logging.getLevelName(root.level))


def _is_of_standard_stream(handler: logging.Handler) -> bool:
    streams = [stream for name in _STREAMS if (stream := getattr(sys, name, None)) is not None]
    return isinstance(handler, logging.StreamHandler) and handler.stream in streams


def _replace_in_other_loggers(ours: list[logging.Handler]) -> list[logging.Handler]:
    """What does not come to the root, which has the service's, is given it where it is said."""
    replaced = []
    for logger in _loggers():
        found = [handler for handler in logger.handlers if _is_of_standard_stream(handler)]
        if found:
            replaced += found
            others = [handler for handler in logger.handlers if handler not in found]
            logger.handlers[:] = others if logger.propagate else [*ours, *others]
    return replaced


def _keep_own_loggers(level: int) -> None:
    """What the service says is not for the app to hide: `dictConfig` disables every logger that it does not name."""
    own = logging.getLogger(OWN)
    if own.level == logging.NOTSET:
        own.setLevel(level)
    for logger in _loggers():
        if logger.name.partition(".")[0] == OWN:
            logger.disabled = False


def _loggers() -> list[logging.Logger]:
    return [logger for logger in logging.Logger.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
