"""Which writes become durable together, and which messages wait for them."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.runtime.wire.protocol import OK, Origin
from tidegate.shard.core.output_gate import OutputGate, PendingCommit

CLIENT = Origin(b"client", envelope=None, json=False, single=False, requests=1)


class Member:
    """What the group commit knows of an object's cache."""

    def __init__(self, gate: OutputGate) -> None:
        self.gate = gate
        self.owner = self.cache = self
        self.confirm_seq = 0
        self.dirty_bytes = 0

    def write(self, size: int = 1) -> Any:
        dirty: list[Any] = self.gate.dirty
        if self not in dirty:
            dirty.append(self)
        self.dirty_bytes += size
        self.gate.open_bytes += size
        self.confirm_seq = self.gate.open_seq
        return self

    def say(self, message: object) -> bool:
        """Whether the message left at once."""
        if self.confirm_seq <= self.gate.durable_seq:
            return True
        self.gate.hold(self.confirm_seq, self, CLIENT, 0, OK, message)
        return False


def cache_in(gate: OutputGate) -> Any:
    """As far as the group commit looks at a cache."""
    return Member(gate)


def cut(gate: OutputGate, bytes_max: int = 100) -> list[Any]:
    """What a commit takes with it."""
    commit = gate.cut(bytes_max)
    for member in commit.members:
        member.dirty_bytes = 0
    return list(commit.members)


def in_flight(gate: OutputGate) -> PendingCommit:
    assert gate.in_flight is not None
    return gate.in_flight


def released(gate: OutputGate) -> list[object]:
    commit = in_flight(gate)
    gate.succeeded(commit)
    gate.check_invariants()
    return [message for _, _, _, _, message, *_ in commit.held]


def test_a_message_is_released_by_the_commit_of_the_writes_before_it() -> None:
    gate = OutputGate()
    member = cache_in(gate)
    assert member.say("nothing was written")
    member.write()
    assert not member.say("one")
    assert cut(gate) == [member]
    assert released(gate) == ["one"]
    assert member.say("durable now")


def test_a_message_does_not_wait_for_writes_made_after_it() -> None:
    gate = OutputGate()
    member = cache_in(gate)
    member.write()
    cut(gate)
    member.say("before")
    member.write()
    member.say("after")
    assert released(gate) == ["before"]
    cut(gate)
    assert released(gate) == ["after"]


def test_a_write_made_during_a_commit_is_not_acknowledged_by_that_commit() -> None:
    gate = OutputGate()
    member = cache_in(gate)
    member.write()
    cut(gate)
    member.write()
    assert not member.say("second")
    assert released(gate) == []
    assert member.confirm_seq > gate.durable_seq


def test_one_commit_at_a_time_is_made_durable() -> None:
    gate = OutputGate()
    assert not gate.can_cut
    member = cache_in(gate).write()
    assert gate.can_cut
    cut(gate)
    member.write()
    assert not gate.can_cut
    gate.succeeded(in_flight(gate))
    assert gate.can_cut


def test_all_objects_written_since_the_last_cut_are_in_one_commit_in_the_order_of_their_first_write() -> None:
    gate = OutputGate()
    members = [cache_in(gate).write() for _ in range(5)]
    members[0].write()
    assert cut(gate) == members
    assert gate.dirty == []
    assert gate.open_bytes == 0


def test_a_commit_takes_as_many_objects_as_fit_and_never_part_of_one() -> None:
    gate = OutputGate()
    members = [cache_in(gate).write(40) for _ in range(5)]
    assert cut(gate) == members[:2]
    assert gate.open_bytes == 120
    gate.succeeded(in_flight(gate))
    assert cut(gate) == members[2:4]
    gate.succeeded(in_flight(gate))
    assert cut(gate) == members[4:]


def test_an_object_larger_than_a_commit_goes_alone() -> None:
    gate = OutputGate()
    large, small = cache_in(gate).write(1_000), cache_in(gate).write(1)
    assert cut(gate) == [large]
    gate.succeeded(in_flight(gate))
    assert cut(gate) == [small]


@pytest.mark.parametrize("later", ["writes nothing", "writes again"])
def test_messages_of_an_object_leave_in_their_order_when_a_commit_had_to_be_split(later: str) -> None:
    gate = OutputGate()
    first, second = cache_in(gate), cache_in(gate)
    first.write(80)
    first.say("first 1")
    second.write(80)
    second.say("second 1")
    cut(gate)
    if later == "writes again":
        first.write(1)
    first.say("first 2")
    second.say("second 2")
    order = released(gate)
    for member, name in ((first, "first 3"), (second, "second 3")):
        if member.say(name):
            order.append(name)
    while gate.can_cut:
        cut(gate)
        order += released(gate)
    assert [text for text in order if str(text).startswith("first")] == ["first 1", "first 2", "first 3"]
    assert [text for text in order if str(text).startswith("second")] == ["second 1", "second 2", "second 3"]


