"""The ZeroMQ context of a process of ours, or of a client."""

from __future__ import annotations

from typing import Any

import zmq

from tidegate.runtime import descriptors


def new_context() -> zmq.Context[Any]:
    """One without a bound of its own on sockets: 1,023 unless told otherwise, which is some 180 threads of one client. Raises
    Unavailable."""
    descriptors.require("connect")
    context = _Context()
    context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))
    return context


class _Context(zmq.Context[Any]):
    """Knows its sockets until they are closed. Where a client is dropped unclosed, and collected as part of a cycle (that of an
    exception, say), the weak references of pyzmq 27 are gone before the context is finalized: it would then wait for ever, in
    the middle of whatever had the collector run, for sockets that nobody can close any more."""

    def __init__(self) -> None:
        super().__init__()
        self._sockets = set()  # type: ignore[assignment]  # not a WeakSet, on purpose
