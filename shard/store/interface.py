"""What the rules of objects and the store have in common: the records that go down, and how reads come up.

Rule 1: nothing above the store imports another file of it, but for the worker, which puts them together.
Rule 2: no thread and no file; whoever implements `Reader` has those (see `tidegate.shard.store.state.thread_reader`).
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, Protocol

import msgspec

from tidegate.runtime.errors import OperatorError

HEADER: Final = ""
"""The key under which an object keeps what the runtime knows about it. Never visible to user code, whose keys are not empty."""


NAMES_KEY: Final = b"\xf8" * 16
"""Object key of the index of names, see `store.names`. Object keys begin with a slot, so with a byte below 0x40."""


class Unknown(enum.Enum):
    """The type of `UNKNOWN`; an enum because type checkers follow `is` comparisons with its only member."""

    UNKNOWN = enum.auto()


UNKNOWN: Final = Unknown.UNKNOWN


class ObjectWrites(msgspec.Struct, array_like=True, gc=False):
    """What one commit changes in one object. `gc=False`: it holds bytes and strings only, so it is never part of a cycle."""

    key: bytes
    """The object key (see `tidegate.runtime.ids.object_key`)."""
    cleared: bool
    """Everything the object had before is gone; `writes` come after that."""
    writes: dict[str, bytes | None]
    """New value by key, None where the key is deleted. The key "" is the object's header."""


OK: Final = 0
ERROR: Final = 1
STARTED: Final = 2
TOO_LARGE: Final = 3
JSON: Final = 4
"""What a call with a key has come to: a result; an error; it has written and not ended; a result that was too large to keep.
`JSON` is added where the result is the text of a JSON value."""


SESSION_CHARACTERS_MAX: Final = 22


def number_of(key: int | str) -> int:
    """Of a key in a session: the number of the call that the client has made."""
    return key if isinstance(key, int) else int(key.partition("~")[0])


class Answer(msgspec.Struct, array_like=True, gc=False):
    """What a call with a key was answered. `gc=False`: its result is bytes or a scalar, so it is never part of a cycle."""

    group: str
    """The session that has numbered the call (22 characters at most); of a plain key, the object key (32 hexadecimal digits)."""
    key: int | str
    """In the group: the number in the session (of a call that such a call has made: number, `~`, its own key), or a plain key."""
    answered: int
    """The calls of the session with a smaller number have been answered to their caller."""
    digest: int
    """Of what was called, with which arguments."""
    status: int
    result: msgspec.Raw
    """Read from the log or the state it is MessagePack. One that was just given may be a scalar, as it is."""
    size: int = 0
    """Of the result in bytes, where that may be many."""
    since_s: int = 0
    """Unix time of the commit."""
    row: int = 0
    """Where it is kept: see `answers`."""


class AnswerRoll(msgspec.Struct, array_like=True, gc=False):
    """The short answers that one commit has given to calls of one session. `gc=False`: it holds bytes and numbers only."""

    session: str
    answered: int
    since_s: int
    newest: int
    """The largest number among them."""
    count: int
    answers: msgspec.Raw
    """MessagePack: number, digest and result of the first, of the second, and so on, in the order of the numbers; each status is
    OK. (Flat and packed: there may be thousands in a commit, and nearly all are freed without being looked at.)"""
    row: int = 0
    """Where it is kept: see `answers`."""

    def told(self, number: int) -> tuple[int, int, bool | int | float | None] | None:
        """What the call of that number was answered: digest, status, result."""
        rolled = _decode_rolled(self.answers)
        numbers = rolled[::3]
        at = bisect_left(numbers, number)
        if at == len(numbers) or numbers[at] != number:
            return None
        return rolled[3 * at + 1], OK, rolled[3 * at + 2]


_decode_rolled: Callable[[msgspec.Raw], list[Any]] = msgspec.msgpack.Decoder(list[Any]).decode


class ShardCommit(msgspec.Struct, array_like=True, gc=False):
    """One shard's part of a group commit. `seq` grows by one from commit to commit of the shard, across workers and starts."""

    shard: int
    seq: int
    objects: list[ObjectWrites]
    answers: list[Answer] = []
    """Given to calls with a key, in this order."""
    rolls: list[AnswerRoll] = []
    """The short ones of sessions, which are most of them."""


