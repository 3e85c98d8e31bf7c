"""The bare pipeline: the real I/O of the design with none of the product. No design on this machine does better by much.

Requests of wire protocol 1 come over ZeroMQ; a shard process (uvloop, pinned) runs a coroutine over a dict, appends each
group to a log that was written before, with one fdatasync, and holds replies until that is durable. There is no recovery, no
gate, no checkpoint, no liveness, no bound, no validation. The router only hashes and forwards.

`python -m tidegate.benchmarks.peers.pipeline shard|router …` is one process of it; it says `ready`, and ends when its input does.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import os
import queue
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, cast

import msgspec
import uvloop
import zmq
from zmq.backend import Socket as BackendSocket

from tidegate.runtime.ids import shard_of_slot, slot_of

_send = BackendSocket.send
_recv = BackendSocket.recv
_get = cast("Callable[[Any, int], int]", BackendSocket.get)
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_encode = msgspec.msgpack.Encoder().encode
_decode_args = msgspec.msgpack.Decoder(list[Any]).decode
_LOG_BYTES = 32 << 20
_LOG_WRAP_BYTES = 28 << 20
_TURN_MESSAGES_MAX = 50


class Request(msgspec.Struct, array_like=True, gc=False):
    id: int
    cls: str
    name: str
    method: str
    args: msgspec.Raw


class Routed(msgspec.Struct, array_like=True, gc=False):
    """A request with the client it came from, between router and shard."""

    client: bytes
    id: int
    cls: str
    name: str
    method: str
    args: msgspec.Raw


class RoutedReply(msgspec.Struct, array_like=True, gc=False):
    client: bytes
    id: int
    status: int
    result: msgspec.Raw


def open_socket(kind: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    for option in (zmq.RCVHWM, zmq.SNDHWM, zmq.LINGER):
        socket.setsockopt(option, 0)
    return socket


def say_ready() -> None:
    os.write(1, b"ready\n")


# Objects


class Now:
    """An awaitable that is done: awaiting it never yields to the loop."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Generator[None, None, Any]:
        return self.value
        yield  # type: ignore[unreachable]  # makes it a generator


_DONE = Now(None)


class Storage:
    __slots__ = ("cache", "confirm_seq", "dirty", "name", "shard")

    def __init__(self, shard: Shard, name: str) -> None:
        self.cache: dict[str, Any] = {}
        self.dirty: dict[str, bytes] = {}
        self.name = name
        self.shard = shard
        self.confirm_seq = 0

    def get(self, key: str, default: Any = None) -> Now:
        return Now(self.cache.get(key, default))

    def put(self, key: str, value: Any) -> Now:
        self.cache[key] = value
        if not self.dirty:
            self.shard.dirty.append(self)
        self.dirty[key] = _encode(value)
        self.confirm_seq = self.shard.open_seq
        return _DONE


class Counter:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def get_unique_number(self) -> int:
        value: int = await self.storage.get("counter", 0)
        self.storage.put("counter", value + 1)
        return value

    async def current(self) -> int:
        value: int = await self.storage.get("counter", 0)
        return value


# Shard


class Shard:
    def __init__(self, endpoint: str, log_path: str, *, routed: bool, sync: str) -> None:
        self.dirty: list[Storage] = []
        self.open_seq = 1
        self._durable_seq = 0
        self._routed, self._sync = routed, sync
        self._decode = msgspec.msgpack.Decoder(list[Routed if routed else Request]).decode  # type: ignore[misc]  # chosen at start
        self._objects: dict[tuple[str, str], Counter] = {}
        self._held: collections.deque[tuple[int, tuple[Any, ...]]] = collections.deque()
        self._syncing = False
        self._jobs: queue.SimpleQueue[tuple[bytes, int]] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._log = os.open(log_path, os.O_CREAT | os.O_WRONLY, 0o600)
        os.write(self._log, bytes(_LOG_BYTES))  # Written, not merely allocated: appends then change no metadata.
        os.fsync(self._log)
        self._position = 0
        self._socket = open_socket(zmq.DEALER if routed else zmq.ROUTER)
        self._socket.bind(endpoint)

    def start(self) -> None:
        if self._sync == "thread":
            threading.Thread(target=self._append_jobs, daemon=True).start()
        self._loop.add_reader(self._socket.fileno(), self._drain)
        self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        socket, routed, objects, held = self._socket, self._routed, self._objects, self._held
        out: list[tuple[Any, ...]] = []
        for _ in range(_TURN_MESSAGES_MAX):
            try:
                client = None if routed else _recv(socket, _NOBLOCK)
                body = _recv(socket, _NOBLOCK)
            except zmq.Again:
                break
            for request in self._decode(body):
                key = (request.cls, request.name)
                counter = objects.get(key)
                if counter is None:
                    counter = objects[key] = Counter(Storage(self, request.name))
                call: Coroutine[Any, Any, Any] = getattr(counter, request.method)(*_decode_args(request.args))
                try:
                    call.send(None)
                except StopIteration as done:
                    reply = (request.client if routed else client, request.id, 0, done.value)
                    if counter.storage.confirm_seq <= self._durable_seq:
                        out.append(reply)
                    else:
                        held.append((counter.storage.confirm_seq, reply))
        else:
            self._loop.call_soon(self._drain)
        self._answer(out)
        if self.dirty and not self._syncing:
            self._commit()
        self._rearm()

    def _rearm(self) -> None:
        if _get(self._socket, _EVENTS) & _POLLIN:  # A send or receive may have consumed the readiness edge.
            self._loop.call_soon(self._drain)

    def _commit(self) -> None:
        group = _encode([(storage.name, storage.dirty) for storage in self.dirty])
        for storage in self.dirty:
            storage.dirty = {}
        self.dirty = []
        seq = self.open_seq
        self.open_seq += 1
        if self._sync == "inline":
            self._append(group)
            self._durable(seq)
        elif self._sync == "thread":
            self._syncing = True
            self._jobs.put((group, seq))
        else:
            self._loop.call_soon(self._durable, seq)

    def _append(self, group: bytes) -> None:
        os.pwrite(self._log, group, self._position)
        self._position = (self._position + len(group)) % _LOG_WRAP_BYTES
        os.fdatasync(self._log)

    def _append_jobs(self) -> None:
        while True:
            group, seq = self._jobs.get()
            self._append(group)
            self._loop.call_soon_threadsafe(self._durable, seq)

    def _durable(self, seq: int) -> None:
        self._durable_seq, self._syncing = seq, False
        held, out = self._held, []
        while held and held[0][0] <= seq:
            out.append(held.popleft()[1])
        self._answer(out)
        if self.dirty:
            self._commit()

    def _answer(self, out: list[tuple[Any, ...]]) -> None:
        if not out:
            return
        if self._routed:
            _send(self._socket, _encode(out), _NOBLOCK)
        else:
            rows_by_client: dict[bytes, list[Any]] = {}
            for client, *row in out:
                rows_by_client.setdefault(client, []).append(row)
            for client, rows in rows_by_client.items():
                _send(self._socket, client, _NOBLOCK_MORE)
                _send(self._socket, _encode(rows), _NOBLOCK)
        self._rearm()


