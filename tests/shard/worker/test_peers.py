"""Calls to objects of other workers, over real sockets: where they go while a worker is replaced, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import zmq
import zmq.asyncio

from tests.support.waiting import WITHIN_S
from tidegate.runtime.addresses import free_port
from tidegate.runtime.errors import CallError, Moved
from tidegate.runtime.sockets.backend import own_door
from tidegate.runtime.wire.protocol import Request
from tidegate.runtime.wire.supervisor_messages import Park, Parked, Topology, Waited
from tidegate.shard.host.outbound import InternalOrigin
from tidegate.shard.worker.peers import Peers

SECRET = zmq.curve_keypair()[1].decode()


class Asked(InternalOrigin):
    """A call, and its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Any] = []

    def answer(self, status: int, result: Any) -> None:
        self.answers.append(msgspec.msgpack.decode(result))

    def fail(self, error: CallError) -> None:
        self.answers.append(error.code)


class Callee:
    """The process of a worker, played by a plain socket."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str) -> None:
        self.endpoint = endpoint
        self.seen: dict[str, tuple[bytes, int]] = {}
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        if endpoint.startswith("tcp://"):  # The door of another host.
            self._socket.setsockopt(zmq.CURVE_SERVER, 1)
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, SECRET.encode())
        self._socket.bind(own_door(endpoint))

    async def has(self, name: str) -> None:
        """The call to the object of that name has come."""
        while name not in self.seen:
            peer, body = await asyncio.wait_for(self._socket.recv_multipart(), WITHIN_S)
            self.seen |= {row[2]: (peer, row[0]) for row in msgspec.msgpack.decode(body)}

    async def refuse(self, name: str) -> None:
        peer, token = self.seen[name]
        await self._socket.send_multipart([peer, msgspec.msgpack.encode([[token, 1, Moved("not here").to_wire()]])])

    async def answer(self, name: str) -> None:
        peer, token = self.seen[name]
        await self._socket.send_multipart([peer, msgspec.msgpack.encode([[token, 0, f"of {name}"]])])

    def close(self) -> None:
        self._socket.close()


class Net:
    def __init__(self, folder: Path) -> None:
        self.told: list[Parked | Waited] = []
        self.callees: list[Callee] = []
        self._context = zmq.asyncio.Context()
        self._plain: zmq.Context[Any] = zmq.Context(self._context)
        self._folder = folder
        loop = asyncio.get_running_loop()
        self.peers = Peers(self._plain, loop, b"tidegate-worker-1.1", lambda: None, self.told.append, SECRET)

    def start(self, *, nobody: int | None = None) -> Callee:
        """Another process of worker 0 listens, and everybody is told. `nobody`: it is one of a cluster."""
        callee = Callee(self._context, f"ipc://{self._folder}/{len(self.callees)}")
        self.callees.append(callee)
        endpoints = (callee.endpoint,) if nobody is None else (callee.endpoint, None)
        self.peers.topology_changed(Topology(len(self.callees), (0,), endpoints, nobody=nobody))
        return callee

    def host(self) -> Callee:
        """The door of another host."""
        callee = Callee(self._context, f"tcp://127.0.0.1:{free_port()}#1.1")
        self.callees.append(callee)
        return callee

    def call(self, name: str) -> Asked:
        asked = Asked()
        self.peers.send(Request(0, "C", name, "m", msgspec.Raw(b"\x90")), cast(Any, asked))
        return asked

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                await asyncio.sleep(0.001)

    def close(self) -> None:
        self.peers.close()
        for callee in self.callees:
            callee.close()
        self._context.destroy(linger=0)


async def test_calls_to_a_worker_that_is_being_replaced_wait_and_go_to_its_successor_in_order(tmp_path: Path) -> None:
    with closing(Net(tmp_path)) as net:
        old = net.start()
        before = net.call("a")
        await old.has("a")
        net.peers.park(Park(0, 1))
        waiting = [net.call(name) for name in ("b", "c")]
        assert net.told == [], "it has a call that it has not answered"
        await old.answer("a")
        await net.until(lambda: bool(before.answers))
        assert net.told == [Parked(0, 1)]
        new = net.start()
        await new.has("c")
        assert old.seen.keys() == {"a"}
        assert list(new.seen) == ["b", "c"]
        for name in ("b", "c"):
            await new.answer(name)
        await net.until(lambda: all(each.answers for each in waiting))
        assert [before.answers, *(each.answers for each in waiting)] == [["of a"], ["of b"], ["of c"]]
        [_, waited] = net.told
        assert isinstance(waited, Waited)
        assert (waited.worker, waited.calls) == (0, 2)
        assert net.peers.unanswered == 0


async def test_in_each_further_round_a_worker_that_is_being_replaced_gets_what_has_waited_and_that_is_told_anew(
    tmp_path: Path,
) -> None:
    """What it runs may wait for just that."""
    with closing(Net(tmp_path)) as net:
        old = net.start()
        calls = [net.call("a")]
        await old.has("a")
        net.peers.park(Park(0, 1))
        calls.append(net.call("b"))
        net.peers.park(Park(0, 2))
        await old.has("b")
        calls.append(net.call("c"))
        await old.answer("b")
        await net.until(lambda: bool(calls[1].answers))
        assert net.told == []
        await old.answer("a")
        await net.until(lambda: bool(net.told))
        assert net.told == [Parked(0, 2)], "of the newest round only"
        net.peers.park(Park(0, 3))
        await old.has("c")
        await old.answer("c")
        await net.until(lambda: len(net.told) == 2)
        assert net.told[1] == Parked(0, 3)
        net.start()
        assert net.told[2:] == [Waited(0, 2, cast(Waited, net.told[2]).longest_ms)]
        assert [each.answers for each in calls] == [["of a"], ["of b"], ["of c"]]


async def test_of_a_worker_that_dies_while_it_is_being_replaced_what_it_had_is_lost_and_what_waited_is_not(
    tmp_path: Path,
) -> None:
    with closing(Net(tmp_path)) as net:
        old = net.start()
        had = net.call("a")
        await old.has("a")
        net.peers.park(Park(0, 1))
        waits = net.call("b")
        new = net.start()
        await new.has("b")
        await new.answer("b")
        await net.until(lambda: bool(waits.answers))
        assert (had.answers, waits.answers) == (["shard_lost"], ["of b"])


async def test_a_worker_that_nobody_has_called_is_told_of_at_once_and_one_that_is_not_known_is_not(tmp_path: Path) -> None:
    with closing(Net(tmp_path)) as net:
        net.start()
        net.peers.park(Park(0, 1))
        assert net.told == [Parked(0, 1)]
        net.peers.park(Park(7, 1))
        assert net.told == [Parked(0, 1)]


async def test_what_waits_for_a_shard_that_nobody_has_goes_to_whoever_comes_to_have_it(tmp_path: Path) -> None:
    with closing(Net(tmp_path)) as net:
        callee = net.start()
        net.peers.topology_changed(Topology(2, (1,), (callee.endpoint, None), nobody=1))
        calls = [net.call(name) for name in ("a", "b")]
        await asyncio.sleep(0)
        assert callee.seen == {}
        net.peers.topology_changed(Topology(3, (0,), (callee.endpoint, None), nobody=1))
        await callee.has("b")
        assert list(callee.seen) == ["a", "b"]
        for name in ("a", "b"):
            await callee.answer(name)
        await net.until(lambda: all(each.answers for each in calls))
        assert [each.answers for each in calls] == [["of a"], ["of b"]]
        assert net.peers.unanswered == 0


async def test_what_another_host_has_no_longer_goes_to_the_next_one_when_that_is_known(tmp_path: Path) -> None:
    with closing(Net(tmp_path)) as net:
        callee, one, two = net.start(), net.host(), net.host()
        endpoints = (callee.endpoint, None, one.endpoint, two.endpoint)
        net.peers.topology_changed(Topology(2, (2,), endpoints, nobody=1))
        asked = net.call("a")
        await one.has("a")
        await one.refuse("a")
        moved = net.call("b")
        await one.has("b")
        net.peers.topology_changed(Topology(3, (3,), endpoints, nobody=1))
        await two.has("a")
        await one.refuse("b")
        await two.has("b")
        for name in ("a", "b"):
            await two.answer(name)
        await net.until(lambda: bool(asked.answers and moved.answers))
        assert (asked.answers, moved.answers) == (["of a"], ["of b"])
        assert net.peers.unanswered == 0


async def test_a_call_that_a_host_has_refused_is_not_sent_there_again_because_a_connection_comes_up(tmp_path: Path) -> None:
    with closing(Net(tmp_path)) as net:
        callee, one = net.start(), net.host()
        endpoints = (callee.endpoint, None, one.endpoint)
        net.peers.topology_changed(Topology(2, (2,), endpoints, nobody=1))
        asked = net.call("a")
        await one.has("a")
        await one.refuse("a")
        await net.until(lambda: net.peers._is_early)
        net.peers._hosts_changed()
        assert [len(each.unanswered) for each in net.peers._workers] == [0, 1, 0], "it waits for whoever comes to have the shard"
        net.peers.topology_changed(Topology(3, (0,), endpoints, nobody=1))
        await callee.has("a")
        await callee.answer("a")
        await net.until(lambda: bool(asked.answers))
        assert asked.answers == ["of a"]


async def test_a_call_that_its_worker_does_not_take_any_longer_waits_until_it_is_known_who_has_the_shard(tmp_path: Path) -> None:
    with closing(Net(tmp_path)) as net:
        callee = net.start(nobody=1)
        asked = net.call("a")
        await callee.has("a")
        await callee.refuse("a")
        await net.until(lambda: net.peers._is_early)
        assert asked.answers == []
        net.peers.topology_changed(Topology(2, (1,), (callee.endpoint, None), nobody=1))
        callee.seen.clear()
        net.peers.topology_changed(Topology(3, (0,), (callee.endpoint, None), nobody=1))
        await callee.has("a")
        await callee.answer("a")
        await net.until(lambda: bool(asked.answers))
        assert asked.answers == ["of a"]


async def test_a_call_in_flight_to_a_host_that_dies_is_lost_and_later_ones_wait_for_the_next(tmp_path: Path) -> None:
    with closing(Net(tmp_path)) as net:
        callee, one, two = net.start(), net.host(), net.host()
        endpoints = (callee.endpoint, None, one.endpoint, two.endpoint)
        net.peers.topology_changed(Topology(2, (2,), endpoints, nobody=1))
        asked = net.call("a")
        await one.has("a")
        one.close()
        await net.until(lambda: bool(asked.answers))
        assert asked.answers == ["shard_lost"]
        waits = net.call("b")
        net.peers.topology_changed(Topology(3, (3,), endpoints, nobody=1))
        await two.has("b")
        await two.answer("b")
        await net.until(lambda: bool(waits.answers))
        assert waits.answers == ["of b"]
