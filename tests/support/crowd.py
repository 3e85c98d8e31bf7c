"""Many clients with a socket of their own each, and one call in flight each: what is in flight is as many calls as clients."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Sequence

import msgspec
import zmq

from tests.support.load import SILENCE_S


class Member:
    """One client of a crowd: what it asked, and what became of it. A `load.BookKeeper`."""

    def __init__(self, number: int, cls: str, names: Sequence[str]) -> None:
        self.name = f"member {number}"
        self.names: Sequence[str] = names
        self.cls = cls
        self.asked = 0
        self.confirmed: list[tuple[str, int]] = []
        self.unknown: collections.Counter[str] = collections.Counter()
        self.errors: collections.Counter[tuple[str, str]] = collections.Counter()

    def next_call(self, method: str) -> bytes:
        name = self.names[self.asked % len(self.names)]
        self.asked += 1
        return msgspec.msgpack.encode([name, self.cls, name, method])

    def take(self, body: bytes) -> None:
        name, status, result = msgspec.msgpack.decode(body)
        if status == 0:
            self.confirmed.append((name, result))
            return
        self.errors[result["code"], result["outcome"]] += 1
        if result["outcome"] == "unknown":
            self.unknown[name] += 1


class Crowd(threading.Thread):
    """`members` REQ sockets; each calls the objects `names` in turn, `calls` times in all. `classes` are dealt to them."""

    def __init__(self, endpoint: str, members: int, calls: int, classes: Sequence[str], names: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.members = [Member(number, classes[number % len(classes)], names) for number in range(members)]
        self.answered = 0
        self.hung = 0
        self._endpoint = endpoint
        self._calls = calls

    def run(self) -> None:
        with zmq.Context() as context:
            context.linger = 0
            sockets = {context.socket(zmq.REQ): member for member in self.members}
            poller = zmq.Poller()
            for socket, member in sockets.items():
                socket.connect(self._endpoint)
                poller.register(socket, zmq.POLLIN)
                socket.send(member.next_call("get_unique_number"))
            waiting = len(sockets)
            heard_at = time.monotonic()
            while waiting and time.monotonic() - heard_at < SILENCE_S:
                for socket, _ in poller.poll(200):
                    heard_at = time.monotonic()
                    member = sockets[socket]
                    member.take(socket.recv())
                    self.answered += 1
                    if member.asked < self._calls:
                        socket.send(member.next_call("get_unique_number"))
                    else:
                        waiting -= 1
            self.hung = waiting
            for socket in sockets:
                socket.close()

    def finish(self, within_s: float) -> None:
        self.join(within_s)
        assert not self.is_alive(), f"{self.answered} answers after {within_s:g} s"
        assert self.hung == 0, f"{self.hung} calls were never answered"