async def run_shard(options: argparse.Namespace) -> None:
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    sys.setswitchinterval(0.0005)
    shard = Shard(options.endpoint, options.log, routed=options.routed, sync=options.sync)
    shard.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, ended.set)
    say_ready()
    await ended.wait()


# Router


def run_router(options: argparse.Namespace) -> None:
    front = open_socket(zmq.ROUTER)
    front.bind(options.endpoint)
    backs = [open_socket(zmq.DEALER) for _ in options.shard]
    poller = zmq.Poller()
    for back, endpoint in zip(backs, options.shard, strict=True):
        back.connect(endpoint)
        poller.register(back, zmq.POLLIN)
    poller.register(front, zmq.POLLIN)
    poller.register(0, zmq.POLLIN)
    say_ready()
    while True:
        ready = dict(poller.poll())
        if 0 in ready:
            return
        if front in ready:
            _forward_requests(front, backs)
        _return_replies(front, [back for back in backs if back in ready])


_decode_requests = msgspec.msgpack.Decoder(list[Request]).decode
_decode_routed_replies = msgspec.msgpack.Decoder(list[RoutedReply]).decode


def _forward_requests(front: zmq.Socket[bytes], backs: list[zmq.Socket[bytes]]) -> None:
    shards = len(backs)
    groups: list[list[Routed]] = [[] for _ in backs]
    for _ in range(1_000):
        try:
            client = _recv(front, _NOBLOCK)
        except zmq.Again:
            break
        for r in _decode_requests(_recv(front, _NOBLOCK)):
            group = groups[shard_of_slot(slot_of(r.cls, r.name), shards)]
            group.append(Routed(client, r.id, r.cls, r.name, r.method, r.args))
    for back, group in zip(backs, groups, strict=True):
        if group:
            _send(back, _encode(group), _NOBLOCK)


def _return_replies(front: zmq.Socket[bytes], backs: list[zmq.Socket[bytes]]) -> None:
    rows_by_client: dict[bytes, list[tuple[int, int, msgspec.Raw]]] = {}
    for back in backs:
        for _ in range(100):
            try:
                body = _recv(back, _NOBLOCK)
            except zmq.Again:
                break
            for r in _decode_routed_replies(body):
                rows_by_client.setdefault(r.client, []).append((r.id, r.status, r.result))
    for client, rows in rows_by_client.items():
        _send(front, client, _NOBLOCK_MORE)
        _send(front, _encode(rows), _NOBLOCK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    shard = roles.add_parser("shard")
    shard.add_argument("--endpoint", required=True)
    shard.add_argument("--log", required=True)
    shard.add_argument("--cpu", type=int)
    shard.add_argument("--routed", action="store_true", help="behind the router of the pipeline")
    shard.add_argument("--sync", choices=("inline", "thread", "none"), default="inline", help="where fdatasync runs")
    router = roles.add_parser("router")
    router.add_argument("--endpoint", required=True)
    router.add_argument("--shard", action="append", required=True, help="endpoint of a shard, in order")
    options = parser.parse_args()
    if options.role == "shard":
        uvloop.run(run_shard(options))
    else:
        run_router(options)


if __name__ == "__main__":
    main()
