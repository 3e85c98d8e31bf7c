"""Which writes become durable together, and which messages wait for them."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.shard.core.output_gate import GroupCommit


class Member:
    """What the group commit knows of an object's cache."""

    def __init__(self, commits: GroupCommit) -> None:
        self.commits = commits
        self.confirm_seq = 0
        self.dirty_bytes = 0

    def write(self, size: int = 1) -> Any:
        if self not in self.commits.dirty:
            self.commits.dirty.append(self)  # type: ignore[arg-type]  # as far as the group commit looks at it
        self.dirty_bytes += size
        self.commits.open_bytes += size
        self.confirm_seq = self.commits.open_seq
        return self

    def say(self, message: object) -> bool:
        """Whether the message left at once."""
        if self.confirm_seq <= self.commits.durable_seq:
            return True
        self.commits.hold(self.confirm_seq, (self, message))
        return False


def cut(commits: GroupCommit, bytes_max: int = 100) -> list[Any]:
    """What a commit takes with it."""
    commit = commits.cut(bytes_max)
    for member in commit.members:
        member.dirty_bytes = 0
    return list(commit.members)


def released(commits: GroupCommit) -> list[object]:
    return [message for _, message in commits.succeeded().held]


def test_a_message_is_released_by_the_commit_of_the_writes_before_it() -> None:
    commits = GroupCommit()
    member = Member(commits)
    assert member.say("nothing was written")
    member.write()
    assert not member.say("one")
    assert cut(commits) == [member]
    assert released(commits) == ["one"]
    assert member.say("durable now")


def test_a_message_does_not_wait_for_writes_made_after_it() -> None:
    commits = GroupCommit()
    member = Member(commits)
    member.write()
    cut(commits)
    member.say("before")
    member.write()
    member.say("after")
    assert released(commits) == ["before"]
    cut(commits)
    assert released(commits) == ["after"]


def test_a_write_made_during_a_commit_is_not_acknowledged_by_that_commit() -> None:
    commits = GroupCommit()
    member = Member(commits)
    member.write()
    cut(commits)
    member.write()
    assert not member.say("second")
    assert released(commits) == []
    assert member.confirm_seq > commits.durable_seq


def test_one_commit_at_a_time_is_made_durable() -> None:
    commits = GroupCommit()
    assert not commits.can_cut
    member = Member(commits).write()
    assert commits.can_cut
    cut(commits)
    member.write()
    assert not commits.can_cut
    commits.succeeded()
    assert commits.can_cut


def test_all_objects_written_since_the_last_cut_are_in_one_commit_in_the_order_of_their_first_write() -> None:
    commits = GroupCommit()
    members = [Member(commits).write() for _ in range(5)]
    members[0].write()
    assert cut(commits) == members
    assert commits.dirty == []
    assert commits.open_bytes == 0


def test_a_commit_takes_as_many_objects_as_fit_and_never_part_of_one() -> None:
    commits = GroupCommit()
    members = [Member(commits).write(40) for _ in range(5)]
    assert cut(commits) == members[:2]
    assert commits.open_bytes == 120
    commits.succeeded()
    assert cut(commits) == members[2:4]
    commits.succeeded()
    assert cut(commits) == members[4:]


def test_an_object_larger_than_a_commit_goes_alone() -> None:
    commits = GroupCommit()
    large, small = Member(commits).write(1_000), Member(commits).write(1)
    assert cut(commits) == [large]
    commits.succeeded()
    assert cut(commits) == [small]


@pytest.mark.parametrize("later", ["writes nothing", "writes again"])
def test_messages_of_an_object_leave_in_their_order_when_a_commit_had_to_be_split(later: str) -> None:
    commits = GroupCommit()
    first, second = Member(commits), Member(commits)
    first.write(80)
    first.say("first 1")
    second.write(80)
    second.say("second 1")
    cut(commits)
    if later == "writes again":
        first.write(1)
    first.say("first 2")
    second.say("second 2")
    order = released(commits)
    for member, name in ((first, "first 3"), (second, "second 3")):
        if member.say(name):
            order.append(name)
    while commits.can_cut:
        cut(commits)
        order += released(commits)
    assert [text for text in order if str(text).startswith("first")] == ["first 1", "first 2", "first 3"]
    assert [text for text in order if str(text).startswith("second")] == ["second 1", "second 2", "second 3"]


def test_a_message_of_an_object_left_behind_waits_for_the_commit_that_takes_it() -> None:
    commits = GroupCommit()
    Member(commits).write(80)
    behind = Member(commits).write(80)
    behind.say("behind")
    cut(commits)
    behind.say("behind 2")
    assert released(commits) == []
    cut(commits)
    assert released(commits) == ["behind", "behind 2"]


def test_writes_of_an_object_that_was_reset_are_in_no_commit() -> None:
    commits = GroupCommit()
    gone, kept = Member(commits).write(7), Member(commits).write(5)
    commits.forget(gone)
    assert commits.open_bytes == 5
    assert cut(commits) == [kept]
    commits.forget(gone)
    assert commits.open_bytes == 0


def test_an_object_that_has_seen_undurable_writes_of_another_waits_for_them() -> None:
    commits = GroupCommit()
    source, heir = Member(commits).write(), Member(commits)
    commits.inherit(heir, source, source.confirm_seq)
    assert not heir.say("what I saw")
    assert cut(commits) == [source]
    assert released(commits) == ["what I saw"]


def test_what_is_durable_is_not_inherited() -> None:
    commits = GroupCommit()
    source, heir = Member(commits).write(), Member(commits)
    cut(commits)
    commits.succeeded()
    commits.inherit(heir, source, source.confirm_seq)
    assert heir.say("free")
    assert commits.heirs == []


def test_who_has_seen_writes_through_others_is_an_heir_too() -> None:
    commits = GroupCommit()
    source, middle, last = Member(commits).write(), Member(commits), Member(commits)
    commits.inherit(middle, source, source.confirm_seq)
    commits.inherit(last, middle, middle.confirm_seq)
    commits.inherit(source, last, last.confirm_seq)
    assert set(commits.heirs_of(source)) >= {middle, last}


def test_a_commit_knows_who_has_seen_its_writes_also_while_it_is_in_flight() -> None:
    commits = GroupCommit()
    source, early, late = Member(commits).write(), Member(commits), Member(commits)
    commits.inherit(early, source, source.confirm_seq)
    cut(commits)
    commits.inherit(late, source, source.confirm_seq)
    assert [heir for heir, _ in commits.failed().heirs] == [early, late]
    assert commits.durable_seq == source.confirm_seq, "nobody waits for it any longer"


def test_nothing_that_an_heir_writes_is_durable_before_what_it_has_seen() -> None:
    commits = GroupCommit()
    heir = Member(commits).write(60)
    source = Member(commits).write(60)
    commits.inherit(heir, source, source.confirm_seq)
    heir.write(1)
    durable = cut(commits)
    assert heir not in durable or source in durable


def test_messages_that_wait_for_writes_which_a_reset_has_dropped_leave_all_the_same() -> None:
    commits = GroupCommit()
    taken, dropped = Member(commits).write(80), Member(commits).write(80)
    taken.say("held")
    cut(commits)
    commits.forget(dropped)
    order = released(commits)
    while commits.can_cut:
        cut(commits)
        order += released(commits)
    assert order == ["held"]