class ShardDamaged(OperatorError):
    """What this shard has on disk is damaged, missing or too old. It is stopped: nothing of it runs until an operator has mended
    it. The worker's other shards are served."""

    def __init__(self, shard: int, operation: str, place: object, problem: str, hint: str | None = None) -> None:
        super().__init__(operation, place, problem, hint or mend_hint(shard))
        self.shard = shard


class ShardUnwritable(ShardDamaged):
    """The disk failed again and again when the shard was to be brought up to date. Nothing is known to be damaged: once its state
    can be written it is served again, and nobody has to do anything for that but mend the disk."""

    def __init__(self, shard: int, operation: str, place: object, problem: str) -> None:
        hint = f"check the disk and the kernel's log; as soon as shard {shard} can be written, it is served again by itself"
        super().__init__(shard, operation, place, problem, hint)


class ShardElsewhere(ShardDamaged):
    """Another host owns the shard. What it has here is the cache of a log that goes on elsewhere; nothing is damaged. `undone`:
    the commit that was being made is not durable and never will be; else nobody here knows."""

    def __init__(self, shard: int, operation: str, place: object, problem: str, *, undone: bool) -> None:
        hint = "ask the host that serves it; this one has it again when it is started again and claims it"
        super().__init__(shard, operation, place, problem, hint)
        self.undone = undone


class ShardUnwanted(ShardDamaged):
    """It was to be had, and was not any longer when it could have been claimed: nothing was done to it, and its owner was not
    disturbed. `mark`: how far it was read, which is worth keeping."""

    def __init__(self, shard: int, mark: bytes) -> None:
        self.mark = mark
        super().__init__(shard, "claim", f"shard {shard}", "it is not to be had here any longer", "nothing is to be done")


class ShardUnreachable(ShardDamaged):
    """The servers that keep its log did not answer when it was to be claimed. Nothing is known to be damaged: once they answer it
    is claimed again, and nobody has to do anything for that but see to the servers."""

    def __init__(self, shard: int, operation: str, place: object, problem: str) -> None:
        hint = f"see that most of the servers run and find each other; soon after shard {shard} is served again by itself"
        super().__init__(shard, operation, place, problem, hint)


class ShardLeftBehind(ShardDamaged):
    """What the state here lacks is no longer in the log that others keep: it was purged behind a snapshot, which is needed now.
    Nothing is known to be damaged, unless there is none."""

    def __init__(self, shard: int, operation: str, place: object, problem: str, has: int) -> None:
        """`has`: up to there, by the log's own counting, it is here."""
        super().__init__(shard, operation, place, problem, "it is fetched")
        self.has = has


class PartlyStored(Exception):
    """A record whose parts are stored apart, shard by shard: those of `failed` are not, for the reason given; the others are
    durable, at this position."""

    def __init__(self, position: int, failed: Mapping[int, OperatorError]) -> None:
        super().__init__(f"{len(failed)} shards: {next(iter(failed.values()))}")
        self.position = position
        self.failed = failed


def mend_hint(shard: int) -> str:
    return (
        f"shard {shard} is stopped, the others are served: stop the service, then see `tidegate check`, and `tidegate restore` a "
        f"backup or run `tidegate repair --shard {shard}`"
    )


class Snapshot(Protocol):
    """The rows of a state as they were when it was taken. Used by one thread at a time, then closed."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, end: bytes, reverse: bool) -> Generator[tuple[bytes, bytes], None, None]: ...

    def close(self) -> None: ...


Fetch = Callable[[Snapshot], Any]
"""What is looked up in a snapshot; it may be called in another thread, and touches nothing else."""
Done = Callable[[Any, Exception | None], object]
"""Told the result of a `Fetch`, or its error, on the loop."""


class Reader(Protocol):
    """Where reads wait for the disk without holding up the loop."""

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False, many_pages: bool = False) -> None:
        """Calls `fetch`, closes the snapshot, then calls `done` in a later turn of the loop. `first`: before those that were
        asked earlier. `many_pages`: it may wait for as many of them, so never on the loop."""
        ...
