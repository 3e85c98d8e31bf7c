"""Which calls of one caller a worker still has to answer: asked for about those that take long (`runtime/inquiries.py`).

Nobody keeps a list, because that would cost every call. So all places are looked at where a call may be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runtime.protocol import Origin
from shard.activation import QueuedCall
from shard.deadlines import TimedOrigin

if TYPE_CHECKING:
    from shard.host import Host


def known_calls(host: Host, client: bytes) -> set[Any]:
    """Their ids."""
    known = set()
    for origin, request_id in _calls(host):
        if isinstance(origin, TimedOrigin):
            origin = origin.origin
        if origin.client == client:
            known.add(request_id)
    return known


def _calls(host: Host) -> Iterator[tuple[Origin, Any]]:
    for kept in host.classes.values():
        for activation in kept.activations.values():
            for task in activation.tasks:
                if task.call is not None:
                    yield task.call[:2]
            if activation.queued_calls:
                for waiter in activation.gate.who_waits():
                    if isinstance(waiter, QueuedCall):
                        yield waiter.origin, waiter.request.id
    commits = host.commits
    for held in (commits.held, commits.in_flight.held if commits.in_flight is not None else ()):
        for message in held:
            if message[1] is not None:
                yield message[1], message[2]
    for calls in (host.waiting.calls(), host.activator.waiting_calls()):
        for request, origin, _ in calls:
            yield origin, request.id
