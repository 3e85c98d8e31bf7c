"""Frames of strangers through the real parser, router machine and host: nothing raises, everything taken is answered once, and
a polite client beside them gets its own answers.

Half of the messages go through the router to the host, the other half straight to the host, as a client of the workers sends
them, or another worker. No sockets: `sockets` has those.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
from random import Random
from typing import Any

import msgspec

from tests.fuzz.echo import Echo
from tests.fuzz.mutation import Mutator
from tests.fuzz.strangers import wrong_message
from tests.fuzz.target import Counts, Tick
from tests.support.host_world import SHARDS, WORLDS, World
from tidegate.router.machine import RouterMachine
from tidegate.runtime.errors import BadRequest
from tidegate.runtime.limits import FORWARDED_BYTES_MAX, TURN_REQUESTS_MAX
from tidegate.runtime.wire.protocol import (
    ERROR,
    OK,
    Message,
    Origin,
    Request,
    encode_bodies,
    parse_message,
    parse_replies,
    parts_of,
)
from tidegate.runtime.wire.supervisor_messages import Topology
from tidegate.shard.loop.loop import new_worker_loop
from tidegate.shard.neutral import NEUTRAL

ROUTER, POLITE = b"router", b"polite"
BATCH = 64
"""Frames between two looks at the polite client."""
WORLD_FRAMES = 20_000
"""Then another world is begun: strangers name ever more objects."""


class FuzzWorld(World):
    """Answers go to whom the message has come from, instead of to a future."""

    def __init__(self) -> None:
        super().__init__(Echo)
        WORLDS.remove(self)  # Nobody asks it by `call`.
        self.replies: collections.deque[tuple[Origin, Any, int, Any]] = collections.deque()

    def _reply(self, origin: Origin, request_id: Any, status: int, result: Any) -> None:
        self.replies.append((origin, request_id, status, result))

    def _system(self, request: Request, origin: Origin) -> None:
        self._reply(origin, request.id, ERROR, BadRequest("no system here").to_wire())

    def take(self, message: Message) -> None:
        self.loop.call_soon(self._handle, message, context=NEUTRAL)


class Scene:
    """Router and host, strangers, and the polite client. `taken` counts calls that are still to be answered."""

    def __init__(self, chance: Random, counts: Counts) -> None:
        self.chance, self.mutator, self.counts = chance, Mutator(chance), counts
        self.world = FuzzWorld()
        self.router = RouterMachine(Topology(1, (0,) * SHARDS, ("ipc://worker",)), self.answer)
        self.taken = 0
        self.expected: dict[int, int] = {}
        self.asked = 0

    def stranger(self) -> None:
        self.send(b"stranger", wrong_message(self.chance, self.mutator), through_router=self.chance.random() < 0.5)

    def polite(self) -> None:
        for through_router in (True, False):
            rows = []
            for _ in range(3):
                self.asked += 1
                self.expected[self.asked] = self.asked * 7
                rows.append([self.asked, "Echo", f"polite-{self.asked % 5}", "echo", [self.asked * 7]])
            self.send(POLITE, [msgspec.msgpack.encode(rows)], through_router=through_router)

    def send(self, client: bytes, frames: list[bytes], *, through_router: bool) -> None:
        messages, dropped = parse_message([client, *frames])
        self.counts["dropped"] += dropped
        for message in itertools.chain.from_iterable(parts_of(each, TURN_REQUESTS_MAX) for each in messages):
            self.counts["refused"] += len(message.refused)
            self.taken += len(message.requests)
            if through_router:
                self.router.handle(message, self.world.loop.time())
            else:
                self.world.take(message)

    async def settle(self) -> None:
        """What the router has goes to the host, what the host answers comes back."""
        for body in self.router.workers[0].take_bodies():
            messages, dropped = parse_message([ROUTER, body], FORWARDED_BYTES_MAX)
            assert not dropped, "the router has sent what no worker can read"
            for message in messages:
                assert not message.refused, message.refused
                self.world.take(message)
        for _ in range(40):
            await asyncio.sleep(0)
            while self.world.replies:
                origin, request_id, status, result = self.world.replies.popleft()
                if origin.client != ROUTER:
                    self.answer(origin, request_id, status, result)
                    continue
                for body in encode_bodies([(request_id, status, result)], json=origin.json, single=False):
                    self.router.replied(self.router.workers[0], parse_replies(body))
            if not self.taken:
                break

    def answer(self, origin: Origin, request_id: Any, status: int, result: Any) -> None:
        self.taken -= 1
        self.counts["answers"] += 1
        encode_bodies([(request_id, status, result)], json=origin.json, single=True)
        if origin.client == POLITE:
            assert status == OK, result
            got = msgspec.msgpack.decode(result) if isinstance(result, msgspec.Raw) else result
            assert got == self.expected.pop(request_id), "somebody else's answer"
            self.counts["polite"] += 1


async def _run(chance: Random, frames: int, tick: Tick, counts: Counts) -> None:
    done = 0
    while done < frames:
        scene, end = Scene(chance, counts), min(frames, done + WORLD_FRAMES)
        while done < end:
            scene.polite()
            for _ in range(min(BATCH, end - done)):
                scene.stranger()
                done += 1
            await scene.settle()
            assert not scene.expected, f"a polite client was not answered: {scene.expected}"
            tick(done)
        for _ in range(200):
            if not scene.taken:
                break
            await asyncio.sleep(0.01)
            await scene.settle()
        assert scene.taken == 0, f"{scene.taken} calls were never answered, or {-scene.taken} twice"
        scene.router.check_invariants()
        scene.world.check()


def fuzz(chance: Random, frames: int, tick: Tick) -> Counts:
    counts = Counts()
    with asyncio.Runner(loop_factory=new_worker_loop) as runner:
        runner.run(_run(chance, frames, tick, counts))
    return counts
