"""The output gate: which writes become durable together, in a group commit, and which messages wait for them.

Guarantee: a message is released only when every write made before it, by the object that sends it, is durable; never
later than that. If such a write fails, the message is not released but handed back as failed.

Commits are numbered. Writes go into the *open* commit; `cut` closes it and opens the next one; one commit at most is being
made durable. An object's `confirm_seq` is the newest commit that its messages must wait for, so that the output gate is one
comparison of integers. Since the number only grows, an object's messages leave in the order in which they were produced.

Objects of one worker may answer each other before the disk has: what one has seen of another's undurable writes it *inherits*, so
that its own messages wait for them too, and so do those of whoever it tells. That is safe because one log makes all commits of
a worker durable in order: nothing that an heir writes can be durable before what it inherited. Where inherited writes are lost,
the heir is reset with the object that made them.

Rule 1: no file, thread or clock. The shell asks for a cut when none is in flight, and says how it ended.
Rule 2: who waits for what is changed here only. Caches enter themselves (`dirty`, `open_bytes`) as they are written to, and the
host holds the reply of its shortest way itself (`held`): both once a call, where calling a method costs as much as what it does.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from tidegate.runtime.wire.protocol import Origin
    from tidegate.shard.core.cache import ObjectCache
    from tidegate.shard.store.interface import ShardCommit

HeldMessage = tuple[Any, "Origin", Any, int, Any, Any, int]
"""`(sender, origin, request id, status, result, session, digest)`: what `origin` is answered once its commit is durable. The
sender is the owner of a cache, None where the runtime speaks for itself. What is no reply has an origin of its own kind. With a
session, which has numbered the call by its request id, this is the answer that is kept, too, in the commit for which it waits;
the digest says what was called. (A plain tuple, since each call that writes makes one. To make, keep and read it takes 360
instructions, a Struct 770; the whole call takes 28,000.)"""

Inheritance = tuple["ObjectCache", "ObjectCache"]
"""Who has seen undurable writes, and whose."""

NUMBERED_ANSWER_BYTES = 96
"""What the answer to a call of a session takes in a commit at most, with its share of what is said of the session."""

OwnRows = tuple[int, bytes]
"""A shard, and the key under which the runtime keeps rows of its own there."""
OwnWrites = dict[str, bytes | None]


class KeptAnswer(Protocol):
    """The answer to a call with a key, to be made durable with what the call has written."""

    cache: Any
    """Of the object that has given it."""
    size: int
    """What it takes there."""


class NumberedAnswer:
    """An answer that a held message gives and that is kept, apart from the message, which waits longer."""

    __slots__ = ("cache", "message")

    size = NUMBERED_ANSWER_BYTES

    def __init__(self, message: HeldMessage) -> None:
        self.cache = message[0].cache
        self.message = message


class PendingCommit(msgspec.Struct, eq=False):
    """The commit in flight: what `cut` hands out, and `succeeded` or `failed` takes back. Made and filled in one turn, then not
    changed by whoever carries it to the disk; the output gate alone adds to it meanwhile. (A Struct, since a class of Python's
    own takes four times as long to make.)"""

    seq: int
    members: list[ObjectCache]
    """Whose writes it makes durable."""
    heirs: list[Inheritance]
    own: dict[OwnRows, OwnWrites]
    """What the runtime itself has written."""
    answers: list[KeptAnswer]
    """What is kept for keys, beside what `held` says."""
    held: list[HeldMessage] = []
    shards: list[ShardCommit] = []
    """All of that, by shard, as the log and the stores take it."""


class OutputGate:
    """The open commit, the one in flight, and the messages held behind each."""

    __slots__ = (
        "answers",
        "behind",
        "dirty",
        "durable_seq",
        "heirs",
        "held",
        "held_bytes",
        "in_flight",
        "open_bytes",
        "open_seq",
        "own",
        "own_wanted",
        "passing",
        "split_first",
        "split_seq",
    )

    def __init__(self) -> None:
        self.open_seq = 1
        self.durable_seq = 0
        self.dirty: list[ObjectCache] = []
        """Caches with writes since the last cut, in the order of their first write."""
        self.held: list[HeldMessage] = []
        """Messages that wait for the open commit."""
        self.held_bytes = 0
        """What the large ones among them take."""
        self.heirs: list[Inheritance] = []
        """Who has seen writes of the open commit."""
        self.in_flight: PendingCommit | None = None
        self.open_bytes = 0
        """What `dirty` and `answers` take in a commit."""
        self.answers: list[KeptAnswer] = []
        """What is kept for keys: each in the commit that has what its object has written. Most is said by `held` alone."""
        self.passing: dict[tuple[ObjectCache, str], None] = {}
        """Keys that leave their caches once what was written is durable."""
        self.own: dict[OwnRows, OwnWrites] = {}
        """What the runtime itself writes into the open commit."""
        self.own_wanted = False
        """Somebody waits for that; else it goes with whatever is committed next."""
        self.behind: list[ObjectCache] = []
        """Those whose messages wait for what did not fit into the commits before, though they may have written nothing since."""
        self.split_first, self.split_seq = 1, 0
        """The newest commits, without a gap, from which members were left behind."""

    def inherit(self, heir: ObjectCache, source: ObjectCache, seq: int) -> None:
        """`heir` sees what `source` had written up to commit `seq`."""
        if self.split_first <= seq <= self.split_seq:
            seq = self.split_seq + 1  # Its writes may have been left behind.
        if seq <= self.durable_seq or heir is source:
            return
        if heir.confirm_seq < seq:
            heir.confirm_seq = seq
        if self.in_flight is not None and seq == self.in_flight.seq:
            self.in_flight.heirs.append((heir, source))
        else:
            assert seq == self.open_seq, (seq, self.open_seq)
            self.heirs.append((heir, source))

    def first_of(self, seq: int) -> int:
        """The oldest commit of which writes may have been left behind until commit `seq`."""
        return self.split_first if self.split_first <= seq <= self.split_seq + 1 else seq

    def heirs_of(self, source: ObjectCache) -> list[ObjectCache]:
        """Who has seen what `source` has written and is in no commit yet, also through others."""
        seen = [source]
        for each in seen:  # Grows while it is walked.
            seen += {id(heir): heir for heir, of in self.heirs if of is each and heir not in seen}.values()
        return seen[1:]

    # Messages

    def hold(self, confirm_seq: int, sender: Any, origin: Origin, request_id: Any, status: int, result: Any) -> None:
        """Keeps a message until commit `confirm_seq` is durable. The caller has seen that it is not yet."""
        message = (sender, origin, request_id, status, result, None, 0)
        if confirm_seq == self.open_seq:
            self.held.append(message)
        else:
            assert self.in_flight is not None
            assert confirm_seq == self.in_flight.seq, (confirm_seq, self.in_flight.seq)
            self.in_flight.held.append(message)

    @property
    def messages_held(self) -> int:
        return len(self.held) + (0 if self.in_flight is None else len(self.in_flight.held))

    def messages(self) -> Iterator[HeldMessage]:
        """All that wait."""
        yield from self.held
        if self.in_flight is not None:
            yield from self.in_flight.held

    # Commits

    @property
    def cut_seq(self) -> int:
        """The newest commit that was cut: the one in flight, if one is."""
        return self.open_seq - 1

    def durable_with(self, cache: ObjectCache) -> int:
        """The commit with which everything that the cache has is durable; a durable one where it is already."""
        if cache.dirty or cache.cleared:
            return self.open_seq
        return self.durable_seq if cache.committing is None else self.cut_seq

    @property
    def everything_is_durable(self) -> bool:
        """What the runtime has written and nobody waits for does not count."""
        return self.in_flight is None and not self.dirty and not self.answers

    @property
    def can_cut(self) -> bool:
        return self.is_due()

    def is_due(self) -> bool:
        """Whether there is anything to cut, and nothing in flight."""
        if self.in_flight is not None:
            return False
        if self.dirty or self.held:
            return True
        return self.own_wanted or len(self.answers) > 0

    def cut(self, bytes_max: int) -> PendingCommit:
        """Closes the open commit: all its members, or as many as fit in `bytes_max` (at least one). The messages held so far
        wait for it; where members stay behind, all messages wait for the last of them."""
        assert self.in_flight is None, self.in_flight.seq  # Not what its callers are answered.
        members, self.dirty = self.dirty, []
        answers, self.answers = self.answers, []
        if self.open_bytes + NUMBERED_ANSWER_BYTES * len(self.held) > bytes_max:
            answers += self._numbered_answers()
            members, self.dirty, answers, self.answers = self._split(members, answers, bytes_max)
        self.held_bytes = 0
        heirs, self.heirs = self.heirs, []
        own, self.own, self.own_wanted = self.own, {}, False
        commit = self.in_flight = PendingCommit(self.open_seq, members, heirs, own, answers)
        self.open_seq += 1
        if self.dirty or self.answers:  # Some did not fit: what reveals their writes must wait, and nobody may overtake.
            if self.split_seq != commit.seq - 1:
                self.split_first = commit.seq
            self.split_seq = commit.seq
            self.heirs = list(heirs)
            with_answers = (each.cache for each in answers + self.answers)
            waiting = dict.fromkeys([*members, *self.dirty, *(heir for heir, _ in heirs), *with_answers, *self.behind])
            self.behind = [cache for cache in waiting if cache.confirm_seq == commit.seq]
            for cache in self.behind:
                cache.confirm_seq = self.open_seq
            self.open_bytes = self._open_bytes()
        else:
            commit.held, self.held = self.held, commit.held
            self.behind.clear()
            self.open_bytes = 0
        return commit

    def _numbered_answers(self) -> list[NumberedAnswer]:
        """Those that `held` has, apart from it: they go with what their objects have written, the messages may wait longer."""
        held = self.held
        self.held = [message if message[5] is None else (*message[:5], None, 0) for message in held]
        return [NumberedAnswer(message) for message in held if message[5] is not None]

    def _open_bytes(self) -> int:
        return sum(member.dirty_bytes for member in self.dirty) + sum(answer.size for answer in self.answers)

    def _split(self, members: list[ObjectCache], answers: list[KeptAnswer], bytes_max: int) -> tuple[
        list[ObjectCache], list[ObjectCache], list[KeptAnswer], list[KeptAnswer]
    ]:  # fmt: skip
        """Who goes now and who stays, with their answers. Heirs stay, so that nothing of theirs is durable before what they have
        seen; when all are heirs, of each other, all go."""
        heirs = {id(heir) for heir, _ in self.heirs}
        sizes = {id(member): member.dirty_bytes for member in members}
        for answer in answers:
            sizes[id(answer.cache)] = sizes.get(id(answer.cache), 0) + answer.size
        taken: set[int] = set()
        size = 0
        for each, each_bytes in sizes.items():
            if each in heirs:
                continue
            size += each_bytes
            if taken and size > bytes_max:
                break
            taken.add(each)
        if not taken:
            return members, [], answers, []
        return (
            [member for member in members if id(member) in taken],
            [member for member in members if id(member) not in taken],
            [answer for answer in answers if id(answer.cache) in taken],
            [answer for answer in answers if id(answer.cache) not in taken],
        )

    def succeeded(self, commit: PendingCommit) -> None:
        """It is durable. Its held messages may leave."""
        assert commit is self.in_flight, (commit.seq, self.open_seq)
        self.in_flight = None
        self.durable_seq = commit.seq
        if self.passing:
            self.passing = {(cache, key): None for cache, key in self.passing if not cache.let_pass(key)}

    def failed(self, commit: PendingCommit) -> None:
        """It is lost. Its number counts as settled, because nobody may wait for it any longer; the caller resets its members,
        whose messages were never released. What the runtime wrote stays, for a later commit."""
        self.succeeded(commit)
        self.lose_own(commit, {shard for shard, _ in commit.own})

    def lose_own(self, commit: PendingCommit, shards: Container[int]) -> None:
        """What the runtime wrote into these shards stays, for a later commit."""
        for rows, writes in commit.own.items():
            if rows[0] in shards:
                self.own[rows] = {**writes, **self.own.get(rows, {})}

    # Writes that are no member's, and those of a member that leave

    def let_pass(self, cache: ObjectCache, key: str) -> None:
        """The key leaves the cache once what was written is durable."""
        self.passing[cache, key] = None

    def write_own(self, shard: int, object_key: bytes, key: str, raw: bytes | None, *, wanted: bool = False) -> None:
        """A row of the runtime's own. `wanted`: it is worth a commit."""
        self.own.setdefault((shard, object_key), {})[key] = raw
        self.own_wanted |= wanted

    def forget_own(self, shard: int) -> None:
        """The shard is stopped: what the runtime itself has written there and is in no commit is not worth one."""
        self.own = {rows: writes for rows, writes in self.own.items() if rows[0] != shard}
        self.own_wanted = self.own_wanted and bool(self.own)

    def want_own(self) -> None:
        """What the runtime has written is worth a commit, if it has written anything."""
        self.own_wanted = bool(self.own)

    # Answers to calls with a key

    def keep_answer(self, answer: KeptAnswer) -> None:
        """It becomes durable with what its object has written."""
        self.answers.append(answer)
        self.open_bytes += answer.size

    def take_answers(self, cache: ObjectCache) -> list[KeptAnswer]:
        """Its object is reset: what is in no commit yet will be in none."""
        taken = [answer for answer in self.answers if answer.cache is cache]
        if taken:
            self.answers = [answer for answer in self.answers if answer.cache is not cache]
            self.open_bytes -= sum(answer.size for answer in taken)
        return taken

    def forget(self, member: ObjectCache) -> list[HeldMessage]:
        """Drops a member's writes from the open commit, because its object is reset. Returns what the object had said since the
        last cut: it must not leave."""
        if member in self.dirty:
            self.dirty.remove(member)
            self.open_bytes -= member.dirty_bytes
        if self.passing:
            self.passing = {(cache, key): None for cache, key in self.passing if cache is not member}
        discarded = [message for message in self.held if message[0] is member.owner]
        if discarded:
            self.held = [message for message in self.held if message[0] is not member.owner]
        return discarded

    def check_invariants(self) -> None:
        """Recomputes what is kept incrementally. For tests."""
        assert len({id(member) for member in self.dirty}) == len(self.dirty)
        assert self.open_bytes == self._open_bytes()
        in_flight = () if self.in_flight is None else (self.in_flight.seq,)
        assert (self.durable_seq, *in_flight, self.open_seq) == tuple(range(self.durable_seq, self.open_seq + 1))
        assert self.own or not self.own_wanted
