"""Snapshots of states that are kept where a shared log is: who keeps them, for a worker, and what operators wish and are told.

The same wish is said again and again until it has an end, so that nothing is lost with a message, and whoever takes the shard
meanwhile hears of it. Each time the owner says how far it is.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Meta

ENDS = frozenset({"taken", "kept", "failed"})
"""States of a wish after which nothing more comes."""


class KeptSnapshot(NamedTuple):
    sequence: int
    """The message of the stream behind which it is."""
    file_bytes: int
    packed_bytes: int
    taken_ms: int
    """Unix time."""


class SnapshotWish(msgspec.Struct, frozen=True):
    shard: Annotated[int, Meta(ge=0)]
    id: Annotated[str, Meta(min_length=1, max_length=64)]
    """Whoever says it again means the same snapshot."""


class SnapshotSaid(msgspec.Struct, frozen=True):
    """Of a wish."""

    shard: int
    state: Literal["waits", "begun", "taken", "kept", "failed"]
    """`waits`: those of other shards are taken before. `kept`: there is one already that has everything."""
    snapshot: KeptSnapshot | None = None
    """Of one that is there."""
    why: str = ""
    """Of one that failed, in words."""
    next: str = ""
    """What to do about it."""
    by: str = ""
    """Who says so, in words for operators."""


Heard = Callable[[SnapshotWish], "Future[SnapshotSaid | None]"]
"""What is to be answered. None: nothing, since the shard is somebody else's."""


class Snapshots(Protocol):
    """Of states, kept where a shared log is. Each method blocks, on any thread but the loop's, and raises OperatorError."""

    def listen(self, heard: Heard) -> None:
        """`heard` is told of wishes of operators, on another thread, from the first question of the others on. Does not block."""
        ...

    def is_due(self, shard: int) -> bool: ...

    def kept(self, shard: int, mark: bytes) -> KeptSnapshot | None:
        """The newest that is whole, if it has all that a data file with that mark has."""
        ...

    def take(self, shard: int, file: Path, mark: bytes, commit: int) -> KeptSnapshot:
        """Of a data file that has that mark, and is up to that commit. The log may forget what earlier ones have."""
        ...
