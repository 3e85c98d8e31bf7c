"""Where the log decides who owns a shard: nothing leaves an object, not even what it has only read, before the log has shown
that the shard was still its worker's.

Guarantee: every message of an object waits for the open commit, which the host makes durable for the shard of each message that
waits, if need be with nothing in it. The log takes that from the owner only. So what an object says was true, in its shard's one
history, after it was asked and before it answered, however long its host had slept in between.

The rest of the house compares `confirm_seq` with what is durable; here that is always one commit further.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tidegate.shard.core.cache import ObjectCache
from tidegate.shard.core.output_gate import OutputGate

if TYPE_CHECKING:
    from tidegate.runtime.wire.protocol import Origin


class ProvingCache(ObjectCache):
    __slots__ = ("_told_seq",)

    @property
    def confirm_seq(self) -> int:
        """Who asks is about to say something."""
        self._told_seq = self.output_gate.open_seq
        return self._told_seq

    @confirm_seq.setter
    def confirm_seq(self, seq: int) -> None:
        self._told_seq = seq

    @property
    def told_seq(self) -> int:
        return self._told_seq


class ProvingGate(OutputGate):
    __slots__ = ("_wanted",)

    def __init__(self, wanted: Callable[[], object]) -> None:
        """`wanted`: a commit is due, though perhaps nobody has written anything."""
        super().__init__()
        self._wanted = wanted

    def hold(self, confirm_seq: int, sender: Any, origin: Origin, request_id: Any, status: int, result: Any) -> None:
        super().hold(confirm_seq, sender, origin, request_id, status, result)
        self._wanted()
