"""Handshakes: which connections of a listening socket never became a client's.

Rule 1: pure. The endpoint reports what the library says about its connections; this file counts.
Rule 2: the number of strangers is right as soon as every connection is either greeted or closed. The library does not say *whose*
handshake succeeded, so while several are under way it may be told of the wrong one, and is put right by the next event.
"""

from __future__ import annotations


class Handshakes:
    """Connections by the number of their descriptor, which is another's as soon as it is closed."""

    def __init__(self) -> None:
        self.strangers = 0
        """Connections that were closed on this side before they had completed the greeting. Who leaves by himself, as a client
        does that was answered sooner at another address, is none."""
        self._unknown: set[int] = set()
        """Accepted, and not known to have completed it."""
        self._succeeded = 0
        """How many of those have."""

    def accepted(self, fd: int) -> None:
        self._unknown.add(fd)

    def succeeded(self) -> None:
        self._succeeded += 1
        if self._succeeded > len(self._unknown):  # The one taken for a stranger was a client that left soon.
            self.strangers -= 1
            self._succeeded -= 1
        self._settle()

    def closed(self, fd: int) -> bool:
        """Closed for a reason that was not told. Whether it was a stranger's."""
        if fd not in self._unknown:
            return False
        self._unknown.remove(fd)
        self.strangers += 1
        self._settle()
        return True

    def failed(self, fd: int, *, left: bool) -> bool:
        """Closed in the middle of the greeting, that is known; with `left`, by the other side. Whether it was a stranger's."""
        if fd in self._unknown:
            self._unknown.remove(fd)
        else:  # It was taken for a client, and a client for a stranger.
            self.strangers -= 1
        self.strangers += not left
        self._settle()
        return not left

    def _settle(self) -> None:
        if self._succeeded == len(self._unknown):
            self._unknown.clear()
            self._succeeded = 0
