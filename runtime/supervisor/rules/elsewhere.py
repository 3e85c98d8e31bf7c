"""The other hosts of a cluster, as the processes of this one see them: each is one more place where calls can be sent.

Guarantee: a host keeps its index while it is there, or serves a shard. The index of one that is not is given to another only when
everybody was told that nobody is there: so no more of them are needed than there are hosts at a time, however many come and go.

Rule: pure. Which hosts there are, and what they serve, is known to who is a member of the cluster (`runtime/cluster`).
"""

from __future__ import annotations

from collections.abc import Mapping, Set


class Elsewhere:
    def __init__(self) -> None:
        self._hosts: list[str] = []
        """Ids, by index."""
        self.endpoints: tuple[str | None, ...] = ()
        """By host, where its door is; None while it is not there."""
        self.homes: dict[int, int] = {}
        """By shard, which of these hosts serves it. Those of this host, and of nobody, are not among them."""

    def are(self, homes: Mapping[int, str], doors: Mapping[str, str]) -> bool:
        """Which host serves which shard, and where the doors of those are that are there, by id. Whether that is new."""
        for id in sorted({*doors, *homes.values()}.difference(self._hosts)):
            self._place(id, doors.keys() | homes.values())
        endpoints = tuple(doors.get(id) or None for id in self._hosts)
        indices = {shard: self._hosts.index(id) for shard, id in homes.items()}
        if (endpoints, indices) == (self.endpoints, self.homes):
            return False
        self.endpoints, self.homes = endpoints, indices
        return True

    def _place(self, id: str, needed: Set[str]) -> None:
        """Where everybody knows that nobody is, else at the end."""
        known = set(self.homes.values())
        for index, endpoint in enumerate(self.endpoints):
            if endpoint is None and index not in known and self._hosts[index] not in needed:
                self._hosts[index] = id
                return
        self._hosts.append(id)