def test_a_message_of_an_object_left_behind_waits_for_the_commit_that_takes_it() -> None:
    gate = OutputGate()
    cache_in(gate).write(80)
    behind = cache_in(gate).write(80)
    behind.say("behind")
    cut(gate)
    behind.say("behind 2")
    assert released(gate) == []
    cut(gate)
    assert released(gate) == ["behind", "behind 2"]


def test_writes_of_an_object_that_was_reset_are_in_no_commit() -> None:
    gate = OutputGate()
    gone, kept = cache_in(gate).write(7), cache_in(gate).write(5)
    gate.forget(gone)
    assert gate.open_bytes == 5
    assert cut(gate) == [kept]
    gate.forget(gone)
    assert gate.open_bytes == 0


def test_an_object_that_has_seen_undurable_writes_of_another_waits_for_them() -> None:
    gate = OutputGate()
    source, heir = cache_in(gate).write(), cache_in(gate)
    gate.inherit(heir, source, source.confirm_seq)
    assert not heir.say("what I saw")
    assert cut(gate) == [source]
    assert released(gate) == ["what I saw"]


def test_what_is_durable_is_not_inherited() -> None:
    gate = OutputGate()
    source, heir = cache_in(gate).write(), cache_in(gate)
    cut(gate)
    gate.succeeded(in_flight(gate))
    gate.inherit(heir, source, source.confirm_seq)
    assert heir.say("free")
    assert gate.heirs == []


def test_who_has_seen_writes_through_others_is_an_heir_too() -> None:
    gate = OutputGate()
    source, middle, last = cache_in(gate).write(), cache_in(gate), cache_in(gate)
    gate.inherit(middle, source, source.confirm_seq)
    gate.inherit(last, middle, middle.confirm_seq)
    gate.inherit(source, last, last.confirm_seq)
    assert set(gate.heirs_of(source)) >= {middle, last}


def test_a_commit_knows_who_has_seen_its_writes_also_while_it_is_in_flight() -> None:
    gate = OutputGate()
    source, early, late = cache_in(gate).write(), cache_in(gate), cache_in(gate)
    gate.inherit(early, source, source.confirm_seq)
    cut(gate)
    gate.inherit(late, source, source.confirm_seq)
    commit = in_flight(gate)
    gate.failed(commit)
    assert [heir for heir, _ in commit.heirs] == [early, late]
    assert gate.durable_seq == source.confirm_seq, "nobody waits for it any longer"


def test_nothing_that_an_heir_writes_is_durable_before_what_it_has_seen() -> None:
    gate = OutputGate()
    heir = cache_in(gate).write(60)
    source = cache_in(gate).write(60)
    gate.inherit(heir, source, source.confirm_seq)
    heir.write(1)
    durable = cut(gate)
    assert heir not in durable or source in durable


def test_what_an_object_has_said_since_the_last_cut_is_forgotten_with_its_writes_and_nothing_else() -> None:
    gate = OutputGate()
    gone, kept = cache_in(gate).write(), cache_in(gate).write()
    gone.say("was cut before")
    cut(gate)
    for member, words in ((gone, "one"), (kept, "two"), (gone, "three")):
        member.write()
        member.say(words)
    assert [message[4] for message in gate.forget(gone)] == ["one", "three"]
    assert gate.messages_held == len(list(gate.messages())) == 2
    assert released(gate) == ["was cut before"]
    cut(gate)
    assert released(gate) == ["two"]
    assert gate.everything_is_durable


def test_messages_that_wait_for_writes_which_a_reset_has_dropped_leave_all_the_same() -> None:
    gate = OutputGate()
    taken, dropped = cache_in(gate).write(80), cache_in(gate).write(80)
    taken.say("held")
    cut(gate)
    gate.forget(dropped)
    order = released(gate)
    while gate.can_cut:
        cut(gate)
        order += released(gate)
    assert order == ["held"]


# Answers to calls with a key


class Answer:
    def __init__(self, cache: Any, size: int = 1) -> None:
        self.cache = cache
        self.size = size
        self.seq = 0


def keep(gate: OutputGate, cache: Any, size: int = 1, *, confirmed: bool = True) -> Answer:
    answer = Answer(cache, size)
    gate.keep_answer(answer)
    if confirmed:
        cache.confirm_seq = gate.open_seq
    return answer


