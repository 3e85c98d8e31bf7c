"""How a command ends: exit codes, and what is said on stderr."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import msgspec

from tidegate.runtime.errors import OperatorError, one_line

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CONDITION = 3
"""Of `objects`: there is no such thing, or it is not as a condition says. Nothing was changed."""
EXIT_LASTS = 78
"""Of `serve --keep-trying`: what is wrong does not pass. RestartPreventExitStatus of the unit names it."""

CODE_FAILED = "failed"
"""Of an error that is JSON, where it is not one of a call: what the command itself could not do."""


def fail(text: str) -> int:
    """One line that names the operation, the place and the next step."""
    with contextlib.suppress(OSError):  # The exit code says it, too.
        print(f"tidegate: {text}", file=sys.stderr, flush=True)
    return EXIT_FAILED


def as_json(error: OperatorError) -> dict[str, Any]:
    return {"error": {"code": CODE_FAILED, "message": str(error), "next": error.hint}}


def fail_with(error: OperatorError, *, for_program: bool = False) -> int:
    """`for_program`: also as JSON, on stdout. Raises OSError where that cannot be written."""
    if for_program:
        print(msgspec.json.encode(as_json(error)).decode())
    return fail(str(error))


def fail_usage(text: str) -> int:
    print(f"tidegate: {one_line(text)}", file=sys.stderr)
    return EXIT_USAGE
