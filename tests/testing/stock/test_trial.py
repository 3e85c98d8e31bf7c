"""One run of a script: what is asked, what happens, what time it is."""

from __future__ import annotations

import datetime
import uuid

from tidegate import AlarmInfo, DurableObject
from tidegate.shard.objects.methods import ObjectClass
from tidegate.testing.stock.scripts import Ask, Pause
from tidegate.testing.stock.trial import Manner, Outcome, Trial


class Clerk(DurableObject):
    async def note(self, text: str) -> str:
        self.storage.put(text, [datetime.datetime.now(datetime.UTC), f"{uuid.uuid4()}"])
        return text

    async def refuse(self) -> None:
        raise ValueError("closed")

    async def remind(self) -> None:
        await self.storage.set_alarm(datetime.timedelta(hours=1))

    async def alarm(self, info: AlarmInfo) -> None:
        self.storage.put("rang", await self.storage.get("rang", 0) + 1)
        await self.remind()

    async def ask_the_world(self) -> object:
        async with self.fetch.get("https://world.example/?q=1") as response:
            return await response.json()

    async def two_halves(self) -> None:
        await self.storage.put("half", await self.storage.get("half", 0) + 1)
        await self.storage.sync()
        await self.stub(Clerk, "other").note("told")


def ask(method: str, name: str = "a", **kwargs: object) -> Ask:
    return Ask("Clerk", name, method, (), kwargs)


def run(*steps: Ask | Pause, manner: Manner = Manner(), deviations: dict[int, int] | None = None) -> Outcome:  # noqa: B008
    return Trial([ObjectClass(Clerk)]).run(steps, manner, deviations)


def test_calls_are_answered_and_what_is_stored_is_told() -> None:
    outcome = run(ask("note", text="x"), Pause(3_600.0), ask("refuse"), ask("ask_the_world"))
    assert outcome.answers == [[True, "x"], None, [False, "ValueError: closed"], [True, {}]]
    assert list(outcome.stored) == ["Clerk/a"]
    assert outcome.cut_off is None
    assert not outcome.troubles


def test_two_runs_are_the_same_and_another_time_is_told_by_what_depends_on_it() -> None:
    one, same = run(ask("note", text="x")), run(ask("note", text="x"))
    assert one.told == same.told
    other = run(ask("note", text="x"), manner=Manner("b", late_s=5.0))
    assert one.stored["Clerk/a"]["x"][0] + datetime.timedelta(seconds=5) == other.stored["Clerk/a"]["x"][0]
    assert one.stored["Clerk/a"]["x"][1] == other.stored["Clerk/a"]["x"][1] == "(a random number)"


def test_alarms_ring_until_the_end_and_one_that_is_set_is_told() -> None:
    assert run(ask("remind"), Pause(90_000.0)).stored == {"Clerk/a": {"rang": 26, "(its alarm)": "is set"}}


def test_each_place_for_a_mishap_is_taken_once_and_named() -> None:
    steps = [ask("note", text="x"), ask("two_halves")]
    places = len(run(*steps).schedule.ways)
    outcomes = [run(*steps, deviations={at: 1}) for at in range(places)]
    labels = {outcome.mishaps[0].label for outcome in outcomes}
    for part in ("memory after step 1", "crash after step 2", "at 'call'", "at 'before_commit'", "at 'after_commit'", "fails"):
        assert any(part in label for label in labels), part
    assert all(len(outcome.mishaps) == 1 for outcome in outcomes)


def test_a_call_that_was_cut_off_is_made_once_more() -> None:
    steps = [ask("two_halves")]
    places = len(run(*steps).schedule.ways)
    cut_off = [each for at in range(places) if (each := run(*steps, deviations={at: 1})).cut_off is not None]
    assert cut_off
    assert all(each.answers == [[True, None]] for each in cut_off)
    assert any(each.stored["Clerk/a"]["half"] == 2 for each in cut_off)
