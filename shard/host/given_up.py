"""The alarms that were given up: recorded by object, told to whoever asks, dropped or run again by the operator.

Guarantee: what the operator asked for is durable when the answer says so. An alarm that is run again is set as a new one, for
now, with nothing counted; nothing of the object's code has run by then.

Rule: no socket or file. The requests are system calls whose name is `CLASS/NAME`, the object.
"""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tidegate.runtime.errors import BadRequest, CallError, Moved, Unavailable
from tidegate.runtime.ids import object_key, shard_of_slot, slot_of
from tidegate.runtime.wire.protocol import ERROR, OK, Origin, Request
from tidegate.shard.core.alarms import ABANDONED_KEY, Abandoned, IndexStore, abandoned_alarm, abandoned_alarms, set_again
from tidegate.shard.host.outbound import InternalOrigin
from tidegate.shard.store.interface import ShardDamaged

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.host import Host

COUNTED = 1_000
"""Per shard, at the start."""
SHOWN = 20
"""The newest of a worker, told to whoever asks how it is."""

log = logging.getLogger("tidegate.alarms")


class Errand(InternalOrigin):
    """What an operator asked for, until it is durable."""

    __slots__ = ("_done", "_origin", "_reply", "_request_id")

    def __init__(self, reply: Callable[[Origin, Any, int, Any], None], origin: Origin, request_id: Any, done: Callable[[], None]):
        super().__init__()
        self._reply = reply
        self._origin = origin
        self._request_id = request_id
        self._done = done

    def answer(self, status: int, result: Any) -> None:
        if status != ERROR:
            self._done()
        self._reply(self._origin, self._request_id, status, result)

    def asked_by(self, _: Any) -> tuple[Origin, Any]:
        return self._origin, self._request_id


class GivenUp:
    """Those of one worker."""

    def __init__(self, host: Host, stores: Mapping[int, IndexStore]) -> None:
        self._counts: dict[int, int] = {}
        """By shard."""
        self.newest: collections.deque[Abandoned] = collections.deque(maxlen=SHOWN)
        self._host = host
        self._stores = stores

    @property
    def count(self) -> int:
        """By this worker or an earlier one."""
        return sum(self._counts.values())

    def load(self, shards: Iterable[int]) -> None:
        gone: list[Abandoned] = []
        for shard in shards:
            with contextlib.suppress(ShardDamaged):  # It is about to be stopped.
                of_shard = list(abandoned_alarms(self._stores[shard], COUNTED))
                self._counts[shard] = len(of_shard)
                gone += of_shard
        if gone:
            self.newest.extend(sorted(gone, key=lambda each: each.abandoned_at))
            last = self.newest[-1]
            text = "%d objects have an alarm that was abandoned; the last of them was %s/%s, at %s: %s"
            log.warning(text, len(gone), last.class_name, last.name, last.abandoned_at, last.error)

    def add(self, abandoned: Abandoned, *, instead: bool) -> None:
        """That is durable. `instead`: of an earlier one of the same object."""
        text = "%s/%s: its alarm is abandoned: %s (`tidegate alarms` lists it)"
        log.error(text, abandoned.class_name, abandoned.name, abandoned.error)
        if instead:
            self._forget(abandoned.class_name, abandoned.name)
        shard = self._shard_of(abandoned.class_name, abandoned.name)
        self._counts[shard] = self._counts.get(shard, 0) + 1
        self.newest.append(abandoned)

    def forget_shard(self, shard: int) -> None:
        """Another worker has it."""
        self._counts.pop(shard, None)
        left = [each for each in self.newest if self._shard_of(each.class_name, each.name) != shard]
        self.newest = collections.deque(left, maxlen=SHOWN)

    def _shard_of(self, class_name: str, name: str) -> int:
        return shard_of_slot(slot_of(class_name, name), self._host.settings.shards_total)

    def _forget(self, class_name: str, name: str) -> None:
        shard = self._shard_of(class_name, name)
        self._counts[shard] = max(0, self._counts.get(shard, 0) - 1)
        left = [each for each in self.newest if (each.class_name, each.name) != (class_name, name)]
        self.newest = collections.deque(left, maxlen=SHOWN)

    # What an operator asks for

    def drop(self, request: Request, origin: Origin, at: str = "") -> None:
        """Answers when it is durable that the alarm is forgotten. `at`: only if it was given up then, as was told."""
        self._carry_out(request, origin, at, self._drop)

    def run(self, request: Request, origin: Origin, at: str = "") -> None:
        """Answers when it is durable that the alarm rings again, now. `at`: as above."""
        self._carry_out(request, origin, at, self._run)

    def _carry_out(
        self, request: Request, origin: Origin, at: str, carry_out: Callable[[Abandoned, int, bytes], Activation | None]
    ) -> None:
        host = self._host
        class_name, _, name = request.name.partition("/")
        try:
            shard = self._shard_of(class_name, name)
            if shard not in self._stores:
                moved = Moved(f"this worker does not own shard {shard}; ask for the topology")
                raise host.stopped.refusal(shard) or moved
            key = object_key(class_name, name)
            abandoned = abandoned_alarm(self._stores[shard], key)
            if abandoned is None:
                raise BadRequest(f"{class_name}/{name} has no abandoned alarm; `tidegate alarms` lists those there are")
            if at not in ("", abandoned.told_at):
                text = f"the alarm of {class_name}/{name} was given up again, at {abandoned.told_at}; nothing was changed"
                raise BadRequest(text, details={"conflict": True})
            activation = carry_out(abandoned, shard, key)
        except CallError as error:
            host.answer_error(origin, request.id, error, request.cls)
            return
        errand = Errand(host.answer, origin, request.id, lambda: self._forget(class_name, name))
        host.output_gate.hold(host.output_gate.open_seq, activation, errand, 0, OK, None)
        host.turn.end_soon()

    def _drop(self, _: Abandoned, shard: int, key: bytes) -> None:
        self._host.output_gate.write_own(shard, ABANDONED_KEY, key.hex(), None, wanted=True)

    def _run(self, abandoned: Abandoned, shard: int, key: bytes) -> Activation:
        host, cls, name = self._host, abandoned.class_name, abandoned.name
        kept = host.classes.get(cls)
        if kept is None or kept.object_class.alarm is None:
            raise BadRequest(f"the app has no class {cls} with an alarm handler")
        activation = host.activator.borrow(kept, name, shard)
        if activation is None:
            raise Unavailable(f"{cls}/{name} is being read or reset; ask again")
        if activation.cache.alarm is not None:
            raise BadRequest(f"{cls}/{name} has set another alarm since; drop the abandoned one")
        activation.cache.set_alarm(set_again(abandoned, host.alarms.steady.now_us(shard)))
        activation.cache.abandoned = key.hex(), None
        host.activator.give_back(kept, activation)
        return activation
