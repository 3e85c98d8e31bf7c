"""What a supervisor asks of who makes its host a member of a cluster, and tells it: that is `runtime/cluster`, which it does not
import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import zmq

from tidegate.runtime.wire.access import AccessKey, Rights
from tidegate.runtime.wire.counts import Labels, Value
from tidegate.runtime.wire.supervisor_messages import Access, Problem


class Member(Protocol):
    @property
    def target(self) -> frozenset[int]:
        """Which shards this host is to have."""

    @property
    def ahead(self) -> frozenset[int]:
        """Which it is to have next, and another serves still: what their logs have is to be read meanwhile."""

    def homes(self) -> dict[int, str]:
        """Which other host serves a shard, by shard."""

    def doors(self) -> dict[str, str]:
        """Where the other hosts that are there take calls of hosts, by id."""

    def elsewhere(self) -> dict[int, str]:
        """Which other host serves a shard, by shard: its name, and where its clients connect, for operators."""

    def is_now(self, shards: frozenset[int], ready: frozenset[int], reads: frozenset[int], door: str, version: str) -> None:
        """Of this host: what its workers have, what they have read ahead and what they have still to read, where its door is
        (empty: nowhere now), and of the app which version they run."""

    def load_is(self, calls_per_s: Mapping[int, float]) -> None:
        """Of this host, by shard."""

    def retire(self, within_s: float) -> None:
        """This host is about to stop: others may take its shards, within that time."""

    def hands_over(self) -> bool:
        """Whether it has any that others could take."""

    def problems(self) -> tuple[Problem, ...]: ...

    def shown(self) -> dict[str, Any]:
        """For the status of the service."""

    def measured(self) -> dict[str, dict[Labels, Value]]:
        """By key of the catalogue of metrics, and by labels."""

    async def prepare(self) -> str:
        """Before `run`, and before any process of this host is told what it is for: the secret by which the hosts know each
        other. Raises OperatorError where this host can be no member."""

    async def run(self) -> None:
        """Until it is cancelled; it never holds up the loop."""

    async def leave(self) -> None:
        """Nothing is served here any more."""


Join = Callable[[Callable[[], object]], Member]
"""It is given what is to be called when target, homes or doors may be others than before."""


def hosts_access(secret: str) -> Access:
    """Who is let in at the door: hosts, which have the one secret. Each of them has asked its clients what they may do."""
    return Access(secret, (AccessKey("hosts", zmq.curve_public(secret.encode()).decode(), Rights(admin=True)),))
