"""What callers say, told on in an order that can be relied on."""

from __future__ import annotations

import threading

from tidegate.runtime.chaos.calls.recorder import Recorder

CALL = ("Counter", "one", "take", ())


def test_nothing_is_told_of_before_the_watermark_that_could_still_come_earlier() -> None:
    recorder = Recorder(30.0)
    first, second = recorder.begin("a 0", CALL), recorder.begin("b 1", CALL)
    recorder.answer(second, 1)
    ended, watermark = recorder.take()
    assert [operation.number for operation in ended] == [second.number]
    assert watermark == first.began_at
    recorder.answer(first, 0)
    ended, watermark = recorder.take()
    assert [operation.number for operation in ended] == [first.number]
    assert watermark >= first.ended_at


def test_a_call_that_is_not_answered_in_time_is_found_and_ends_as_unknown() -> None:
    recorder = Recorder(0.0)
    operation = recorder.begin("a 0", CALL)
    assert recorder.overdue(60.0) == []
    assert recorder.overdue(0.0) == [operation]
    assert (operation.fate, operation.error) == ("unknown", "no_answer")
    recorder.answer(operation, 7)
    assert operation.fate == "unknown", "an answer that comes after its end is none"
    assert recorder.overdue(0.0) == []


def test_calls_of_many_threads_are_all_told_and_counted_once() -> None:
    recorder = Recorder(30.0)

    def work() -> None:
        for number in range(500):
            operation = recorder.begin("kind 0", CALL)
            if number % 5:
                recorder.answer(operation, number)
            else:
                recorder.fail(operation, "shard_lost", unknown=number % 10 == 0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended, _ = recorder.take()
    assert len({operation.number for operation in ended}) == len(ended) == recorder.tally.ended == 2_000
    assert recorder.tally.errors == {("kind", "shard_lost", "unknown"): 200, ("kind", "shard_lost", "refused"): 200}
