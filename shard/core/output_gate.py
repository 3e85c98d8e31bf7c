"""Group commit and output gate: which writes become durable together, and which messages wait for them.

Guarantee: a message is released only when every write made before it, by the object that sends it, is durable; never
later than that. If such a write fails, the message is not released but handed back as failed.

Commits are numbered. Writes go into the *open* commit; `cut` closes it and opens the next one; one commit at most is being
made durable. An object's `confirm_seq` is the newest commit that its messages must wait for, so that the output gate is one
comparison of integers. Since the number only grows, an object's messages leave in the order in which they were produced.

Objects of one worker may answer each other before the disk has: what one has seen of another's undurable writes it *inherits*, so
that its own messages wait for them too, and so do those of whoever it tells. That is safe because one log makes all commits of
a worker durable in order: nothing that an heir writes can be durable before what it inherited. Where inherited writes are lost,
the heir is reset with the object that made them.

Rule: no file, thread or clock. The shell asks for a cut when none is in flight, and says how it ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidegate.shard.core.cache import ObjectCache

Inheritance = tuple["ObjectCache", "ObjectCache"]
"""Who has seen undurable writes, and whose."""

OwnRows = tuple[int, bytes]
"""A shard, and the key under which the runtime keeps rows of its own there."""
OwnWrites = dict[str, bytes | None]


class Commit:
    """The commit in flight: what it makes durable, and the messages that wait for it."""

    __slots__ = ("heirs", "held", "members", "own", "seq")

    def __init__(
        self, seq: int, members: list[ObjectCache], held: list[Any], heirs: list[Inheritance], own: dict[OwnRows, OwnWrites]
    ) -> None:
        self.seq = seq
        self.members = members
        self.held = held
        self.heirs = heirs
        self.own = own


class OutputGate:
    """The open commit, the one in flight, and the messages held behind each."""

    __slots__ = (
        "dirty",
        "durable_seq",
        "heirs",
        "held",
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
        self.held: list[Any] = []
        """Messages that wait for the open commit."""
        self.heirs: list[Inheritance] = []
        """Who has seen writes of the open commit."""
        self.in_flight: Commit | None = None
        self.open_bytes = 0
        self.passing: dict[tuple[ObjectCache, str], None] = {}
        """Keys that leave their caches once what was written is durable."""
        self.own: dict[OwnRows, OwnWrites] = {}
        """What the runtime itself writes into the open commit."""
        self.own_wanted = False
        """Somebody waits for that; else it goes with whatever is committed next."""
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

    def hold(self, confirm_seq: int, message: Any) -> None:
        """Keeps a message until commit `confirm_seq` is durable. The caller has seen that it is not yet."""
        if confirm_seq == self.open_seq:
            self.held.append(message)
        else:
            assert self.in_flight is not None
            assert confirm_seq == self.in_flight.seq, (confirm_seq, self.in_flight.seq)
            self.in_flight.held.append(message)

    @property
    def can_cut(self) -> bool:
        return self.in_flight is None and bool(self.dirty or self.held or self.own_wanted)

    def cut(self, bytes_max: int) -> Commit:
        """Closes the open commit: all its members, or as many as fit in `bytes_max` (at least one). The messages held so far
        wait for it; where members stay behind, all messages wait for the last of them."""
        assert self.can_cut
        members, self.dirty = self.dirty, []
        if self.open_bytes > bytes_max:
            members, self.dirty = self._split(members, bytes_max)
        self.open_bytes = sum(member.dirty_bytes for member in self.dirty)
        heirs, self.heirs = self.heirs, []
        own, self.own, self.own_wanted = self.own, {}, False
        commit = self.in_flight = Commit(self.open_seq, members, [], heirs, own)
        self.open_seq += 1
        if self.dirty:  # Some did not fit: what reveals their writes must wait for the next commit, and nobody may overtake.
            if self.split_seq != commit.seq - 1:
                self.split_first = commit.seq
            self.split_seq = commit.seq
            self.heirs = list(heirs)
            for cache in [*members, *self.dirty, *(heir for heir, _ in heirs)]:
                if cache.confirm_seq == commit.seq:
                    cache.confirm_seq = self.open_seq
        else:
            commit.held, self.held = self.held, []
        return commit

    def _split(self, members: list[ObjectCache], bytes_max: int) -> tuple[list[ObjectCache], list[ObjectCache]]:
        """Who goes now and who stays. Heirs stay, so that nothing of theirs is durable before what they have seen; when all
        are heirs, of each other, all go."""
        heirs = {id(heir) for heir, _ in self.heirs}
        taken: list[ObjectCache] = []
        size = 0
        for member in members:
            if id(member) in heirs:
                continue
            if taken and size + member.dirty_bytes > bytes_max:
                break
            taken.append(member)
            size += member.dirty_bytes
        if not taken:
            return members, []
        gone = {id(member) for member in taken}
        return taken, [member for member in members if id(member) not in gone]

    def succeeded(self) -> Commit:
        """The commit in flight is durable. Its held messages may leave."""
        commit = self.in_flight
        assert commit is not None
        self.in_flight = None
        self.durable_seq = commit.seq
        if self.passing:
            self.passing = {(cache, key): None for cache, key in self.passing if not cache.let_pass(key)}
        return commit

    def failed(self) -> Commit:
        """The commit in flight is lost. Its number counts as settled, because nobody may wait for it any longer; the
        caller resets its members, whose messages were never released. What the runtime wrote stays, for a later commit."""
        commit = self.succeeded()
        for rows, writes in commit.own.items():
            self.own[rows] = {**writes, **self.own.get(rows, {})}
        return commit

    def write_own(self, shard: int, object_key: bytes, key: str, raw: bytes | None, *, wanted: bool = False) -> None:
        """A row of the runtime's own. `wanted`: it is worth a commit."""
        self.own.setdefault((shard, object_key), {})[key] = raw
        self.own_wanted |= wanted

    def forget(self, member: ObjectCache) -> None:
        """Drops a member's writes from the open commit, because its object is reset."""
        if member in self.dirty:
            self.dirty.remove(member)
            self.open_bytes -= member.dirty_bytes
        if self.passing:
            self.passing = {(cache, key): None for cache, key in self.passing if cache is not member}
