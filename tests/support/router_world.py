"""A real router process, fake workers made of plain sockets, and plain clients: everything real but the objects."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import zmq

from tests.support.waiting import WITHIN_S
from tidegate.runtime.child.control import LineBuffer, decode_from_child, encode_line
from tidegate.runtime.sockets.backend import own_door
from tidegate.runtime.sockets.port import keep_port
from tidegate.runtime.wire.supervisor_messages import (
    Drain,
    FromChild,
    RouterSpec,
    StatusChanged,
    ToChild,
    Topology,
    TopologyChanged,
)


class FakeWorker:
    """Answers every call with its own arguments, in the codec of the batch; `hold` keeps calls to itself."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, changed: threading.Condition) -> None:
        self.endpoint = endpoint
        self.hold = False
        self.seen: list[list[Any]] = []
        self.held: list[tuple[bytes, bool, list[Any]]] = []
        self._changed = changed
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 1_000)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.bind(own_door(endpoint))
        self._wake, self._woken = socket.socketpair()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        while not self._stopping:
            for ready, _ in poller.poll():
                if ready is self._socket:
                    self._take(*self._socket.recv_multipart())
                else:
                    self._woken.recv(64)
                    if not self._stopping:
                        self._release()
        self._socket.close()

    def _take(self, client: bytes, body: bytes) -> None:
        json = body[:1] == b"["
        rows = msgspec.json.decode(body) if json else msgspec.msgpack.decode(body)
        with self._changed:
            self.seen += [row for row in rows if len(row) > 4]
            self.held += [(client, json, row) for row in rows]
            self._changed.notify_all()
        if not self.hold:
            self._release()

    def _release(self) -> None:
        held, self.held = self.held, []
        batches: dict[tuple[bytes, bool], list[Any]] = {}
        for client, json, row in held:
            batches.setdefault((client, json), []).append([row[0], 0, row[4] if len(row) > 4 else None])
        for (client, json), rows in batches.items():
            encode = msgspec.json.encode if json else msgspec.msgpack.encode
            self._socket.send_multipart([client, encode(rows)])

    def release(self) -> None:
        """Answers what was held, and holds no longer."""
        self.hold = False
        self._wake.send(b"x")

    def stop(self) -> None:
        self._stopping = True
        self._wake.send(b"x")
        self._thread.join()


class World:
    """A router in its own process with `workers` fake workers, all down at first."""

    def __init__(self, directory: Path, workers: int = 2, shards: int = 8, listen: str | None = None) -> None:
        self.directory = directory
        self.workers: list[FakeWorker | None] = [None] * workers
        self.shards = shards
        self.context: zmq.Context[Any] = zmq.Context()
        self.changed = threading.Condition()
        self._epoch = 0
        self._started = 0
        self._lines = LineBuffer()
        self._messages: list[FromChild] = []
        self.control, theirs = socket.socketpair()
        self._port = keep_port(listen or f"ipc://{directory}/router")
        [listening] = self._port.open()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tidegate.router", "--control-fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno(), listening.fileno()],
            cwd=Path(__file__).parents[2],
        )
        theirs.close()
        fds = (listening.fileno(),)
        self.tell(RouterSpec(0, self._port.endpoint, str(directory), shards, workers, listen_fds=fds))
        listening.close()
        self.ready = self.hear()
        self.endpoint: str = getattr(self.ready, "endpoint", "")

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        self._port.close()
        self.control.close()
        for worker in self.workers:
            if worker is not None:
                worker.stop()
        self.context.destroy(linger=0)

    # Control

    def tell(self, message: ToChild) -> None:
        self.control.sendall(encode_line(message))

    def hear(self) -> FromChild:
        deadline = time.monotonic() + WITHIN_S
        while not self._messages:
            readable, _, _ = select.select([self.control], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, "the router says nothing"
            data = self.control.recv(65_536)
            assert data, "the router has gone"
            self._messages += [decode_from_child(line) for line in self._lines.feed(data)]
        return self._messages.pop(0)

    def start_worker(self, index: int = 0, *, hold: bool = False) -> FakeWorker:
        self._started += 1
        worker = FakeWorker(self.context, f"ipc://{self.directory}/worker-{index}.{self._started}", self.changed)
        worker.hold = hold
        self.workers[index] = worker
        self.tell_topology()
        return worker

    def up(self) -> list[FakeWorker]:
        return [worker for worker in self.workers if worker is not None]

    def hold(self) -> None:
        """From now on the workers keep what they get."""
        for worker in self.up():
            worker.hold = True

    def release(self) -> None:
        for worker in self.up():
            worker.release()

    def wait_seen(self, count: int) -> None:
        """Until the workers that are up have got `count` calls."""
        with self.changed:
            assert self.changed.wait_for(lambda: sum(len(worker.seen) for worker in self.up()) >= count, WITHIN_S)

    def lose_worker(self, index: int = 0) -> None:
        worker = self.workers[index]
        assert worker is not None
        worker.stop()
        self.workers[index] = None
        self.tell_topology()

    def tell_topology(self) -> None:
        self._epoch += 1
        owners = tuple(shard % len(self.workers) for shard in range(self.shards))
        endpoints = tuple(None if worker is None else worker.endpoint for worker in self.workers)
        self.tell(TopologyChanged(Topology(self._epoch, owners, endpoints)))

    def tell_status(self, status: dict[str, Any]) -> None:
        self.tell(StatusChanged(status))

    def drain(self, timeout_s: float) -> None:
        self.tell(Drain(timeout_s))

    # Clients

    def dealer(self, identity: bytes | None = None) -> zmq.Socket[Any]:
        return self._client(zmq.DEALER, identity)

    def req(self) -> zmq.Socket[Any]:
        return self._client(zmq.REQ, None)

    def _client(self, kind: int, identity: bytes | None) -> zmq.Socket[Any]:
        client = self.context.socket(kind)
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.SNDHWM, 0)
        client.setsockopt(zmq.RCVHWM, 0)
        client.setsockopt(zmq.RCVTIMEO, int(WITHIN_S * 1_000))
        if identity is not None:
            client.setsockopt(zmq.IDENTITY, identity)
        client.connect(self.endpoint)
        return client

    def cpu_s(self) -> float:
        """What the router process has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(client: zmq.Socket[Any], *request: Any) -> list[Any]:
    """One MessagePack request, one reply `[id, status, result]`."""
    client.send(msgspec.msgpack.encode(request))
    return list(msgspec.msgpack.decode(client.recv()))


def collect(client: zmq.Socket[Any], count: int) -> list[list[Any]]:
    """Replies of batches until there are `count`."""
    replies: list[list[Any]] = []
    while len(replies) < count:
        replies += msgspec.msgpack.decode(client.recv())
    return replies
