"""Batches of calls with keys to a host of which the test is the disk: repeats, several commits under way, failed writes, crashes.

The model is a list. Each call adds its own name to the journal of an object, so that the journal says in the end which calls have
run, how often, and in which order; what a call was answered is compared with that. A client repeats what it has no answer for
until it has one, as the Python clients do, and now and then what it has one for.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any, NamedTuple

from tests.fuzz.target import Counts, Tick
from tests.support import host_world
from tests.support.host_world import Call, World
from tidegate.runtime.errors import BadRequest, CallError, Interrupted, MethodRaised, TooLarge
from tidegate.runtime.limits import KEPT_RESULT_BYTES_MAX
from tidegate.shard.loop.loop import new_worker_loop
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.objects.threads import keep_to_this_thread

STEPS = 80
"""In one world, which then is brought to its end."""
OBJECTS = "abc"
WAITED = 20
"""Turns of the loop, by a method that writes twice."""
ROUNDS_MAX, STEPS_MAX = 40, 2_000
"""Of repeats at the end, in which nothing fails any more, and of commits in each."""
FIRST_ID = 1_000_000


class Journal(DurableObject):
    async def _note(self, tag: str) -> int:
        noted: list[str] = [*await self.storage.get("noted", []), tag]
        self.storage.put("noted", noted)
        return len(noted)

    async def _wait(self) -> None:
        """Long enough for a commit, which may fail, and for two now and then."""
        for _ in range(WAITED):
            await asyncio.sleep(0)

    async def note(self, tag: str) -> int:
        return await self._note(tag)

    async def note_later(self, tag: str) -> int:
        await asyncio.sleep(0)
        return await self._note(tag)

    async def note_and_tell(self, tag: str) -> dict[str, Any]:
        return {"at": await self._note(tag), "tag": tag}

    async def note_and_raise(self, tag: str) -> None:
        raise ValueError(f"{tag} at {await self._note(tag)}")

    async def note_much(self, tag: str) -> list[Any]:
        return [await self._note(tag), b"x" * (KEPT_RESULT_BYTES_MAX + 1)]

    async def note_twice(self, tag: str) -> int:
        """In two commits, if one comes in between."""
        await self._note(f"{tag} begins")
        await self._wait()
        return await self._note(f"{tag} ends")

    async def pass_on(self, tag: str, name: str) -> int:
        return int(await self.stub(Journal, name).note(tag))

    async def note_and_pass_on(self, tag: str, name: str) -> int:
        """Has written, durably if a commit comes in between, before what it asks for can fail: it must not run again."""
        await self._note(f"{tag} begins")
        await self._wait()
        return int(await self.stub(Journal, name).note_twice(f"{tag} there"))

    async def pass_on_and_note(self, tag: str, name: str) -> int:
        """Has written when what it has asked for fails, and may not be durable yet."""

        async def note() -> None:
            await self._wait()
            await self._note(f"{tag} begins")

        asked = self.stub(Journal, name).note_twice(f"{tag} there")
        place, _ = await asyncio.gather(asked, note(), return_exceptions=True)
        if isinstance(place, BaseException):
            raise place
        return int(place)

    async def pass_on_or_note(self, tag: str, name: str) -> int:
        """Writes that what it has asked for has failed: then that is its answer, and it must not run again."""
        try:
            return int(await self.stub(Journal, name).note_twice(f"{tag} there"))
        except CallError:
            await self._note(f"{tag} begins")
            raise

    async def read(self, tag: str) -> list[str]:
        noted: list[str] = await self.storage.get("noted", [])
        return noted


PASSING = {"ObjectReset"}
"""What an object that was asked may be lost by. Its caller is told, and may ask again."""

WRITES_AND_ASKS = ("note_and_pass_on", "pass_on_and_note", "pass_on_or_note")
METHODS = {
    "note": 8, "note_later": 3, "note_and_tell": 2, "note_and_raise": 2, "note_much": 1, "note_twice": 3, "pass_on": 3,
    "note_and_pass_on": 6, "pass_on_and_note": 6, "pass_on_or_note": 9, "read": 4,
}  # fmt: skip


class Asked(NamedTuple):
    """A call as its caller knows it."""

    key: dict[str, Any]
    """As options name it."""
    name: str
    method: str
    args: tuple[str, ...]
    seen: dict[str, int]
    """How many entries of each journal its caller knew of when it was made."""

    @property
    def tag(self) -> str:
        return self.args[0]

    @property
    def noted_in(self) -> str:
        return self.args[-1] if self.passes_on else self.name

    @property
    def passes_on(self) -> bool:
        return self.method == "pass_on" or self.method in WRITES_AND_ASKS


class Session:
    """The caller's side of one."""

    def __init__(self, name: str, *, first: int = 0, has_head: bool = False, is_plain: bool = False, json: bool = False) -> None:
        self.name = name
        self.json = json
        """Its codec: a call that is repeated in the other one is another call."""
        self.has_head = has_head
        """Its batches say once whose calls they are; else the options of each call do."""
        self.is_plain = is_plain
        """It is none: each call has a key of its own."""
        self.made = first
        self.told_answered = 0
        self.waiting: dict[int, Asked] = {}
        self.answered: dict[int, Asked] = {}

    @property
    def lowest(self) -> int:
        return min(self.waiting, default=self.made)


