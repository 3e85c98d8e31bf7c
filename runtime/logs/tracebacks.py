"""The traceback of an exception as whoever wrote the app reads it: without the frames of the runtime.

Guarantee: never raises, whatever the exception says of itself. Where all frames are the runtime's, they are shown, unless it is a
SyntaxError, which says itself where it is.
"""

from __future__ import annotations

import importlib
import traceback

from tidegate.runtime.limits import TRACEBACKS_CHAINED_MAX

_ROOT = __file__.rpartition("/runtime/")[0]
_OURS = (f"{_ROOT}/shard/", f"{_ROOT}/runtime/", "<frozen importlib", importlib.__file__)
"""And Python's own frames of an import, which it leaves out itself where an `import` has failed."""
CANNOT_BE_MADE = "a traceback that cannot be made"


def app_traceback(error: BaseException) -> str:
    """Of causes, contexts and members of groups likewise."""
    try:
        shown = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        todo, seen = [shown], 0
        while todo and seen < TRACEBACKS_CHAINED_MAX:
            each = todo.pop()
            seen += 1
            theirs = [frame for frame in each.stack if not frame.filename.startswith(_OURS)]
            if theirs or getattr(each, "lineno", None) is not None:  # A SyntaxError says itself where it is.
                each.stack = traceback.StackSummary.from_list(theirs)
            todo += [other for other in (each.__cause__, each.__context__) if other is not None]
            todo += each.exceptions or ()
        return "".join(shown.format()).rstrip()
    except BaseException:  # Of a class that misbehaves.
        return CANNOT_BE_MADE


def whole_traceback(error: BaseException) -> str:
    """Of what is the runtime's own fault."""
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except BaseException:
        return CANNOT_BE_MADE


def place_of(error: BaseException) -> tuple[str, int]:
    """File and line of the innermost frame that is not the runtime's; of the innermost, if all are. ("", 0): it has none."""
    place = inner = ("", 0)
    step = BaseException.__dict__["__traceback__"].__get__(error)
    while step is not None:
        inner = (step.tb_frame.f_code.co_filename, step.tb_lineno)
        if not inner[0].startswith(_OURS):
            place = inner
        step = step.tb_next
    return place if place[1] else inner