def test_an_answer_is_in_the_commit_of_what_its_object_has_written_and_holds_its_messages() -> None:
    gate = OutputGate()
    member = cache_in(gate).write()
    answer = keep(gate, member)
    assert not member.say("the answer")
    assert cut(gate) == [member]
    assert in_flight(gate).answers == [answer]
    assert released(gate) == ["the answer"]


def test_an_answer_of_an_object_that_has_written_nothing_asks_for_a_commit_of_its_own() -> None:
    gate = OutputGate()
    member = cache_in(gate)
    answer = keep(gate, member)
    assert gate.can_cut
    assert not gate.everything_is_durable
    assert not member.say("the answer")
    assert cut(gate) == []
    assert in_flight(gate).answers == [answer]
    assert released(gate) == ["the answer"]
    assert gate.everything_is_durable


def test_a_mark_that_is_not_confirmed_holds_no_message_back() -> None:
    gate = OutputGate()
    member = cache_in(gate)
    keep(gate, member, confirmed=False)
    assert member.say("something else")
    gate.check_invariants()


def test_nobody_overtakes_itself_while_commit_after_commit_takes_not_all() -> None:
    gate = OutputGate()
    first, *others = [cache_in(gate).write(60) for _ in range(4)]
    assert not first.say("sooner")
    for going in (first, *others[:2]):
        assert cut(gate) == [going]
        assert released(gate) == []
        assert not first.say("later")
    assert cut(gate) == [others[2]]
    assert released(gate) == ["sooner", "later", "later", "later"]
    assert first.say("at once")


def test_an_answer_stays_behind_with_the_writes_of_its_object() -> None:
    gate = OutputGate()
    first, second = cache_in(gate).write(60), cache_in(gate).write(60)
    going, staying = keep(gate, first, 5), keep(gate, second, 5)
    assert not second.say("later")
    assert cut(gate) == [first]
    assert in_flight(gate).answers == [going]
    assert gate.answers == [staying]
    assert gate.open_bytes == 65
    assert released(gate) == []
    assert cut(gate) == [second]
    assert in_flight(gate).answers == [staying]
    assert released(gate) == ["later"]


def test_answers_alone_are_split_too_and_none_is_left_for_ever() -> None:
    gate = OutputGate()
    members = [cache_in(gate) for _ in range(5)]
    for member in members:
        keep(gate, member, 60)
        member.say(member)
    gone: list[Any] = []
    said: list[Any] = []
    while gate.can_cut:
        cut(gate)
        assert len(in_flight(gate).answers) == 1
        gone += [answer.cache for answer in in_flight(gate).answers]
        said += released(gate)
    assert gone == members
    assert said == members


def test_the_answer_of_an_heir_stays_behind_with_what_the_heir_has_seen() -> None:
    gate = OutputGate()
    first, source, heir = cache_in(gate).write(60), cache_in(gate).write(60), cache_in(gate)
    gate.inherit(heir, source, source.confirm_seq)
    answer = keep(gate, heir)
    assert cut(gate) == [first]
    assert in_flight(gate).answers == []
    released(gate)
    assert cut(gate) == [source]
    assert in_flight(gate).answers == [answer]


def test_what_a_numbered_message_says_is_kept_with_the_writes_though_it_waits_longer() -> None:
    gate = OutputGate()
    members, session = [cache_in(gate).write(60) for _ in range(2)], object()
    for number, member in enumerate(members):
        gate.held.append((member, CLIENT, number, OK, f"said {number}", session, 5 + number))
    kept: list[Any] = []
    for number in (0, 1):
        assert cut(gate, 200) == [members[number]]
        commit = in_flight(gate)
        kept += [(answer.message, [message[5] for message in commit.held]) for answer in commit.answers]  # type: ignore[attr-defined]
        assert released(gate) == (["said 0", "said 1"] if number else [])
    assert kept == [
        ((members[0], CLIENT, 0, OK, "said 0", session, 5), []),
        ((members[1], CLIENT, 1, OK, "said 1", session, 6), [None, None]),
    ]


def test_a_numbered_message_is_kept_by_itself_where_all_goes() -> None:
    gate = OutputGate()
    member = cache_in(gate).write()
    message = member, CLIENT, 7, OK, "said", object(), 5
    gate.held.append(message)
    assert cut(gate) == [member]
    assert (in_flight(gate).held, in_flight(gate).answers) == ([message], [])


def test_the_answers_of_an_object_that_is_reset_are_in_no_commit() -> None:
    gate = OutputGate()
    member, other = cache_in(gate), cache_in(gate)
    lost, kept = keep(gate, member), keep(gate, other)
    assert gate.take_answers(member) == [lost]
    assert gate.take_answers(member) == []
    gate.check_invariants()
    cut(gate)
    assert in_flight(gate).answers == [kept]
