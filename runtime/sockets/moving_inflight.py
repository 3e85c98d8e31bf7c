"""Calls in flight to where shards come and go: a worker of a cluster, or another host of it, may answer that it does not have the
object's shard any more. Whoever sent the call may have done so before he could know: he sends it on.

Rule: pure. A request is kept until its call is answered, so that one that was not executed there can be sent elsewhere.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate.runtime.errors import Moved, Unavailable
from tidegate.runtime.sockets.inflight import InFlight, Unanswered
from tidegate.runtime.wire.protocol import ERROR, Reply, Request


class _Told(msgspec.Struct):
    """Of an error, what says whether the call can be sent elsewhere."""

    code: str = ""
    outcome: str = ""
    leaving: bool = False


_decode, _decode_json = msgspec.msgpack.Decoder(_Told).decode, msgspec.json.Decoder(_Told).decode


class MovingInFlight(InFlight):
    """To a worker of this host."""

    __slots__ = ("_kept",)

    def __init__(self, worker: int) -> None:
        super().__init__(worker)
        self._kept: dict[Any, Request] = {}
        """By token, the requests that were handed out and are not answered."""

    def take_bodies(self) -> list[bytes]:
        for _, rows in self._unsent_batches():
            self._kept |= {row.id: row for row in rows if row.id in self.unanswered}
        return super().take_bodies()

    def _take_turn(self, calls_max: int) -> list[Any]:
        taken = super()._take_turn(calls_max)
        self._kept |= {request.id: request for _, request in taken}
        return taken

    def answered(self, token: int) -> Unanswered | None:
        self._kept.pop(token, None)
        return super().answered(token)

    def _take(self, token: int) -> Unanswered:
        self._kept.pop(token, None)
        return super()._take(token)

    def sort(self, replies: list[Reply]) -> tuple[list[Reply], list[tuple[Unanswered, Request]]]:
        """Those that are for their callers, and the calls that were not taken there, in the order in which they were sent, with
        the clients' own ids."""
        for_callers, refused = [], []
        for reply in replies:
            request = self._kept.pop(reply.id, None)
            if request is None or reply.status != ERROR or not self._was_not_taken(reply):
                for_callers.append(reply)
                continue
            assert isinstance(reply.id, int), reply.id
            if (call := super().answered(reply.id)) is not None:
                refused.append((reply.id, call, request))
        taken = []
        for _, call, request in sorted(refused, key=lambda each: each[0]):
            request.id = call[1]
            taken.append((call, request))
        return for_callers, taken

    def _is_json(self, reply: Reply) -> bool:
        call = self.unanswered.get(reply.id)  # type: ignore[arg-type]  # a token
        return call is not None and call[0].json

    def _was_not_taken(self, reply: Reply) -> bool:
        try:
            told = (_decode_json if self._is_json(reply) else _decode)(reply.result)
        except msgspec.MsgspecError:
            return False
        return told.outcome == "not_executed" and self._is_elsewhere(told)

    @staticmethod
    def _is_elsewhere(told: _Told) -> bool:
        """The shard is not there any more."""
        return told.code == Moved.code

    def check_invariants(self) -> None:
        super().check_invariants()
        unsent = self.unsent_tokens()
        assert self._kept.keys() == self.unanswered.keys() - unsent


class HostInFlight(MovingInFlight):
    """To another host, which may also be about to stop."""

    __slots__ = ()

    @staticmethod
    def _is_elsewhere(told: _Told) -> bool:
        return told.code == Moved.code or (told.code == Unavailable.code and told.leaving)
