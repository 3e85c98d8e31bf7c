"""One call, from where it leaves the fast path until it is started or answered.

Guarantee: its options are read once, and the shard of its object is found once; wherever it waits, it is the same record.
A call that finds its object in memory and the gate open, and that has no options, never gets one: see `Host.handle`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tidegate.runtime.ids import shard_of_slot, slot_of
from tidegate.runtime.wire.protocol import Origin, Request, encode
from tidegate.shard.core.chain import Chain
from tidegate.shard.core.input_gate import Section

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.tracing import CallTrace
    from tidegate.shard.objects.methods import Method


class CallKey(NamedTuple):
    """By which a call that is repeated is known."""

    text: str
    answered: int | None
    """Of a session's: its calls with a smaller number have been answered. None: a plain key."""


class Call:
    __slots__ = (
        "_shard", "activation", "chain", "key", "method", "origin", "queue", "request", "section", "since_s", "trace",
        "traceparent", "was_let_in",
    )  # fmt: skip

    def __init__(self, request: Request, origin: Origin, chain: Chain | None = None) -> None:
        self.request = request
        self.origin = origin
        """Where its reply goes."""
        self.chain = chain
        self.key: CallKey | None = None
        self.trace: CallTrace | None = None
        self.traceparent: str | None = None
        """What another worker is told, which begins the trace."""
        self._shard: int | None = None
        self.queue: dict[Call, None] | None = None
        """In which it waits, if that is not the gate of its object: see `waiting`."""
        self.activation: Activation | None = None
        """At whose gate it waits."""
        self.was_let_in = False
        """It has waited until its client had taken replies: it does not do that again."""
        self.method: Method
        self.section: Section
        self.since_s: float
        """Of one that waits at a gate: what it calls, the section whose event it is, and since when it has waited there."""

    @property
    def bytes(self) -> int:
        """What the caller has sent with it."""
        return len(self.request.args) + len(self.request.options)

    def options(self) -> msgspec.Raw:
        """What of it travels to another worker."""
        options: dict[str, Any] = {} if self.chain is None else {"chain": self.chain}
        if self.key is not None:
            options["key"] = self.key.text
            if self.key.answered is not None:
                options["answered"] = self.key.answered
        if self.traceparent is not None:
            options["traceparent"] = self.traceparent
        return msgspec.Raw(encode(options))

    @property
    def waits(self) -> bool:
        return self.queue is not None or self.activation is not None

    def shard_of(self, shards_total: int) -> int:
        """The shard of its object."""
        if self._shard is None:
            self._shard = shard_of_slot(slot_of(self.request.cls, self.request.name), shards_total)
        return self._shard

    def deliver(self) -> None:
        """The gate lets it in."""
        activation = self.activation
        assert activation is not None
        host = activation.host
        host.book.dropped(self)
        host.slow.let_in(activation.id, self.request.id, host.loop.time() - self.since_s)
        host.start(activation, self.method, self, self.section)
