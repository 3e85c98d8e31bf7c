"""A model of nats-server 2.15.1 with one stream, as far as the owner of a shard can tell, with all that was seen of it.

What it does is written down because the real one did it (docs/cluster.md says where): direct reads of a replica that lags behind;
a leader without majority that answers reads from its old tail, takes a publish without ever answering it, and refuses the next
one on its behalf; entries of such a leader that appear later, or never; message ids that are asked before the fence with three
replicas and after it with one, and are forgotten when a server is killed; a fence by subject that goes back when a newest
message is deleted; a purge up to a sequence, or of everything; a stream that is full; a leader whose own store fails behind the
commit, so that it says of a message which the others have that it could not be stored.

`log` is the truth: what a majority has stored. Nothing is taken back from it, but for what operators delete, or lose by
putting an older copy in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple


class Request(NamedTuple):
    data: bytes
    fence: int | None
    subject: str = "log"
    subject_fence: tuple[str, int] | None = None
    """The sequence of the newest message of a subject: what no owner should use."""
    message_id: str = ""


class Stored(NamedTuple):
    sequence: int
    duplicate: bool = False


class Refused(NamedTuple):
    code: int
    description: str


WRONG_SEQUENCE = Refused(10071, "wrong last sequence")
FULL = Refused(10077, "maximum bytes exceeded")
NO_RESOURCES = Refused(10023, "insufficient resources")
STORE_FAILED = Refused(10077, "no space left on device")
Reply = Stored | Refused | None
"""None: no answer will come."""
BATCH = 16


class Engine:
    def __init__(self, chance: Random, replicas: int, stored: Callable[[int, Request], object]) -> None:
        """`stored` is told of each message when it becomes true."""
        self.replicas = replicas
        self.log: list[Request] = []
        self.gone: set[int] = set()
        """Sequences of messages that were deleted."""
        self.first = 1
        """Of what was not purged."""
        self.room = 10**9
        """How many messages it keeps at most."""
        self.full = FULL
        """What it says then."""
        self.store_fails = False
        """The leader's own, for the next message that is committed."""
        self.has_leader = True
        self.seen = [0] * replicas
        """By replica, how far it has got. The first one leads and has everything, if there is a leader."""
        self.lags = True
        """Replicas get on only when they are told to; otherwise, at once."""
        self.ids: dict[str, int] = {}
        self.deposed: list[Request] | None = None
        """A leader that has lost its majority, by what it has taken in since; it answers from `deposed_at`."""
        self.deposed_at = 0
        self._may_survive = False
        """Nobody else was elected: what the deposed leader has may still become true."""
        self._chance = chance
        self._stored = stored

    # Publishing

    def publish(self, request: Request, *, at_deposed: bool) -> Reply:
        if at_deposed and self.deposed is not None:
            return self._publish_at_deposed(request)
        if not self.has_leader:
            return None
        known = self.ids.get(request.message_id) if request.message_id else None
        if self.replicas > 1 and known is not None:
            return Stored(known, duplicate=True)
        if len(self.log) - self.first + 1 >= self.room:
            return self.full
        if not self._fence_holds(request, len(self.log)):
            return WRONG_SEQUENCE
        if known is not None:
            return Stored(known, duplicate=True)
        sequence = self._store(request)
        if self.store_fails:
            self.store_fails = False
            return STORE_FAILED
        return Stored(sequence)

    def _publish_at_deposed(self, request: Request) -> Reply:
        assert self.deposed is not None
        if not self._fence_holds(request, self.deposed_at + len(self.deposed)):
            return WRONG_SEQUENCE
        self.deposed.append(request)
        return None

    def _fence_holds(self, request: Request, last: int) -> bool:
        if request.subject_fence is not None:
            subject, expected = request.subject_fence
            return self._last_of(subject) == expected
        return request.fence is None or request.fence == last

    def _last_of(self, subject: str) -> int:
        """What makes that fence useless: it looks at what is there now."""
        for sequence in range(len(self.log), self.first - 1, -1):
            if sequence not in self.gone and self.log[sequence - 1].subject == subject:
                return sequence
        return 0

    def _store(self, request: Request) -> int:
        self.log.append(request)
        sequence = len(self.log)
        if request.message_id:
            self.ids[request.message_id] = sequence
        self.seen[0] = sequence
        if not self.lags:
            self.seen = [sequence] * self.replicas
        self._stored(sequence, request)
        return sequence

    # Reading

    def read(self, start: int, replica: int, *, at_deposed: bool) -> list[tuple[int, bytes]] | None:
        """What the replica knows; None: no answer. Not even a leader is up to date, if it is one that has just woken up."""
        if at_deposed and self.deposed is not None:
            last = self.deposed_at
        else:
            last = self.seen[replica % self.replicas]
        start = max(start, self.first)
        stop = min(last, start + BATCH - 1)
        return [(each, self.log[each - 1].data) for each in range(start, stop + 1) if each not in self.gone]

    def look(self, *, at_deposed: bool) -> tuple[int, int] | None:
        """The first sequence that is there, behind the last one where there is none, and the last one."""
        if at_deposed and self.deposed is not None:
            return self.first, self.deposed_at
        return (self.first, len(self.log)) if self.has_leader else None

    def catch_up(self, replica: int) -> None:
        self.seen[replica] = len(self.log)

    # What happens to it

    def lose_majority(self) -> None:
        """The leader is cut off from the others, and does not know it yet."""
        if self.has_leader and self.replicas > 1:
            self.deposed, self.deposed_at, self._may_survive = [], len(self.log), True
            self.has_leader = False

    def elect(self) -> None:
        """Another leader. What the old one had taken in may have reached it, up to some entry."""
        if self.has_leader:
            return
        if self.deposed and self._may_survive:
            self._survive(self._chance.randint(0, len(self.deposed)))
        self._may_survive = False
        self.has_leader = True
        self.seen = [len(self.log), *(self._chance.randint(each, len(self.log)) for each in self.seen[1:])]

    def heal(self) -> None:
        """The deposed leader is back among the others: as their leader, if they had none meanwhile."""
        if self.deposed is not None and self._may_survive:
            self._survive(len(self.deposed))
        self.deposed, self._may_survive = None, False
        self.has_leader = True
        self.seen[0] = len(self.log)

    def kill(self) -> None:
        """The leader is killed: ids are forgotten. With one replica it comes back at `elect`."""
        self.deposed, self._may_survive = None, False
        self.has_leader = False
        self.ids = {}

    def _survive(self, count: int) -> None:
        """Each was checked against the one before it when it was taken in, and is again now."""
        assert self.deposed is not None
        for request in self.deposed[:count]:
            if self._fence_holds(request, len(self.log)):
                self._store(request)
        self.deposed = []

    # What owners and operators do to it

    def purge(self, before: int) -> None:
        """Removes what is before that sequence. The newest message stays, whatever is asked."""
        self.first = max(self.first, min(before, len(self.log)))

    def purge_everything(self) -> None:
        self.first = len(self.log) + 1

    def restore(self, last: int) -> None:
        """An older copy, in which that message is the last one, is put in its place."""
        del self.log[last:]
        self.seen = [last] * self.replicas
        self.first = min(self.first, last + 1)
        self.gone = {each for each in self.gone if each <= last}
        self.ids = {}
        self.deposed, self._may_survive = None, False
        self.has_leader = True

    def delete(self, sequence: int) -> None:
        self.gone.add(sequence)

    def delete_newest_of(self, subject: str) -> None:
        """As one that expires."""
        if sequence := self._last_of(subject):
            self.gone.add(sequence)
