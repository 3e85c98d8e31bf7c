"""A child that speaks the control protocol and does nothing else; how it misbehaves is said in the spec's `app`.

Behaviours: `serve`; `broken` (Failed, fatal); `crash` (exits before Ready); `deaf` (Ready, then answers no ping); `stubborn`
(never drains); `once:FILE` (crashes unless FILE exists, which it creates); `slow` (never Ready); `slowly` (a successor
takes its time to load).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from tidegate.runtime.child.child import log, pin, prepare_child
from tidegate.runtime.child.control import SupervisorGone, receive_spec, send_blocking, stream_to_supervisor, wait_for_open
from tidegate.runtime.wire.supervisor_messages import (
    Drain,
    Drained,
    Failed,
    FromSupervisor,
    Loaded,
    Park,
    Parked,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Ready,
    RouterSpec,
)


def main() -> int:
    control_fd = int(sys.argv[sys.argv.index("--control-fd") + 1])
    try:
        prepare_child("stand-in", control_fd)
        spec = receive_spec(control_fd)
    except SupervisorGone as error:
        log.error("%s", error)
        return 1
    behaviour = "serve" if isinstance(spec, RouterSpec) else spec.app
    if behaviour == "broken":
        send_blocking(control_fd, Failed("import", "app.py", "boom", "mend it", traceback="Traceback: the app's own lines"))
        return 1
    if behaviour == "crash":
        return 3
    if behaviour.startswith("once:") and not os.path.exists(behaviour.removeprefix("once:")):
        with open(behaviour.removeprefix("once:"), "x"):
            return 4
    if isinstance(spec, RouterSpec):
        endpoint = spec.listen
    else:
        pin(spec.cpu)
        if behaviour == "slowly" and spec.source[-1] != "0":
            time.sleep(0.5)
        send_blocking(control_fd, Loaded(spec.source))
        try:
            wait_for_open(control_fd)
        except SupervisorGone:
            return 1
        endpoint = f"ipc://{spec.run_dir}/worker-{spec.index}.{spec.incarnation}"
    asyncio.run(serve(control_fd, endpoint, behaviour))
    return 0


async def serve(control_fd: int, endpoint: str, behaviour: str) -> None:
    loop = asyncio.get_running_loop()
    control = stream_to_supervisor(control_fd, loop)
    over = asyncio.Event()
    topologies = 0

    def on_message(message: FromSupervisor) -> None:
        nonlocal topologies
        if isinstance(message, Ping) and behaviour != "deaf":
            control.send(Pong(message.number, {"topologies": topologies}))
        elif isinstance(message, Drain) and behaviour != "stubborn":
            control.send(Drained())
            over.set()
        elif isinstance(message, Prepare):
            control.send(Prepared())
        elif isinstance(message, Park):
            control.send(Parked(message.worker, message.round))
        else:
            topologies += 1

    control.start(on_message, on_end=lambda: os._exit(1))
    if behaviour != "slow":
        control.send(Ready(endpoint, classes={"Counter": {"methods": {}}}))
    await over.wait()
    control.flush_blocking()


if __name__ == "__main__":
    sys.exit(main())
