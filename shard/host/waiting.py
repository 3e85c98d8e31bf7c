"""Calls that wait outside of any object: for the disk to catch up, or for the end of an object that was reset.

Guarantee: nobody overtakes. While a call waits here, later calls to its object wait behind it; all that wait for one thing are
delivered together, in order.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Iterator

from tidegate.runtime.wire.protocol import Origin, Request
from tidegate.shard.core.cache import ObjectCache
from tidegate.shard.host.turn import Turn
from tidegate.shard.neutral import NEUTRAL

WaitingCall = tuple[Request, Origin]


class WaitingRoom:
    """`deliver` is called again for each call whose wait is over."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[Request, Origin], None], turn: Turn) -> None:
        self._loop = loop
        self._deliver = deliver
        self._turn = turn
        self.stalled: collections.deque[WaitingCall] = collections.deque()
        """Calls that came while too much was not durable."""
        self._settling: dict[bytes, tuple[ObjectCache, list[WaitingCall]]] = {}
        """By object: the cache of an activation that is in memory no more, and the calls that wait for its last commit."""

    def __len__(self) -> int:
        return len(self.stalled) + sum(len(calls) for _, calls in self._settling.values())

    def calls(self) -> Iterator[WaitingCall]:
        yield from self.stalled
        for _, calls in self._settling.values():
            yield from calls

    def takes(self, object_key: bytes, call: WaitingCall) -> bool:
        """Whether a call to an object that is not in memory has to wait; it does then."""
        if object_key in self._settling:
            self._settling[object_key][1].append(call)
        elif self.stalled:
            self.stalled.append(call)
        else:
            return False
        return True

    def settle(self, cache: ObjectCache, queued: list[WaitingCall]) -> None:
        """The object is reset. What was queued for it goes to its successor, which may begin when the commit in flight has
        ended: what is durable then is all that it knows."""
        waiting = queued + self._take_stalled(cache)
        if self.stalled:  # Perhaps nothing is left whose commit they could wait for.
            self._loop.call_soon(self._deliver_stalled, context=NEUTRAL)
        if cache.key in self._settling:  # The runtime has changed it, and that change is lost.
            waiting = self._settling[cache.key][1] + waiting
        if waiting or cache.committing is not None or cache.dirty:
            self._settling[cache.key] = cache, waiting
            self._loop.call_soon(self._deliver_settled, cache.key, context=NEUTRAL)

    def settles(self, object_key: bytes) -> bool:
        return object_key in self._settling

    def commit_ended(self) -> None:
        for key in self._settling:
            self._loop.call_soon(self._deliver_settled, key, context=NEUTRAL)
        if self.stalled:
            self._loop.call_soon(self._deliver_stalled, context=NEUTRAL)

    def _take_stalled(self, cache: ObjectCache) -> list[WaitingCall]:
        """The calls of one object wait in one place, so that they stay in order."""
        taken: list[WaitingCall] = []
        stalled, self.stalled = self.stalled, collections.deque()
        for call in stalled:
            (taken if call[0].name == cache.name and call[0].cls == cache.class_name else self.stalled).append(call)
        return taken

    def _deliver_settled(self, key: bytes) -> None:
        """All at once, so that no call that arrives meanwhile overtakes those that waited."""
        waiting = self._settling.get(key)
        if waiting is not None and waiting[0].committing is None and not waiting[0].dirty:
            del self._settling[key]
            for call in waiting[1]:
                self._deliver(*call)
            self._turn.end_soon()

    def _deliver_stalled(self) -> None:
        """Likewise. Once there is too much again, the rest stalls again, in order."""
        stalled, self.stalled = self.stalled, collections.deque()
        for call in stalled:
            self._deliver(*call)
        self._turn.end_soon()
