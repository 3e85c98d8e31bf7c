"""Which edits of the app's source a service in development answers with a reload.

Guarantee: whatever is saved last runs in the end, or has failed to. What is written without a change, or taken back before it has
settled, is no edit. Several files that are saved together, and a file that an editor puts into the place of another, are one.

Rule: pure. Who uses it looks at files and says what was there, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

SETTLED_S = 0.2
"""Nothing has been written for so long: whoever saves several files, or one in several steps, is done."""

Stamp = tuple[int, int, int] | None
"""What changes when a file is written or replaced: inode, size, time in nanoseconds. None: it is not there."""


class Edits:
    """Since one version of the app was loaded, or could not be."""

    def __init__(self, tried: Mapping[str, bytes | None]) -> None:
        """What each path held as that version has it."""
        self.tried = dict(tried)
        self._stamps: dict[str, Stamp] = {}
        self._settled_at: float | None = None

    def looked(self, stamps: Mapping[str, Stamp], now: float, digest: Callable[[str], bytes | None]) -> list[str]:
        """What to reload for, sorted; mostly nothing. `digest` reads a path; that is asked for only when something was written
        and has settled. What is found here is as good as tried."""
        if stamps != self._stamps:
            self._stamps, self._settled_at = dict(stamps), now + SETTLED_S
        if self._settled_at is None or now < self._settled_at:
            return []
        self._settled_at = None
        found = {path: digest(path) for path in stamps}
        changed = sorted(path for path, content in found.items() if content != self.tried[path])
        self.tried.update(found)
        return changed
