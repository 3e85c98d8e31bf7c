"""What an answer to a publish says: in doubt is whatever does not say that it is stored, or that it is not."""

from __future__ import annotations

import msgspec
import pytest

from tidegate.shard.replicated.answers import decode_publish_answer, publish_event
from tidegate.shard.replicated.owner import Acknowledged, Event, FenceRefused, LogRefused, PublishUnanswered


def event_of(answer: object) -> Event:
    return publish_event(decode_publish_answer(msgspec.json.encode(answer)), "ours")


def refused(err_code: int, description: str) -> Event:
    """As the engine says it: with the stream's name, and the sequence 0."""
    error = {"code": 503, "err_code": err_code, "description": description}
    return event_of({"error": error, "stream": "ours", "seq": 0})


def test_an_acknowledgement_names_the_stream_and_a_sequence() -> None:
    assert event_of({"stream": "ours", "seq": 7}) == Acknowledged(7)


@pytest.mark.parametrize(
    "answer", [{}, {"stream": "ours"}, {"stream": "ours", "seq": 0}, {"seq": 7}, {"stream": "other", "seq": 7}]
)
def test_what_does_not_is_none(answer: dict[str, object]) -> None:
    assert event_of(answer) == PublishUnanswered()


def test_a_refused_fence_is_one() -> None:
    assert refused(10071, "wrong last sequence: 7") == FenceRefused()


@pytest.mark.parametrize(
    ("err_code", "description"),
    [
        (10077, "maximum bytes exceeded"),
        (10077, "maximum messages exceeded"),
        (10002, "resource limits exceeded for account"),
        (10023, "insufficient resources"),
    ],
)
def test_limits_that_are_looked_at_before_the_replicas_are_asked_are_a_refusal(err_code: int, description: str) -> None:
    assert refused(err_code, description) == LogRefused(err_code)


@pytest.mark.parametrize(
    ("err_code", "description"),
    [
        (10077, "write /data/7.blk: no space left on device"),
        (10077, "store is closed"),
        (10077, "maximum messages per subject exceeded"),
        (10077, ""),
        (10047, "insufficient storage resources available"),
    ],
)
def test_a_store_that_failed_leaves_open_whether_others_have_it(err_code: int, description: str) -> None:
    assert refused(err_code, description) == PublishUnanswered(no_room=True)


@pytest.mark.parametrize("err_code", [0, 10008, 10054, 10109, 99999])
def test_any_other_error_leaves_it_open(err_code: int) -> None:
    assert refused(err_code, "something else") == PublishUnanswered()
