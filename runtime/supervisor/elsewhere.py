"""The other hosts of a cluster, as the processes of this one see them: each is one more place where calls can be sent.

Guarantee: a host keeps its index for as long as the service runs, whether it is there or not.

Rule: pure. Which hosts there are, and what they serve, is known to who is a member of the cluster (`runtime/cluster`).
"""

from __future__ import annotations

from collections.abc import Mapping


class Elsewhere:
    def __init__(self) -> None:
        self._hosts: list[str] = []
        """Ids, in the order in which they were heard of."""
        self.endpoints: tuple[str | None, ...] = ()
        """By host, where its door is; None while it is not there."""
        self.homes: dict[int, int] = {}
        """By shard, which of these hosts serves it. Those of this host, and of nobody, are not among them."""

    def are(self, homes: Mapping[int, str], doors: Mapping[str, str]) -> bool:
        """Which host serves which shard, and where the doors of those are that are there, by id. Whether that is new."""
        self._hosts += sorted({*doors, *homes.values()}.difference(self._hosts))
        endpoints = tuple(doors.get(id) or None for id in self._hosts)
        indices = {shard: self._hosts.index(id) for shard, id in homes.items()}
        if (endpoints, indices) == (self.endpoints, self.homes):
            return False
        self.endpoints, self.homes = endpoints, indices
        return True
