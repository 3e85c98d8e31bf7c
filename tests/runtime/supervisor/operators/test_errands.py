"""What operators ask of one object is ended once, whatever becomes of its worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidegate.runtime.ids import shard_of_slot, slot_of
from tidegate.runtime.supervisor.operators.errands import Errands
from tidegate.runtime.wire.commands import Command, Ended
from tidegate.runtime.wire.supervisor_messages import Administer, Administered
from tidegate.runtime.wire.wishes import Get, ListNames, LoadMany, LoadOne, ReadMany

OWNERS = (0, 1, 0, 1)


class Desk:
    def __init__(self) -> None:
        self.ended: list[tuple[int, str | None]] = []
        self.sent: list[tuple[int, Administer]] = []
        self.processes: dict[int, object] = {0: object(), 1: object()}
        self.owners: dict[int, int | None] = dict(enumerate(OWNERS))
        self.elsewhere: dict[int, str] = {}
        self.why = ""
        """The last error."""
        self.errands = self.new(self._end)

    def new(self, ended: Callable[[int, Ended], None]) -> Errands:
        return Errands(len(OWNERS), 2, self.owners.__getitem__, ended, lambda: self.elsewhere)

    def _end(self, number: int, ended: Ended) -> None:
        self.ended.append((number, None if ended.error is None else ended.error["code"]))
        self.why = "" if ended.error is None else ended.error.get("message", "")

    def _send(self, worker: int, message: Administer) -> Any:
        self.sent.append((worker, message))
        return self.processes.get(worker)

    def ask(self, target: str) -> int:
        return self.errands.begin(Command("drop_alarm", target), self._send)


def test_it_goes_to_the_worker_of_the_object_and_ends_with_its_answer_once() -> None:
    desk = Desk()
    number = desk.ask("Bell/a/b")
    owner = OWNERS[shard_of_slot(slot_of("Bell", "a/b"), len(OWNERS))]
    assert desk.sent == [(owner, Administer(number, "drop_alarm", "Bell/a/b", timeout_s=10.0))]
    assert desk.ended == []
    for _ in range(2):
        desk.errands.answered(Administered(number))
    desk.errands.gone(desk.processes[owner])
    assert desk.ended == [(number, None)]


def test_of_an_object_that_no_worker_of_this_host_has_it_is_said() -> None:
    desk = Desk()
    desk.owners[shard_of_slot(slot_of("Bell", "a"), len(OWNERS))] = None
    number = desk.ask("Bell/a")
    assert desk.ended == [(number, "unavailable")]
    assert desk.sent == []
    assert "is on its way, or nobody serves it: ask again" in desk.why


def test_of_an_object_that_another_host_has_that_is_named_and_so_it_is_where_all_are_asked() -> None:
    desk, results = Desk(), list[Any]()
    shard = shard_of_slot(slot_of("Bell", "a"), len(OWNERS))
    unserved = (shard + 1) % len(OWNERS)
    desk.owners[shard] = desk.owners[unserved] = None
    desk.elsewhere[shard] = "b (tcp://b:7711)"
    desk.ask("Bell/a")
    assert f"its shard, {shard}, is served by the host b (tcp://b:7711): give this there" in desk.why
    desk.errands = desk.new(lambda number, ended: results.append(ended.result))
    desk.errands.begin(Command("wish", "", ListNames()), desk._send)
    for _, message in desk.sent:
        desk.errands.answered(Administered(message.number, result={}))
    assert results[0]["elsewhere"] == [
        "the host b (tcp://b:7711) serves 1 of 4 shards, whose objects it knows alone: give this there, too",
        f"of 4 shards these are on their way, or nobody serves them: {unserved}; ask again",
    ]


def test_what_a_worker_refuses_is_told_as_it_said_it() -> None:
    desk = Desk()
    number = desk.ask("Bell/a")
    desk.errands.answered(Administered(number, {"code": "bad_request"}))
    assert desk.ended == [(number, "bad_request")]


def test_a_worker_that_is_not_there_or_ends_is_said_and_other_errands_go_on() -> None:
    desk = Desk()
    first, second = desk.ask("Bell/a"), desk.ask("Bell/a")
    process = desk.processes.pop(desk.sent[0][0])
    third = desk.ask("Bell/a")
    assert desk.ended == [(third, "unavailable")]
    desk.errands.answered(Administered(first))
    desk.errands.gone(object())
    desk.errands.gone(process)
    assert desk.ended[1:] == [(first, None), (second, "shard_lost")]


def test_a_wish_goes_along_and_what_came_of_it_comes_back() -> None:
    desk, results = Desk(), []
    desk.errands = desk.new(lambda number, ended: results.append(ended.result))
    number = desk.errands.begin(Command("wish", "Bell/a", Get("k"), 3.0), desk._send)
    assert desk.sent[0][1] == Administer(number, "wish", "Bell/a", Get("k"), 3.0)
    desk.errands.answered(Administered(number, result={"value": 1}))
    assert results == [{"value": 1}]


def test_what_all_are_asked_is_ended_once_by_what_each_has_said_or_why_it_has_not() -> None:
    desk = Desk()
    results: list[tuple[int, Any]] = []
    desk.errands = desk.new(lambda number, ended: results.append((number, ended.result)))
    number = desk.errands.begin(Command("wish", wish=ListNames()), desk._send)
    assert [worker for worker, _ in desk.sent] == [0, 1]
    desk.errands.answered(Administered(desk.sent[0][1].number, result={"objects": []}))
    assert results == []
    desk.errands.gone(desk.processes[1])
    assert [each for each, _ in results] == [number]
    told = results[0][1]["workers"]
    assert told["0"] == {"result": {"objects": []}}
    assert told["1"]["error"]["code"] == "shard_lost"
    results.clear()
    desk.processes.clear()
    desk.errands.begin(Command("wish", wish=ListNames()), desk._send)
    assert [each["error"]["code"] for each in results[0][1]["workers"].values()] == ["unavailable"] * 2


def test_what_is_no_object_is_refused_here() -> None:
    desk = Desk()
    numbers = [desk.ask(target) for target in ("", "Bell", "/a", "Bell/")]
    assert desk.ended == [(number, "bad_request") for number in numbers]
    assert desk.sent == []


def test_what_is_wished_of_many_goes_to_their_owners_and_comes_back_in_order() -> None:
    desk = Desk()
    results: list[tuple[int, Any]] = []
    desk.errands = desk.new(lambda number, ended: results.append((number, ended.result)))
    names = [f"Bell/{number}" for number in range(20)]
    number = desk.errands.begin(Command("wish", wish=ReadMany([*names, "Bell"])), desk._send)
    assert sorted(worker for worker, _ in desk.sent) == [0, 1]
    for worker, message in desk.sent:
        assert isinstance(message.wish, ReadMany)
        assert message.wish.objects == [name for name in names if OWNERS[shard_of_slot(slot_of("Bell", name[5:]), 4)] == worker]
        assert results == [], "not before all have answered"
        desk.errands.answered(Administered(message.number, result={"pages": [{"of": name} for name in message.wish.objects]}))
    pages = results[0][1]["pages"]
    assert (results[0][0], [page["of"] for page in pages[:-1]]) == (number, names)
    assert pages[-1]["error"]["code"] == "bad_request"


def test_of_many_those_of_a_worker_that_ends_have_its_error_and_the_others_what_came_of_them() -> None:
    desk = Desk()
    results: list[Any] = []
    desk.errands = desk.new(lambda _, ended: results.append(ended.result))
    loads = [LoadOne(f"Bell/{number}", [("k", b"")], number) for number in range(20)]
    desk.errands.begin(Command("wish", wish=LoadMany(loads, True)), desk._send)
    desk.errands.gone(desk.processes[0])
    part = next(message for worker, message in desk.sent if worker == 1)
    assert isinstance(part.wish, LoadMany)
    assert part.wish.replace
    desk.errands.answered(Administered(part.number, result={"pages": [{"rows": 1}] * len(part.wish.objects)}))
    done = {load.object for load, page in zip(loads, results[0]["pages"], strict=True) if "error" not in page}
    assert done == {load.object for load in part.wish.objects}
    assert {page["error"]["code"] for page in results[0]["pages"] if "error" in page} == {"shard_lost"}
    desk.errands.begin(Command("wish", wish=ReadMany([])), desk._send)
    assert results[-1] == {"pages": []}
