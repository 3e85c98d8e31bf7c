"""Which calls of one caller a worker still has to answer: asked for about those that take long (`runtime/inquiries.py`).

All places are looked at where a call may be. Where there are objects without calls nobody looks: there may be a million.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tidegate.runtime.wire.protocol import Origin
from tidegate.shard.host.outbound import InternalOrigin

if TYPE_CHECKING:
    from tidegate.shard.host.host import Host


def known_calls(host: Host, client: bytes) -> set[Any]:
    """Their ids."""
    known = set()
    for origin, request_id in _calls(host):
        if isinstance(origin, InternalOrigin):
            origin, request_id = origin.asked_by(request_id)
        if origin.client == client:
            known.add(request_id)
    return known


def _calls(host: Host) -> Iterator[tuple[Origin, Any]]:
    gone = [task for task in host.running if task.call is None or task.done()]
    host.running.difference_update(gone)  # Code that reaches for what is not its own can make a call vanish.
    for task in host.running:
        yield task.call[:2]
    for waiter in host.queued:
        yield waiter.origin, waiter.request.id
    for _, origin, request_id, _, _ in host.output_gate.messages():
        yield origin, request_id
    for calls in (host.waiting.calls(), host.activator.waiting_calls()):
        for request, origin in calls:
            yield origin, request.id
