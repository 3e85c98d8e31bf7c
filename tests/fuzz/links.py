"""Bytes of other processes of the service, wrong: replies on their way to a router and to a client, lines of the supervisor and
of its children. What cannot be read is refused as such, by the error that the reader expects; the rest is taken."""

from __future__ import annotations

from random import Random

import msgspec

from tests.fuzz.mutation import Mutator
from tests.fuzz.target import Counts, Tick
from tests.support.client_world import ROUTER, Answer
from tidegate.router.machine import RouterMachine
from tidegate.runtime.child import control
from tidegate.runtime.child.control import LineBuffer, encode_line
from tidegate.runtime.client.machine import ClientMachine
from tidegate.runtime.client.terms import Terms
from tidegate.runtime.errors import Moved, ShardLost, Unavailable
from tidegate.runtime.wire.encoding import decode_any
from tidegate.runtime.wire.protocol import ERROR, NO_RAW, OK, Malformed, Origin, encode, parse_body, parse_replies
from tidegate.runtime.wire.slots import SlotTable, topology_from_reply, topology_reply
from tidegate.runtime.wire.supervisor_messages import Drain, Failed, Ping, Pong, Ready, StatusChanged, Topology, TopologyChanged

WORKER = "ipc://worker-0.1"
TOPOLOGY = Topology(1, (0, 0), (WORKER,))
ROUND = 200
"""Messages to one machine, which then is begun anew: it does not remember for ever what it was told."""
CHECK_EVERY = 8
"""Messages between two looks at the books, which take longer than the message."""
ERRORS = (Moved(), Unavailable("no"), ShardLost("gone"), Unavailable("bye", details={"leaving": True}))
RESULTS = [result for error in ERRORS for result in ((OK, 7), (OK, {"a": [1]}), (ERROR, error.to_wire()))]


def replies(chance: Random, frames: int, tick: Tick) -> Counts:
    """Of a worker to a router, and of either to a client: its calls are answered once, whatever comes, its books are right."""
    counts, mutator, done = Counts(), Mutator(chance), 0
    while done < frames:
        given: list[tuple[Origin, int | str]] = []
        router = RouterMachine(TOPOLOGY, lambda origin, request_id, *_, given=given: given.append((origin, request_id)))
        terms = Terms(30.0, is_told=False, retries=chance.random() < 0.5)
        client = ClientMachine(ROUTER, terms=terms, direct=True, session="s", chance=chance.random)
        client.keys_told(kept=True)
        client.link_connected(1, 0.0)
        client.topology_received(TOPOLOGY, {WORKER}, 0.0)
        asked: list[Answer] = []
        for now in range(min(ROUND, frames - done)):
            for name in ("a", "b"):
                asked.append(Answer())
                client.call(asked[-1], client.slot_of("C", name), "C", name, "m", NO_RAW, decode_any, None, float(now))
            sent = client.take_messages(float(now))
            client.take_effects()
            if now == 1:
                client.link_connected(2, 1.0)
            for _, body in sent:
                router.handle(parse_body(b"client", body), float(now))
            router.workers[0].take_bodies()
            good = encode([[chance.randrange(2 * now + 3), *chance.choice(RESULTS)] for _ in range(3)])
            wrong = mutator.wrong_bytes(good, good)
            router_link = client._router.number
            client.message_received(chance.choice((router_link, 2)) if now else router_link, wrong, float(now))
            if chance.random() < 0.02:
                client.link_lost(2, float(now))
            if not client._router.connected:  # It has said that it leaves.
                client.link_lost(client._router.number, float(now))
                client.link_connected(client._router.number, float(now))
            client.take_messages(float(now))  # What was not sent yet may have been answered.
            if now % CHECK_EVERY == 0:
                client.check_invariants()
            try:
                router.replied(router.workers[0], parse_replies(wrong))
                counts["read"] += 1
            except Malformed:
                counts["refused"] += 1
            done += 1
        router.check_invariants()
        client.check_invariants()
        assert len(given) == len({(id(origin), request_id) for origin, request_id in given}), "a call was answered twice"
        client.close()
        assert all(len(answer.answers) == 1 for answer in asked), "a call was never answered"
        tick(done)
    return counts


def topologies(chance: Random, frames: int, tick: Tick) -> Counts:
    """What a client reads of the answer to `topology`: a topology, or ValueError."""
    counts, mutator, good = Counts(), Mutator(chance), topology_reply(SlotTable(TOPOLOGY))
    for done in range(frames):
        try:
            topology_from_reply(msgspec.msgpack.decode(msgspec.msgpack.encode(mutator.wrong_value(good))))
            counts["read"] += 1
        except (ValueError, RecursionError):  # Too deep already for the decoder of the reply.
            counts["refused"] += 1
        if done % 1_000 == 0:
            tick(done)
    return counts


LINES = [
    encode_line(message)
    for message in (
        TopologyChanged(TOPOLOGY), Ping(7), Drain(3.0), StatusChanged({"state": "serving"}), Ready("ipc://w", {"C": {}}, 3),
        Pong(7, {"calls": 3, "problems": []}), Failed("start", "here", "a problem", "a hint"),
    )
]  # fmt: skip


def control_lines(chance: Random, frames: int, tick: Tick) -> Counts:
    """A line is a message or it is refused by an error that the stream catches; the lines behind it are read."""
    counts, mutator = Counts(), Mutator(chance)
    for done in range(frames):
        decode = chance.choice((control.decode_from_child, control._decode_from_supervisor, control._decode_spec))
        wrong = mutator.wrong_bytes(chance.choice(LINES), chance.choice(LINES)).rstrip(b"\n")
        buffer, lines = LineBuffer(), [b""]
        for piece in (wrong[:5], wrong[5:], b"\n", LINES[1]):
            lines += buffer.feed(piece)
        assert lines[-1] + b"\n" == LINES[1]
        for line in lines[1:-1]:
            try:
                decode(line)
                counts["read"] += 1
            except (msgspec.MsgspecError, ValueError, RecursionError):
                counts["refused"] += 1
        if done % 1_000 == 0:
            tick(done)
    return counts