class Run:
    """One world, and what its callers were answered."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.world = World(Journal, auto=False)
        self.sessions = [
            Session("Client-1", has_head=True),
            Session("Client-2"),
            Session("Json", first=FIRST_ID // 2, has_head=True, json=True),
            Session("Plain", is_plain=True),
        ]
        self.answers: dict[str, Any] = {}
        """By tag: what the caller was answered first."""
        self.known = dict.fromkeys(OBJECTS, 0)
        """Entries of each journal that somebody was told of: they are durable."""
        self.asked: dict[Call, tuple[Session, int, Asked]] = {}
        """Calls in flight."""
        self.ids = itertools.count(FIRST_ID)
        """Of requests that are not numbered by their session."""
        self.counts = Counts()

    # What callers do

    def make(self, session: Session) -> tuple[int, Asked]:
        number = session.made
        session.made += 1
        tag, name = f"{session.name}.{number}", self.chance.choice(OBJECTS)
        method = self.chance.choices(list(METHODS), list(METHODS.values()))[0]
        if method == "note_much" and session.json:
            method = "note"  # JSON has no bytes.
        args = (tag, self.chance.choice(OBJECTS.replace(name, ""))) if "pass_on" in method else (tag,)
        key = {"key": tag if not session.is_plain else f"order {number}"}
        asked = session.waiting[number] = Asked(key, name, method, args, dict(self.known))
        return number, asked

    def batch(self) -> None:
        """New calls and repeats in any mixture, behind the head of the session if it has one."""
        session, chance = self.chance.choice(self.sessions), self.chance
        if chance.random() < 0.7:
            session.told_answered = max(session.told_answered, session.lowest)
        repeats = [(number, session.waiting[number]) for number in session.waiting if chance.random() < 0.3]
        repeats += [(number, asked) for number, asked in session.answered.items() if chance.random() < 0.05]
        new = [self.make(session) for _ in range(chance.randrange(5))]
        self.send(session, new, repeats)

    def send(self, session: Session, new: Sequence[tuple[int, Asked]], repeats: Sequence[tuple[int, Asked]]) -> None:
        calls = [(True, *each) for each in new] + [(False, *each) for each in repeats]
        if self.chance.random() < 0.2:
            self.chance.shuffle(calls)
        rows: list[list[Any]] = []
        for is_new, number, asked in calls:
            row = [number, "Journal", asked.name, asked.method, list(asked.args)]
            if not is_new or not session.has_head:
                row[0] = next(self.ids)
                row.append(asked.key if session.is_plain else {**asked.key, "answered": session.told_answered})
            rows.append(row)
            self.counts["new" if is_new else "repeated"] += 1
        if not rows:
            return
        if session.has_head:
            made = self.world.session(rows, name=session.name, answered=session.told_answered, json=session.json)
        else:
            made = self.world.message(rows)
        self.asked |= {call: (session, number, asked) for call, (_, number, asked) in zip(made, calls, strict=True)}

    # What becomes of it

    def look(self) -> None:
        """At what has been answered."""
        for call in [call for call in self.asked if call.answered]:
            session, number, asked = self.asked.pop(call)
            error = call.reply.exception()
            if error is not None and self._is_no_answer(session, number, asked, call.error):
                continue
            self.judge(asked, error if error is not None else call.result)
            if (waiting := session.waiting.pop(number, None)) is not None:
                session.answered[number] = waiting

    def _is_no_answer(self, session: Session, number: int, asked: Asked, error: CallError) -> bool:
        """Of a failure: whether the caller still has to ask."""
        self.counts[error.code] += 1
        if isinstance(error, MethodRaised):
            return asked.method == "pass_on" and error.type in PASSING  # The other has written, and it is answered so for good.
        if isinstance(error, BadRequest):
            assert number < session.told_answered, f"{asked.tag} was not said to be answered: {error}"
            assert number not in session.waiting
            return True
        if isinstance(error, TooLarge):
            assert asked.method == "note_much"
            assert error.outcome == "executed"
            return False
        if isinstance(error, Interrupted):
            assert asked.method in ("note_twice", *WRITES_AND_ASKS)
            return False
        assert error.retryable, error
        return True

    def judge(self, asked: Asked, answer: Any) -> None:
        """Of an answer: that it is the one that was given before, and that it can be."""
        self.counts["answered"] += 1
        value = _plain(answer)
        if asked.method == "read":
            assert len(value) >= asked.seen[asked.name], f"{asked.tag} has not seen what was confirmed before it was made"
            self.known[asked.name] = max(self.known[asked.name], len(value))
            self.answers[f"{asked.tag} {len(self.answers)}"] = (asked, value)  # It may be read again: each answer is one.
            return
        if isinstance(answer, TooLarge):
            before = self.answers.get(asked.tag)
            assert before is None or before[1][0] in ("much", "too large")
            self.answers.setdefault(asked.tag, (asked, value))
            return
        before = self.answers.get(asked.tag)
        if before is None or before[1][0] == "too large":
            self.answers[asked.tag] = (asked, value)
        else:
            assert before[1] == value, f"{asked.tag} was answered {before[1]}, then {value}"
        if value[0] == "at":
            self.known[asked.noted_in] = max(self.known[asked.noted_in], value[1])

    # The disk, and the end

    def disk(self) -> None:
        gate, chance, world = self.world.host.output_gate, self.chance, self.world
        event = chance.random()
        if gate.in_flight is None:
            if gate.can_cut and event < 0.7:
                world.cut()
        elif event < 0.75:
            world.committed()
        elif event < 0.95:
            self.counts["failed commits"] += 1
            world.fail_commit()
            if chance.random() < 0.5:
                self.crash()

    def crash(self) -> None:
        self.counts["crashes"] += 1
        self.world.crash(in_flight_is_durable=self.chance.random() < 0.5)
        for call in list(self.asked):
            if not call.answered:
                del self.asked[call]  # Its connection is lost.

    async def go(self) -> None:
        chance, world = self.chance, self.world
        for _ in range(STEPS):
            what = chance.random()
            if what < 0.45:
                self.batch()
            elif what < 0.9:
                self.disk()
            elif what < 0.95:
                world.evict_idle()
            else:
                self.crash()
            await world.settle(chance.choice((0, 1, 2, 8)))
            self.look()
        await self.end()

    async def end(self) -> None:
        world = self.world
        for _ in range(ROUNDS_MAX):
            steps = 0
            while world.host.output_gate.in_flight is not None or world.host.output_gate.can_cut or self.asked:
                assert (steps := steps + 1) < STEPS_MAX, f"never answered: {[asked for _, _, asked in self.asked.values()]}"
                if world.host.output_gate.in_flight is not None:
                    world.committed()
                elif world.host.output_gate.can_cut:
                    world.cut()
                await world.settle(3)
                self.look()
            if not any(session.waiting for session in self.sessions):
                break
            for session in self.sessions:
                self.send(session, [], list(session.waiting.items()))
        assert not any(session.waiting for session in self.sessions), "a call is never answered"
        world.check()
        world.expect_nothing_forgotten()
        self.check({name: world.durable(Journal, name).get("noted", []) for name in OBJECTS})

    def check(self, journals: dict[str, list[str]]) -> None:
        """The journals against what was answered: nothing is lost, nothing is there twice."""
        places: dict[str, int] = {}
        for name, journal in journals.items():
            for place, tag in enumerate(journal, 1):
                assert tag not in places, f"{tag} has run twice"
                places[tag] = place
                if not tag.endswith((" begins", " ends")):
                    assert self.answers[tag][0].noted_in == name
        for asked, value in self.answers.values():
            tag = asked.tag
            if asked.method == "read":
                assert journals[asked.name][: len(value)] == value, f"{tag} has read what was not confirmed"
            elif value in (("interrupted",), ("failed",)):
                assert f"{tag} begins" in places
                assert f"{tag} ends" not in places
            elif asked.method in WRITES_AND_ASKS:
                assert (f"{tag} begins" in places) == (asked.method != "pass_on_or_note"), f"{tag} has failed, and then not"
                assert ("at", places[f"{tag} there ends"]) == value
            elif asked.method == "note_twice":
                assert f"{tag} begins" in places
                assert ("at", places[f"{tag} ends"]) == value
            elif value == ("too large",):
                assert tag in places
            else:
                assert places[tag] == value[1], f"{tag} was answered {value}, and stands at {places[tag]}"


def _plain(answer: Any) -> Any:
    """What can be compared: of whatever says where a call has noted itself, that place."""
    if isinstance(answer, TooLarge):
        return ("too large",)
    if isinstance(answer, Interrupted):
        return ("interrupted",)
    if isinstance(answer, MethodRaised) and answer.type in (*PASSING, "Interrupted"):
        return ("failed",)
    if isinstance(answer, MethodRaised):
        return ("raised", int(answer.message.rpartition(" ")[2]))
    if isinstance(answer, dict):
        return ("told", answer["at"])
    if isinstance(answer, int):
        return ("at", answer)
    if len(answer) == 2 and isinstance(answer[0], int):
        return ("much", answer[0])
    return answer


def _note(problems: list[dict[str, Any]], _: Any, context: dict[str, Any]) -> None:
    problems.append(context)


def batches(chance: Random, frames: int, tick: Tick) -> Counts:
    """`frames` worlds, each of a seed of its own."""
    counts = Counts()
    for done in range(frames):
        seed = f"{chance.random()}"
        problems: list[dict[str, Any]] = []
        loop = new_worker_loop()
        keep_to_this_thread()
        loop.set_exception_handler(partial(_note, problems))

        async def one(seed: str = seed) -> Counts:
            run = Run(Random(seed))
            await run.go()
            return run.counts

        try:
            counts += loop.run_until_complete(one())
            assert not problems, problems
        except BaseException as error:
            error.add_note(f"world {done}, of the seed {seed!r}")
            raise
        finally:
            host_world.WORLDS.clear()
            loop.close()
        tick(done)
    return counts
