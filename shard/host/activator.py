"""Brings objects into memory for the calls that need them.

Guarantee: a call to an object that is not in memory starts one instance of it, or waits in order for what has to come first (a
reset object's last commit, a header that is on disk only), or is answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tidegate.runtime.errors import BadRequest, Moved
from tidegate.runtime.ids import check_object_id, key_and_slot, object_id, object_key, shard_of_slot
from tidegate.runtime.limits import NAME_BYTES_MAX
from tidegate.runtime.wire.protocol import NO_RAW, Request
from tidegate.runtime.wire.supervisor_messages import QuarantinedObject
from tidegate.shard.core.states import Event, InvalidTransition
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.call import Call
from tidegate.shard.host.outbound import BuiltIn, LocalOrigin
from tidegate.shard.host.ring import Ring
from tidegate.shard.host.start import Start
from tidegate.shard.host.table import Kept
from tidegate.shard.objects.refusals import in_quarantine, unknown_method
from tidegate.shard.store.interface import HEADER

if TYPE_CHECKING:
    from tidegate.shard.host.host import Host


class Activator:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._quarantine: dict[tuple[str, str], tuple[float, QuarantinedObject]] = {}
        """With the time of their release."""
        self.quarantine(host.settings.quarantined)

    def bring(self, kept: Kept, call: Call) -> Activation | None:
        """The object that the call is for. None when it has been answered or waits instead."""
        if self._quarantine and self._keeps_out(call):
            return None
        if (
            self._host.waiting.has_read
            and call.request.method in kept.methods
            and (found := self.bring_at_once(kept, call.request, None)) is not None
        ):
            return found
        activation = None
        if call.request.method in kept.methods or isinstance(call.origin, Ring):
            activation = self._host.table.wake(kept, call.request.name)
        if activation is None:
            activation = self._read(kept, call)
        return activation if activation is not None and self._start(activation, kept, call) else None

    def bring_at_once(self, kept: Kept, request: Request, activation: Activation | None) -> Activation | None:
        """The same for the commonest cases, the call of a method that the class has: `activation` rests; or the object is not in
        memory, but pages of its file are, or its header is, and no code of its own runs at its start. None: there is more to look
        at: `bring`."""
        host = self._host
        if activation is not None:
            if not activation.gate.resting:
                return None
            try:
                host.table.rouse(activation, host.turn.now_s)
            except InvalidTransition:  # It has been reset, and the call is its successor's.
                return None
            return activation if activation.gate.open else None
        class_name, name, waiting = request.cls, request.name, host.waiting
        if (
            not kept.object_class.starts_alone
            or (request.options is not NO_RAW and len(request.options) > 1)
            or waiting.stalled
            or self._quarantine
            or host.moving.going
            or kept.asleep.find(name) is not None
            or not name.isascii()  # What can name an object, as far as that is seen at a glance: most do. There is such a class.
            or not 0 < len(name) <= NAME_BYTES_MAX
        ):
            return None
        key, slot = key_and_slot(class_name, name)
        store = host.stores.get(shard_of_slot(slot, host.settings.shards_total))
        if store is None or waiting.is_away(key) or (store.reader is not None and not store.is_read_in(key, HEADER)):
            return None
        table = host.table
        try:
            cache = host.new_cache(key, object_id(class_name, name), store, host.output_gate, table.budget)
            activation = Activation(host, kept.object_class, cache)
            activation.begin()
            table.add(activation, activation.last_used_s)
        except Exception:  # It will be told by whoever looks at more.
            return None
        return activation

    def owns(self, call: Call) -> bool:
        """Whether its object belongs to this worker."""
        host = self._host
        kept = host.classes.get(call.request.cls)
        if kept is not None and kept.activations.find(call.request.name) is not None:  # Then nobody need compute its slot.
            return True
        shard = call.shard_of(host.settings.shards_total)
        return shard in host.stores or shard in host.stopped

    def quarantine(self, objects: Iterable[QuarantinedObject]) -> None:
        """These, and no others. Those in memory are reset."""
        now_s = self._host.loop.time()
        self._quarantine = {(each.class_name, each.name): (now_s + each.for_s, each) for each in objects}
        for class_name, name in self._quarantine:
            kept = self._host.classes.get(class_name)
            activation = None if kept is None else kept.activations.find(name)  # It may have been started meanwhile.
            if activation is not None:
                activation.fail("it is in quarantine: its code has held up or ended its worker again and again")

    def quarantined(self, class_name: str, name: str) -> tuple[float, QuarantinedObject] | None:
        """For how long an object still is in quarantine, and why."""
        until_s, quarantined = self._quarantine.get((class_name, name), (0.0, None))
        left_s = until_s - self._host.loop.time()
        return None if quarantined is None or left_s <= 0 else (left_s, quarantined)

    def release(self, class_name: str, name: str) -> bool:
        """Whether it was in quarantine until now."""
        until_s, _ = self._quarantine.pop((class_name, name), (0.0, None))
        return until_s > self._host.loop.time()

    def _keeps_out(self, call: Call) -> bool:
        """Whether its object is in quarantine; the call has been answered then."""
        request = call.request
        until_s, quarantined = self._quarantine.get((request.cls, request.name), (0.0, None))
        if quarantined is None:
            return False
        left_s = until_s - self._host.loop.time()
        if left_s <= 0:
            del self._quarantine[request.cls, request.name]
            return False
        self._host.answer_error(call.origin, request.id, in_quarantine(quarantined, left_s), request.cls)
        return True

    def borrow(self, kept: Kept, name: str, shard: int) -> Activation | None:
        """The object, for a change of the runtime's own: no code of it runs. To be given back in the same turn. None: not now."""
        host = self._host
        activation = kept.activations.get(name)
        if activation is not None:
            return activation
        key = object_key(kept.object_class.name, name)
        if host.waiting.is_away(key):
            return None
        activation = host.table.wake(kept, name)
        if activation is None:
            id = object_id(kept.object_class.name, name)
            cache = host.new_cache(key, id, host.stores[shard], host.output_gate, host.table.budget)
            return Activation(host, kept.object_class, cache)
        host.table.remove(activation)
        return activation

    def give_back(self, kept: Kept, activation: Activation) -> None:
        """Whoever calls an object that was not in memory waits until what was changed is durable."""
        if kept.activations.get(activation.id.name) is not activation:
            self._host.waiting.settle(activation.cache, [])

    def _read(self, kept: Kept, call: Call) -> Activation | None:
        """An object of which nothing is in memory."""
        host, request, origin = self._host, call.request, call.origin
        problem = check_object_id(request.cls, request.name)
        if problem is not None:
            host.answer_error(origin, request.id, BadRequest(problem), request.cls)
            return None
        shard = call.shard_of(host.settings.shards_total)
        store = host.stores.get(shard)
        if store is None or host.moving.going.get(shard, False):
            if isinstance(origin, LocalOrigin) and shard not in host.stopped:  # It has gone since its object was called here.
                request.options = call.options()
                host.send(request, origin)
                return None
            moved = Moved(f"this worker does not own shard {shard}; ask for the topology")
            host.answer_error(origin, request.id, host.stopped.refusal(shard) or moved, request.cls)
            return None
        if request.method not in kept.methods and not isinstance(origin, Ring):
            if isinstance(origin, BuiltIn) and origin.not_in_memory():
                return None
            host.answer_error(origin, request.id, unknown_method(request, kept.object_class), request.cls)
            return None
        key = object_key(request.cls, request.name)
        if host.waiting.takes(key, call) or host.waiting.reads(store, key, call, kept.object_class.first_keys):
            return None
        cache = host.new_cache(key, object_id(request.cls, request.name), store, host.output_gate, host.table.budget)
        return Activation(host, kept.object_class, cache)

    def _start(self, activation: Activation, kept: Kept, call: Call) -> bool:
        """Gives it an instance. False when that failed, and the call has been answered."""
        host = self._host
        try:
            activation.construct()
            if activation.broken is None:
                host.table.add(activation, host.turn.now_s)
                if kept.object_class.starts:
                    Start(activation).begin(call.chain)
                else:
                    activation.move(Event.STARTED)
        except BaseException as exc:
            if activation.broken is None:
                host.resets.start_failed(activation, exc, [call])
                return False
        if activation.broken is not None:  # By `__init__`, or by `on_start` at once; nobody else waited yet.
            host.answer_error(call.origin, call.request.id, activation.broken, call.request.cls)
            return False
        return True
