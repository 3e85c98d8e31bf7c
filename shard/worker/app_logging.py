"""What an app says about logging while it is loaded: its levels and handlers count, in the service's format.

Lines go to the standard error by the service's own handler, which never blocks. `logging.basicConfig` does nothing where there is
a handler, so while the app is loaded there is none, and Python's last resort is the service's; a handler for the same stream that
the app has added would say each line twice and wait for a reader, so it is taken away again, and said.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("tidegate")

OWN = "tidegate"
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
        _keep_own_loggers(level)
        if doubled:
            what = "the app's handler for its standard streams (logging.basicConfig)"
            text = f"{what} gives way to the service's; its level counts: %s"
            log.info(text, logging.getLevelName(root.level))


def _is_of_standard_stream(handler: logging.Handler) -> bool:
    streams = [stream for name in _STREAMS if (stream := getattr(sys, name, None)) is not None]
    return isinstance(handler, logging.StreamHandler) and handler.stream in streams


def _keep_own_loggers(level: int) -> None:
    """What the service says is not for the app to hide: `dictConfig` disables every logger that it does not name."""
    own = logging.getLogger(OWN)
    if own.level == logging.NOTSET:
        own.setLevel(level)
    for name, logger in logging.Logger.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == OWN:
            logger.disabled = False
