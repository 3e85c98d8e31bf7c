"""How a command ends: exit codes, and what is said on stderr."""

from __future__ import annotations

import contextlib
import sys

from tidegate.runtime.errors import one_line

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CONDITION = 3
"""Of `objects`: there is no such thing, or it is not as a condition says. Nothing was changed."""
EXIT_LASTS = 78
"""Of `serve --keep-trying`: what is wrong does not pass. RestartPreventExitStatus of the unit names it."""


def fail(text: str) -> int:
    """One line that names the operation, the place and the next step."""
    with contextlib.suppress(OSError):  # The exit code says it, too.
        print(f"tidegate: {text}", file=sys.stderr, flush=True)
    return EXIT_FAILED


def fail_usage(text: str) -> int:
    print(f"tidegate: {one_line(text)}", file=sys.stderr)
    return EXIT_USAGE
