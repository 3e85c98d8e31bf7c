"""What one host makes of what it hears: who is there, what it should serve, where everybody else's shards are, and whether a new
placement is due that it has to write.

Rule 1: pure. It knows no clock: time is counted in *own beats*, those of this host that have come back from the servers. So a
host that was asleep, or cut off, takes nobody for lost: it has heard nothing of itself either.
Rule 2: a host of which nothing new was heard during `LOST_BEATS` own beats is lost. That is a guess, and costs calls at most:
who may append to the log of a shard is decided by the log.
Rule 3: a shard is claimed when nobody who is there has it any longer, or `TAKE_BEATS` after that was due. Whoever says that he
gives it is waited for: how long its calls may take to end is his to say. It is given when the next one has read what there is of
it, so that its calls wait for the rest only. While that one says that it reads, or cannot read, the shard stays where it is
served, and is not claimed; where it says nothing of the kind, that ends after `AHEAD_BEATS`.
Rule 4: what somebody says of the placement is believed, unless reads of it say otherwise for `DOUBT_BEATS`. Then it is theirs to
be wrong, or the record was put back to an older one; that is true where the older one could be replaced.
Rule 5: the placement is replaced by whoever comes first in the order of ids of those who are there; the others wait a little
longer, each in its turn, and then do it themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from tidegate.runtime.cluster.placement import next_placement
from tidegate.runtime.cluster.records import Beat, ClusterPlacement, Loss, PlacedHost

BEAT_S = 0.5
LOST_BEATS = 6
"""3 s."""
SETTLE_BEATS = 2
"""A host that has just come has heard everybody after so many."""
TURN_BEATS = 2
"""So much longer than the one before does each host wait before it replaces a placement that is out of date."""
TAKE_BEATS = 20
"""After so many a shard is claimed from a host that should have given it."""
AHEAD_BEATS = 600
"""For so long, 5 minutes, a shard is kept for the next one to say that it reads, or has read, what there is of it. No call waits
for that."""
LEAVING_SHARE = 4
"""A host that is about to stop has so much time for all that it gives; of that this part is for others to read."""
LEAVING_BEATS_MIN = 2
"""Nobody can have read, and said so, in less: then nobody is waited for."""
CLAIM_BEATS = 60
"""A claim that has not come to its end after so many is given up for one beat, and begins again."""
RETURN_BEATS = 10
"""A host that was lost gets shards again when it has been there for so many; each time it is lost again, for twice as many."""
RETURN_BEATS_MAX = 1_200
DOUBT_BEATS = 20
"""For so long reads may be older than what others, or this host, know of the placement."""
FORGET_BEATS = 120
"""A host that is there no longer, and gets no shards, is remembered for so long: what it had said may still be on its way."""
FORGET_LOSS_BEATS = 7 * 24 * 3_600 * 2
"""A week, as far as this host was there: then nobody need be told any more that a host was lost."""
HOSTS_MAX = 256
"""That are there; of others nothing is heard. So many lost ones are told of."""


class Peer:
    """Another host, as far as it was heard of."""

    __slots__ = ("beat", "came_at", "heard_at", "is_doubted", "unfound_since")

    def __init__(self, beat: Beat, now: int) -> None:
        self.beat = beat
        self.heard_at = self.came_at = now
        """In own beats; the second: since then it has not been lost."""
        self.unfound_since: int | None = None
        """Since when it names a placement that reads do not find."""
        self.is_doubted = False
        """It has done so for too long: that it knows a newer placement is believed no longer."""


class MemberMachine:
    """Ask `target`, `homes` and `proposal` after whatever was told."""

    def __init__(self, me: Beat, shards: int) -> None:
        """`me`: as the first beat is to be."""
        self.me = me
        self.shards = shards
        self.placement: ClusterPlacement | None = None
        self.revision = -1
        self._older: tuple[int, int] | None = None
        """The revision of which reads are that are older than `revision`, and since when all of them are."""
        self.target: frozenset[int] = frozenset()
        """What this host should claim, or keep."""
        self.ahead: frozenset[int] = frozenset()
        """What this host should have and another one serves: it should read what there is of it."""
        self.twin: Beat | None = None
        """Another process that says it is this host."""
        self._owned: frozenset[int] = frozenset()
        self._ready: frozenset[int] = frozenset()
        """What it has read ahead."""
        self._reads: frozenset[int] = frozenset()
        """What it has still to read."""
        self._leaving_beats = 0
        """For so long it keeps shards for others to read, if it is about to stop."""
        self._peers: dict[str, Peer] = {}
        self._echoed = self._echo = 0
        """How many own beats have come back, and the number of the last one."""
        self._losses: dict[str, tuple[Loss, int]] = {}
        """By host: as which it is known to have been lost, and since when this host knows."""
        self._due_since: int | None = None
        """Since when a new placement is due."""
        self._wanted_since: dict[int, int] = {}
        """By shard that this host should have and has not: since when it is claimed, or waits to be."""
        self._kept_since: dict[tuple[int, str], int] = {}
        """By shard that another host should have, and that host: since when it is kept, and not said to be read."""
        self._given_up: dict[int, int] = {}
        """When the claim of a shard was given up the last time."""

    # What is told

    def beat(self) -> Beat:
        """The next one, to be said every `BEAT_S`."""
        self.me = self._say(number=self.me.number + 1)
        return self.me

    def word(self) -> Beat:
        """To be said at once, where something has changed: it counts for no beat."""
        self.me = self._say(number=self.me.number)
        return self.me

    def last_word(self) -> Beat:
        """Goodbye; whatever is said later says the same."""
        self.me = msgspec.structs.replace(self.me, gone=True)
        return self.word()

    def heard(self, beat: Beat) -> bool:
        """Whether it says anything new of a host. Raises ValueError for what no host of this cluster says."""
        if beat.id == self.me.id:
            self._heard_own(beat)
            return False
        peer = self._peers.get(beat.id)
        if any(not 0 <= shard < self.shards for shard in (*beat.serves, *beat.gives, *(beat.ready or ()), *beat.reads)):
            raise ValueError(f"a beat of {beat.name} names a shard that is none of {self.shards}")
        if peer is None and len(self._peers) >= HOSTS_MAX - 1 and not self._forget(0):
            raise ValueError(f"{beat.name} is one host more than the {HOSTS_MAX} that a cluster may have")
        if peer is not None and beat.run == peer.beat.run and beat.said <= peer.beat.said:
            return False
        if peer is None or self._is_lost(peer) or peer.beat.gone:
            peer = self._peers[beat.id] = Peer(beat, self._echoed)
            self._look()
            return True
        before = peer.beat
        peer.beat, peer.heard_at = beat, self._echoed
        is_new = _news(before) != _news(beat)
        if is_new:
            self._look()
        return is_new

    def read(self, placement: ClusterPlacement, revision: int) -> bool:
        """It may be an old one; the empty one has revision 0. Whether it is newer than what was known."""
        is_older = revision < self.revision
        self._older = (revision, self._older[1] if self._older is not None else self._echoed) if is_older else None
        if revision <= self.revision:
            self._note_unfound()
            return False
        if len(placement.owners) != self.shards:
            raise ValueError(f"a placement of {len(placement.owners)} shards; there are {self.shards}")
        known = self._losses
        self._losses = {
            id: known[id] if id in known and known[id][0] == loss else (loss, self._echoed)
            for id, loss in placement.losses.items()
        }
        self.placement, self.revision = placement, revision
        self._due_since = None
        for peer in self._peers.values():
            peer.unfound_since = None
        self._note_unfound()
        self._look()
        return True

    def was_put_back(self, revision: int) -> None:
        """That revision, older than what was known, was the newest of the record, and has been replaced by what is known here."""
        self.revision, self._older = revision, None

    def owns(self, shards: Iterable[int]) -> bool:
        """The shards that the workers of this host have now, those included that they still give. Whether that is news."""
        owned = frozenset(shards)
        if owned == self._owned:
            return False
        self._owned = owned
        self._look()
        return True

    def has_read(self, shards: Iterable[int], reads: Iterable[int] = ()) -> bool:
        """Of those to be read `ahead`: what there is of these was read, and of those `reads` has still to be. Whether that is
        news."""
        ready, unread = frozenset(shards), frozenset(reads)
        if (ready, unread) == (self._ready, self._reads):
            return False
        changed = (ready ^ self._ready) | (unread ^ self._reads)
        self._wanted_since.update((shard, self._echoed) for shard in changed if shard in self._wanted_since.keys() - self.target)
        self._ready, self._reads = ready, unread
        return True

    def describes(self, door: str, version: str) -> bool:
        """Where this host is, and what it runs. Whether that is news."""
        before, self.me = self.me, msgspec.structs.replace(self.me, door=door, version=version)
        return self.me != before

    def load_is(self, calls_per_s: Mapping[int, float]) -> None:
        """Of this host, by shard. That is no news: it is said with the next beat."""
        self.me = msgspec.structs.replace(self.me, loads={shard: round(rate, 2) for shard, rate in sorted(calls_per_s.items())})

    def retires(self, within_s: float) -> None:
        """This host is about to stop, and has so long for what it gives."""
        self.me = msgspec.structs.replace(self.me, leaving=True)
        beats = int(within_s / LEAVING_SHARE / BEAT_S)
        self._leaving_beats = beats if beats >= LEAVING_BEATS_MIN else 0

    # What is asked

    def hands_over(self) -> bool:
        """Whether it has something yet, and another host is there that could take it."""
        draining = frozenset[str]() if self.placement is None else self.placement.draining
        others = (beat for id, beat in self.live().items() if id != self.me.id and id not in draining)
        return bool(self._owned) and any(not beat.leaving for beat in others)

    @property
    def newest_echo(self) -> int:
        """The number of the newest own beat that has come back."""
        return self._echo

    @property
    def is_behind(self) -> bool:
        """Somebody knows of a newer placement, who can be believed."""
        return any(peer.beat.revision > self.revision and not peer.is_doubted for peer in self._there().values())

    @property
    def put_back(self) -> int | None:
        """The revision of the record, where it seems to have been put back to an older one, or made anew."""
        if self._older is None or self._echoed - self._older[1] < DOUBT_BEATS:
            return None
        return self._older[0]

    def live(self) -> dict[str, Beat]:
        """Who is there, this host among them."""
        there = {id: peer.beat for id, peer in self._there().items()}
        return dict(sorted({**there, self.me.id: self._say()}.items()))

    def homes(self) -> dict[int, str]:
        """Which other host serves a shard, by shard. What nobody serves, and what this host does, is not among them."""
        found: dict[int, str] = {}
        for id, beat in self.live().items():
            for shard in beat.serves:
                if id != self.me.id and shard not in self._owned and self._prefers(shard, id, found.get(shard)):
                    found[shard] = id
        return found

    def doors(self) -> dict[str, str]:
        """Where each of the other hosts that are there listens for calls of hosts, by id."""
        return {id: beat.door for id, beat in self.live().items() if id != self.me.id}

    def proposal(self) -> ClusterPlacement | None:
        """What the placement of this revision has to be replaced by, and that it is this host's turn to do so."""
        if self.placement is None or self._echoed < SETTLE_BEATS or self.is_behind:
            return None
        if self._echoed < LOST_BEATS and self.placement.hosts.keys() - self.live().keys() - self._left():
            return None  # They may be starting just now, like this one.
        following = self._following(self.placement)
        if following == self.placement:
            self._due_since = None
            return None
        if self._due_since is None:
            self._due_since = self._echoed
        turn = list(self.live()).index(self.me.id)
        return following if self._echoed - self._due_since >= turn * TURN_BEATS else None

    def has_news_since(self, said: Beat) -> bool:
        """Whether others would hear something new of this host."""
        return _news(self._say()) != _news(said)

    def lost(self) -> dict[str, str]:
        """Names of hosts that others have to do without, by id."""
        live = self.live()
        losses = self.placement.losses if self.placement is not None else {}
        return {id: loss.name for id, loss in losses.items() if id not in live}

    # Within

    def _say(self, *, number: int | None = None) -> Beat:
        """What is true now, under a new number for the message where one is given."""
        told = {} if number is None else {"number": number, "said": self.me.said + 1}
        serves, gives = (self._owned & self.target, self._owned - self.target) if not self.me.gone else ((), ())
        ready, reads = (self._ready & self.ahead, self._reads & self.ahead) if not self.me.gone else ((), ())
        sets = {"serves": serves, "gives": gives, "ready": ready, "reads": reads}
        has = {name: tuple(sorted(shards)) for name, shards in sets.items()}
        return msgspec.structs.replace(self.me, revision=max(self.revision, 0), **told, **has)

    def _heard_own(self, beat: Beat) -> None:
        if beat.run != self.me.run:
            if not beat.gone:
                self.twin = beat
        elif beat.number > self._echo:
            self._echo = beat.number
            self._echoed += 1
            self._forget(FORGET_BEATS)
            self._look()

    def _there(self) -> dict[str, Peer]:
        """The others that are there."""
        return {id: peer for id, peer in self._peers.items() if not self._is_lost(peer) and not peer.beat.gone}

    def _forget(self, after: int) -> bool:
        """Those that are there no longer for so many beats, and that nobody has to find a place for. Whether there are any."""
        placed = self.placement.hosts.keys() if self.placement is not None else frozenset[str]()
        away = self._peers.keys() - self._there().keys() - placed
        forgotten = [id for id in away if self._echoed - self._peers[id].heard_at >= after]
        for id in forgotten:
            del self._peers[id]
        return bool(forgotten)

    def _note_unfound(self) -> None:
        """A read has come; who says that there is a newer placement than was found up to now?"""
        for peer in self._peers.values():
            if peer.beat.revision <= self.revision:
                peer.unfound_since, peer.is_doubted = None, False
            elif peer.unfound_since is None:
                peer.unfound_since = self._echoed
            elif self._echoed - peer.unfound_since >= DOUBT_BEATS and not peer.is_doubted:
                peer.is_doubted = True
                self._look()

    def _is_lost(self, peer: Peer) -> bool:
        return self._echoed - peer.heard_at >= LOST_BEATS

    def _following(self, placement: ClusterPlacement) -> ClusterPlacement:
        live = self.live()
        present: dict[str, PlacedHost] = {}
        for id, beat in live.items():
            if id in placement.hosts or self._may_come(id, beat, placement):
                present[id] = PlacedHost(beat.name, beat.weight, beat.run)
        serving: dict[int, str] = {}
        for id, beat in live.items():
            for shard in (*beat.serves, *beat.gives):
                if serving.get(shard) is None or placement.owners[shard] == id:
                    serving[shard] = id
        leaving = {id for id, beat in live.items() if beat.leaving}
        losses = {id: loss for id, loss in placement.losses.items() if id not in self._old_losses()}
        reading = {shard for id, beat in live.items() for shard in beat.reads if placement.owners[shard] == id}
        placement = msgspec.structs.replace(placement, losses=losses)
        return next_placement(placement, present, serving, self._left(), leaving, reading)

    def _old_losses(self) -> set[str]:
        """Those that nobody need remember. Who was started earlier knows of more, and writes so when it is its turn."""
        by_age = sorted(self._losses, key=lambda id: (self._losses[id][1], id))
        too_many = by_age[: max(0, len(by_age) - HOSTS_MAX)]
        return {*too_many, *(id for id in by_age if self._echoed - self._losses[id][1] >= FORGET_LOSS_BEATS)}

    def _left(self) -> set[str]:
        """Those that have said goodbye."""
        return {id for id, peer in self._peers.items() if peer.beat.gone}

    def _may_come(self, id: str, beat: Beat, placement: ClusterPlacement) -> bool:
        """A host that gets no shards so far: whether it has been there for long enough."""
        loss = placement.losses.get(id)
        if loss is None or loss.run != beat.run:
            return True
        there_since = self._losses[id][1]
        if id != self.me.id:
            there_since = max(there_since, self._peers[id].came_at)
        return self._echoed - there_since >= min(RETURN_BEATS << min(loss.times - 1, 16), RETURN_BEATS_MAX)

    def _prefers(self, shard: int, id: str, other: str | None) -> bool:
        """Of two that both believe to serve it: the one that should."""
        return other is None or (self.placement is not None and self.placement.owners[shard] == id)

    def _look(self) -> None:
        """What this host should have."""
        if self.placement is None:
            return
        live, owned = self.live(), self._owned
        others = [beat for id, beat in live.items() if id != self.me.id]
        served = {shard for beat in others for shard in beat.serves}
        given = {shard for beat in others for shard in beat.gives}
        mine = {shard for shard, owner in enumerate(self.placement.owners) if owner == self.me.id}
        abandoned = {shard for shard in owned & self.target if self.placement.owners[shard] not in live}
        self._wanted_since = {shard: at for shard, at in self._wanted_since.items() if shard in mine - owned}
        may_claim = not self.is_behind
        self._wanted_since.update((shard, self._echoed) for shard in given & mine - owned - self.target)
        claimed = {shard for shard in sorted(mine - owned) if self._claims(shard, may_claim, has_another=shard in served | given)}
        self.target = frozenset((mine & owned) | abandoned | claimed | self._kept(owned & self.target - mine - abandoned, live))
        self.ahead = frozenset((mine & (served | given)) - owned - self.target)

    def _kept(self, shards: Iterable[int], live: Mapping[str, Beat]) -> set[int]:
        """Of those that others should have, who are there: what they have not read yet."""
        assert self.placement is not None
        patience = self._leaving_beats if self.me.leaving else AHEAD_BEATS
        before, self._kept_since = self._kept_since, {}
        kept = set()
        for shard in shards:
            next_one = live[self.placement.owners[shard]]
            if next_one.ready is None or shard in (*next_one.ready, *next_one.serves):
                continue
            reads = shard in next_one.reads and not self.me.leaving
            since = self._echoed if reads else before.get((shard, next_one.id), self._echoed)
            self._kept_since[shard, next_one.id] = since
            if self._echoed - since < patience:
                kept.add(shard)
        return kept

    def _claims(self, shard: int, may_claim: bool, *, has_another: bool) -> bool:
        """Of a shard that this host should have and has not: whether it is to be claimed now, or still."""
        waited = self._echoed - self._wanted_since.setdefault(shard, self._echoed)
        is_claimed = shard in self.target
        if is_claimed:
            goes_on = waited < CLAIM_BEATS
        else:
            patience = TAKE_BEATS if shard in self._ready else AHEAD_BEATS + TAKE_BEATS
            is_due = not has_another or (waited >= patience and shard not in self._reads)
            goes_on = may_claim and self._given_up.get(shard) != self._echoed and is_due
        if goes_on != is_claimed:
            self._wanted_since[shard] = self._echoed
        if is_claimed and not goes_on:
            self._given_up[shard] = self._echoed
        return goes_on


def _news(beat: Beat) -> tuple[object, ...]:
    of_shards = beat.serves, beat.gives, beat.ready, beat.reads
    return beat.run, beat.door, beat.version, beat.weight, of_shards, beat.leaving, beat.gone, beat.revision
