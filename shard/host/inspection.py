"""All that is known of one object at this instant: where it is, what keeps its gate closed, who waits for whom, what went wrong.

Guarantee: it is only looked: nothing of the object runs, waits or comes into memory for it, and a closed gate is no obstacle.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from tidegate.runtime.errors import one_line
from tidegate.runtime.ids import ObjectId, object_key
from tidegate.runtime.wire.protocol import Origin
from tidegate.shard.core.alarms import abandoned_alarm, decode_header, shown_for
from tidegate.shard.core.input_gate import Section
from tidegate.shard.core.wishes import due_ms, refused
from tidegate.shard.host.call import Call
from tidegate.shard.host.keyed_calls import KeyedRun
from tidegate.shard.host.outbound import InternalOrigin, LocalOrigin
from tidegate.shard.loop.libraries import line_of
from tidegate.shard.store.interface import HEADER

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.host import Host
    from tidegate.shard.loop.task import ObjectTask

NAMED_MAX = 20
"""Calls, tasks and callers that are named; the others are counted."""


def inspect(host: Host, class_name: str, name: str, shard: int) -> dict[str, Any]:
    """In a form that JSON has. Raises CallError where there is no such object, and ShardDamaged."""
    kept, key, store = host.classes.get(class_name), object_key(class_name, name), host.stores[shard]
    activation = None if kept is None else kept.activations.find(name) or kept.asleep.get(name)
    header = store.get(key, HEADER)
    quarantined = host.activator.quarantined(class_name, name)
    if activation is None and header is None and quarantined is None:
        raise refused(f"there is no object {class_name}/{name}", missing=True)
    alarm = None if header is None else decode_header(header).alarm
    abandoned = abandoned_alarm(store, key)
    found: dict[str, Any] = {
        "object": f"{class_name}/{name}",
        "shard": shard,
        "in_app": kept is not None,
        "stored": header is not None,
        "state": "on disk" if activation is None else activation.state.value,
        "alarm": None if alarm is None else shown_for(alarm, host.alarms.ahead_us(shard)).isoformat(),
        "alarm_due_ms": None if alarm is None else due_ms(alarm, host.alarms.ahead_us(shard)),
        "abandoned_alarm": None if abandoned is None else {"at": abandoned.told_at, "error": abandoned.error},
        "quarantine": None if quarantined is None else {"for_s": round(quarantined[0], 1), "because_of": quarantined[1].code},
        "errors": host.log.newest(ObjectId(class_name, name)),
    }
    return found if activation is None else {**found, **_in_memory(host, activation)}


def _in_memory(host: Host, activation: Activation) -> dict[str, Any]:
    now_s, cache, gate = host.turn.clock(), activation.cache, activation.gate
    undurable = [cache.dirty, *([] if cache.committing is None else [cache.committing.writes])]
    waiting = _waiting(gate.root)
    called = host.hot.of_one(cache.class_name, cache.name)
    return {
        "used_s_ago": round(max(0.0, now_s - activation.last_used_s), 3),
        "cached": {"keys": len(cache.values), "bytes": cache.bytes},
        "undurable_keys": len({key for writes in undurable for key in writes if key != HEADER}),
        "gate": {"open": gate.open or gate.resting, **host.gates.told_of(activation)},
        "running": [_task(host, each, activation, now_s) for each in islice(list(activation.tasks), NAMED_MAX)],
        "running_count": len(activation.tasks),
        "queue": [_call(each, host.loop.time(), host.settings.own_clients) for each in islice(waiting, NAMED_MAX)],
        "queue_count": len(waiting),
        "calls_per_s": {"now": called.calls_per_s, "minute": called.minute_per_s},
    }


def _waiting(section: Section | None) -> list[Any]:
    """Who waits at the gate, in order."""
    found: list[Any] = []
    while section is not None:
        found += [waiter for waiter, _ in section.starters]
        found += section.waiters
        section = section.child
    return found


def _task(host: Host, task: ObjectTask, activation: Activation, now_s: float) -> dict[str, Any]:
    method = caller = for_s = None
    if task.call is not None:
        origin, _, method = task.call
        caller, for_s = _caller(origin, host.settings.own_clients), round(max(0.0, now_s - task.began_s), 3)
    request = host.chained.awaited_by(task)
    return {
        "method": method,
        "for_s": for_s,
        "called_by": caller,
        "at": one_line(line_of(task.get_coro(), activation)),
        "waits_for": None if request is None else one_line(f"{request.cls}/{request.name}.{request.method}"),
    }


def _call(waiter: Any, now_s: float, own: bytes) -> dict[str, Any]:
    if not isinstance(waiter, Call):
        return {"method": None, "called_by": None, "waits_s": None, "what": type(waiter).__name__}
    return {
        "method": one_line(waiter.request.method),
        "called_by": _caller(waiter.origin, own),
        "waits_s": round(max(0.0, now_s - waiter.since_s), 3),
    }


def _caller(origin: Origin | KeyedRun, own: bytes) -> str:
    """Who waits for the answer: an object of this worker, another process of the service, a client. `own`: what the names of
    those processes begin with."""
    if isinstance(origin, LocalOrigin):
        return one_line(str(origin.caller.id))
    if origin.__class__ is not Origin:
        asked, _ = cast("InternalOrigin", origin).asked_by(0)
        if asked is not origin:
            return _caller(asked, own)
        return "the service itself"
    if origin.client.startswith(own):  # What comes first is a secret.
        return one_line(origin.client[len(own) :].decode(errors="replace"))
    return f"client {origin.client.hex()[:16]}"
