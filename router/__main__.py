"""The edge of the router process: `python -m tidegate.router --control-fd N`, started by the supervisor and by nobody else."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from typing import Any

import uvloop
import zmq

from tidegate.router.server import RouterServer
from tidegate.runtime.child.child import prepare_child
from tidegate.runtime.child.control import SupervisorGone, receive_spec, send_blocking, stream_to_supervisor
from tidegate.runtime.sockets.context import new_context
from tidegate.runtime.sockets.endpoint import prepare_uncopied
from tidegate.runtime.sockets.port import listen_hint, listen_passes, start_listening
from tidegate.runtime.wire.supervisor_messages import Drained, Failed, Ready, RouterSpec


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tidegate.router", description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True)
    control_fd = parser.parse_args(arguments).control_fd
    try:
        outputs = prepare_child("router", control_fd)
        spec = receive_spec(control_fd)
    except SupervisorGone:
        return 1
    assert isinstance(spec, RouterSpec), spec
    outputs.name(spec.name)
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)  # Calls in flight are many tracked tuples and no cycles: 0.4 µs less for each call.
    prepare_uncopied()
    return _serve(spec, new_context(), control_fd)


def _serve(spec: RouterSpec, context: zmq.Context[Any], control_fd: int) -> int:
    loop = uvloop.new_event_loop()
    control = stream_to_supervisor(control_fd, loop)

    def drained(unanswered: int) -> None:
        control.send(server.pong(0))  # Its last counts.
        control.send(Drained(unanswered))
        loop.stop()

    server = RouterServer(spec, context, loop, control.send, drained)
    try:
        for fd in spec.listen_fds:
            server.bind(start_listening(fd), fd)
    except (OSError, zmq.ZMQError) as error:
        send_blocking(control_fd, _cannot_listen(spec.listen, error))
        server.close()
        context.term()
        return 1
    control.start(server.on_control, _supervisor_gone)
    server.start()
    control.send(Ready(endpoint=spec.listen))
    loop.run_forever()
    server.close()
    control.flush_blocking()
    context.term()  # Waits until the last replies have left, two seconds at most.
    return 0


def _cannot_listen(endpoint: str, error: OSError | zmq.ZMQError) -> Failed:
    problem = zmq.strerror(error.errno or 0) if isinstance(error, zmq.ZMQError) else error.strerror or str(error)
    return Failed("listen", endpoint, problem=problem, hint=listen_hint(error.errno), fatal=not listen_passes(error.errno))


def _supervisor_gone() -> None:
    os._exit(1)  # Nobody is left to report to, and clients must see the end at once.


if __name__ == "__main__":
    sys.exit(main())
