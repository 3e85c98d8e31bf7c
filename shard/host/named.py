"""Objects of a worker that are named because of what they do, each with what is known of it.

Guarantee: there are at most so many, and none that has been reset or does nothing any more keeps out another one.
Rule: pure. Who is named, and when that ends, is said by the owner: `piles`, `long_calls`.
"""

from __future__ import annotations

from typing import TypeVar

from tidegate.shard.core.states import State
from tidegate.shard.host.activation import Activation

NAMED_MAX = 20
"""Objects at a time; those that come when there are so many are named when one of them is done."""
K = TypeVar("K")


class NamedObjects(dict[Activation, K]):
    def has_room(self) -> bool:
        if len(self) >= NAMED_MAX:
            self.forget_gone()
        return len(self) < NAMED_MAX

    def forget_gone(self) -> None:
        """Those that have been reset or do nothing any more."""
        for activation in [each for each in self if each.state not in (State.STARTING, State.AWAKE)]:
            del self[activation]
