"""Brings objects into memory for the calls that need them.

Guarantee: a call to an object that is not in memory starts one instance of it, or waits in order for what has to come first (a
reset object's last commit, a header that is on disk only), or is answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tidegate.runtime.errors import BadRequest, Moved
from tidegate.runtime.ids import check_object_id, object_key, shard_of_slot, slot_of
from tidegate.runtime.wire.protocol import Origin, Request
from tidegate.shard.core.cache import ObjectCache
from tidegate.shard.core.states import Event
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.cold_starts import ColdStarts
from tidegate.shard.host.outbound import Caller
from tidegate.shard.host.ring import Ring
from tidegate.shard.host.start import Start
from tidegate.shard.host.table import Kept
from tidegate.shard.host.waiting import WaitingCall
from tidegate.shard.objects.refusals import refused_object, unknown_method

if TYPE_CHECKING:
    from tidegate.shard.host.host import Host


class Activator:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._cold_starts = ColdStarts(host)
        now_s = host.loop.time()
        self._refused = {(each.class_name, each.name): (now_s + each.for_s, each) for each in host.settings.refused}

    def bring(self, kept: Kept, request: Request, origin: Origin) -> Activation | None:
        """The object that the request is for. None when the request has been answered or queued instead."""
        if self._refused and self._refuses(request, origin):
            return None
        activation = None
        if request.method in kept.methods or isinstance(origin, Ring):
            activation = self._host.table.wake(kept, request.name)
        if activation is None:
            activation = self._read(kept, request, origin)
        return activation if activation is not None and self._start(activation, kept, request, origin) else None

    def waiting_calls(self) -> Iterator[WaitingCall]:
        return self._cold_starts.calls()

    def _refuses(self, request: Request, origin: Origin) -> bool:
        """Whether the object has ended its worker too often; the request has been answered then."""
        until_s, refused = self._refused.get((request.cls, request.name), (0.0, None))
        if refused is None:
            return False
        left_s = until_s - self._host.loop.time()
        if left_s <= 0:
            del self._refused[request.cls, request.name]
            return False
        self._host.answer_error(origin, request.id, refused_object(refused, left_s))
        return True

    def borrow(self, kept: Kept, name: str, shard: int) -> Activation | None:
        """The object, for a change of the runtime's own: no code of it runs. To be given back in the same turn. None: not now."""
        host = self._host
        activation = kept.activations.get(name)
        if activation is not None:
            return activation
        key = object_key(kept.object_class.name, name)
        if key in self._cold_starts or host.waiting.settles(key):
            return None
        activation = host.table.wake(kept, name)
        if activation is None:
            cache = ObjectCache(key, kept.object_class.name, name, shard, host.stores[shard], host.output_gate, host.table.budget)
            return Activation(host, kept.object_class, name, cache)
        host.table.remove(activation)
        return activation

    def give_back(self, kept: Kept, activation: Activation) -> None:
        """Whoever calls an object that was not in memory waits until what was changed is durable."""
        if kept.activations.get(activation.id.name) is not activation:
            self._host.waiting.settle(activation.cache, [])

    def _read(self, kept: Kept, request: Request, origin: Origin) -> Activation | None:
        """An object of which nothing is in memory."""
        host = self._host
        problem = check_object_id(request.cls, request.name)
        if problem is not None:
            host.answer_error(origin, request.id, BadRequest(problem))
            return None
        shard = shard_of_slot(slot_of(request.cls, request.name), host.settings.shards_total)
        store = host.stores.get(shard)
        if store is None:
            host.answer_error(origin, request.id, Moved(f"this worker does not own shard {shard}; ask for the topology"))
            return None
        if request.method not in kept.methods and not isinstance(origin, Ring):
            host.answer_error(origin, request.id, unknown_method(request, kept.object_class))
            return None
        key = object_key(request.cls, request.name)
        call = (request, origin)
        if self._cold_starts.joins(key, call) or host.waiting.takes(key, call) or self._cold_starts.takes(store, key, call):
            return None
        cache = ObjectCache(key, request.cls, request.name, shard, store, host.output_gate, host.table.budget)
        return Activation(host, kept.object_class, request.name, cache)

    def _start(self, activation: Activation, kept: Kept, request: Request, origin: Origin) -> bool:
        """Gives it an instance. False when that failed, and the request has been answered."""
        host = self._host
        try:
            activation.construct(Caller(host))
            if activation.broken is None:
                host.table.add(activation, host.turn.now_s)
                if kept.object_class.starts:
                    Start(activation).begin(host.chained.chain_of(request, origin))
                else:
                    activation.move(Event.STARTED)
        except BaseException as exc:
            if activation.broken is None:
                host.resets.start_failed(activation, exc, [(request, origin)])
                return False
        if activation.broken is not None:  # By `__init__`, or by `on_start` at once; nobody else waited yet.
            host.answer_error(origin, request.id, activation.broken)
            return False
        return True
