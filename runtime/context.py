"""The ZeroMQ context of a process of ours, or of a client."""

from __future__ import annotations

from typing import Any

import zmq

from runtime import descriptors


def new_context() -> zmq.Context[Any]:
    """One without a bound of its own on sockets: 1,023 unless told otherwise, which is some 180 threads of one client. Raises
    Unavailable."""
    descriptors.require("connect")
    context: zmq.Context[Any] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))
    return context
