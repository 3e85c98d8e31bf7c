"""The model does what the real engine was seen to do: each of these was a guess that was wrong once."""

from __future__ import annotations

from random import Random

from tests.sim.replicated.engine import FULL, STORE_FAILED, WRONG_SEQUENCE, Engine, Request, Stored


def engine(replicas: int = 3, seed: int = 0) -> Engine:
    return Engine(Random(seed), replicas, lambda sequence, request: None)


def say(data: bytes, fence: int | None, subject: str = "log", message_id: str = "") -> Request:
    return Request(data, fence, subject, None, message_id)


def publish(to: Engine, request: Request, *, at_deposed: bool = False) -> object:
    return to.publish(request, at_deposed=at_deposed)


def filled(messages: int, replicas: int = 3) -> Engine:
    made = engine(replicas)
    for number in range(messages):
        assert publish(made, say(b"%d" % number, number)) == Stored(number + 1)
    return made


def test_the_fence_of_the_stream_never_goes_back() -> None:
    made = filled(3)
    made.delete(3)
    made.purge(3)
    assert publish(made, say(b"x", 2)) == WRONG_SEQUENCE
    assert publish(made, say(b"x", 3)) == Stored(4)


def test_a_fence_by_subject_goes_back_when_the_newest_message_is_deleted() -> None:
    made = engine()
    publish(made, say(b"alice", 0, "epoch"))
    publish(made, say(b"bob", 1, "epoch"))
    fenced = Request(b"late", None, "log", ("epoch", 1))
    assert publish(made, fenced) == WRONG_SEQUENCE
    made.delete_newest_of("epoch")
    assert publish(made, fenced) == Stored(3)


def test_an_empty_fence_is_none() -> None:
    assert publish(filled(3), say(b"x", None)) == Stored(4)


def test_with_three_replicas_the_id_is_asked_before_the_fence_and_with_one_after_it() -> None:
    answers = {}
    for replicas in (1, 3):
        made = engine(replicas)
        publish(made, say(b"x", 0, message_id="id"))
        answers[replicas] = publish(made, say(b"x", 0, message_id="id"))
    assert answers == {1: WRONG_SEQUENCE, 3: Stored(1, duplicate=True)}


def test_ids_are_forgotten_when_a_server_is_killed() -> None:
    made = engine()
    publish(made, say(b"x", None, message_id="id"))
    made.kill()
    assert publish(made, say(b"x", None, message_id="id")) is None
    made.elect()
    assert publish(made, say(b"x", None, message_id="id")) == Stored(2)


def test_a_leader_without_majority_takes_one_in_silence_and_refuses_the_next() -> None:
    made = filled(2)
    made.lose_majority()
    assert publish(made, say(b"x", 2), at_deposed=True) is None
    assert publish(made, say(b"x", 2), at_deposed=True) == WRONG_SEQUENCE
    assert publish(made, say(b"y", 2)) is None
    assert len(made.log) == 2


def test_what_such_a_leader_took_in_may_never_exist() -> None:
    outcomes = set()
    for seed in range(20):
        made = engine(seed=seed)
        made.lose_majority()
        publish(made, say(b"x", 0), at_deposed=True)
        made.elect()
        outcomes.add(len(made.log))
    assert outcomes == {0, 1}


def test_what_such_a_leader_takes_in_once_there_is_another_never_exists() -> None:
    made = engine()
    made.lose_majority()
    made.elect()
    publish(made, say(b"x", 0), at_deposed=True)
    made.heal()
    assert made.log == []


def test_it_exists_where_that_leader_finds_its_majority_again() -> None:
    made = engine()
    made.lose_majority()
    publish(made, say(b"x", 0), at_deposed=True)
    made.heal()
    assert [request.data for request in made.log] == [b"x"]


def test_a_leader_without_majority_answers_from_its_old_end() -> None:
    made = filled(2)
    made.lose_majority()
    made.elect()
    publish(made, say(b"x", 2))
    assert made.read(3, 0, at_deposed=False) == [(3, b"x")]
    assert made.read(3, 0, at_deposed=True) == []


def test_replicas_lag_behind_until_they_are_told() -> None:
    made = filled(2)
    assert made.read(1, 1, at_deposed=False) == []
    made.catch_up(1)
    assert made.read(1, 1, at_deposed=False) == [(1, b"0"), (2, b"1")]


def test_a_purge_leaves_the_newest_message_and_the_sequence() -> None:
    made = filled(3)
    made.purge(99)
    assert made.read(1, 0, at_deposed=False) == [(3, b"2")]
    assert publish(made, say(b"x", 3)) == Stored(4)


def test_a_full_stream_refuses_until_there_is_room() -> None:
    made = filled(3)
    made.room = 3
    assert publish(made, say(b"x", 3)) == FULL
    made.purge(2)
    assert publish(made, say(b"x", 3)) == Stored(4)


def test_a_purge_of_everything_leaves_the_sequence_alone() -> None:
    made = filled(3)
    made.purge_everything()
    assert made.read(1, 0, at_deposed=False) == []
    assert made.look(at_deposed=False) == (4, 3)
    assert publish(made, say(b"x", 3)) == Stored(4)


def test_a_leader_whose_store_fails_says_so_of_what_the_others_have() -> None:
    made = filled(2)
    made.store_fails = True
    assert publish(made, say(b"x", 2)) == STORE_FAILED
    assert made.read(3, 0, at_deposed=False) == [(3, b"x")]
    assert publish(made, say(b"y", 3)) == Stored(4)


def test_an_older_copy_uses_sequences_again() -> None:
    made = filled(3)
    made.restore(1)
    assert made.look(at_deposed=False) == (1, 1)
    assert publish(made, say(b"other", 1)) == Stored(2)
    assert made.read(2, 0, at_deposed=False) == [(2, b"other")]


def test_a_leader_without_majority_says_where_it_ends() -> None:
    made = filled(2)
    made.lose_majority()
    assert made.look(at_deposed=False) is None
    made.elect()
    publish(made, say(b"x", 2))
    assert (made.look(at_deposed=True), made.look(at_deposed=False)) == ((1, 2), (1, 3))
