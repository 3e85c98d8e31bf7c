"""What messages add up to, and every way in which they do not."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tidegate.shard.replicated.message import MessageKind, StreamMessage, decode_message, encode_message
from tidegate.shard.replicated.replay import Replay, StreamPlace
from tidegate.shard.store.interface import ShardDamaged

SHARD = 5
ALICE, BOB = b"a" * 16, b"b" * 16


class Stream:
    """Messages as one owner after another would write them."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.epoch, self.writer, self.position, self.before = 0, b"", 0, 0

    def add(self, kind: MessageKind, body: bytes = b"", part: int = 0, **changed: Any) -> bytes:
        if kind is MessageKind.COMMIT:
            self.position += 1
        position = self.position + (kind is MessageKind.PART)
        number = len(self.messages) + 1
        message = StreamMessage(kind, SHARD, self.epoch, self.writer, number, position, part, self.before, body)
        data = encode_message(message._replace(**changed))
        self.before = decode_message(data).checksum
        self.messages.append(data)
        return data

    def claim(self, writer: bytes, **changed: Any) -> None:
        self.epoch, self.writer = self.epoch + 1, writer
        self.add(MessageKind.EPOCH, b"host", **changed)

    def commit(self, *pieces: bytes) -> None:
        for part, piece in enumerate(pieces[:-1]):
            self.add(MessageKind.PART, piece, part)
        self.add(MessageKind.COMMIT, pieces[-1], len(pieces) - 1)


def read(stream: Stream, place: StreamPlace | None = None) -> list[bytes]:
    replay = Replay(SHARD, place or StreamPlace())
    taken = [replay.take(sequence, data) for sequence, data in enumerate(stream.messages, 1) if sequence > replay.place.sequence]
    return [record for record in taken if record is not None]


def owned() -> Stream:
    stream = Stream()
    stream.claim(ALICE)
    stream.commit(b"one")
    return stream


def test_records_are_given_back_in_their_order_over_claims() -> None:
    stream = owned()
    stream.commit(b"two")
    stream.claim(BOB)
    stream.commit(b"three")
    assert read(stream) == [b"one", b"two", b"three"]


def test_an_empty_record_is_one() -> None:
    stream = owned()
    stream.commit(b"")
    assert read(stream) == [b"one", b""]


def test_a_record_in_pieces_counts_with_its_last_one() -> None:
    stream = owned()
    stream.commit(b"t", b"w", b"o")
    replay = Replay(SHARD, StreamPlace())
    taken = [replay.take(sequence, data) for sequence, data in enumerate(stream.messages, 1)]
    assert taken == [None, b"one", None, None, b"two"]
    assert replay.place.position == 2


def test_pieces_whose_writer_died_count_for_nothing() -> None:
    stream = owned()
    stream.add(MessageKind.PART, b"t", 0)
    stream.add(MessageKind.PART, b"w", 1)
    stream.claim(BOB)
    stream.commit(b"other")
    assert read(stream) == [b"one", b"other"]


@pytest.mark.parametrize("pieces", [(b"other",), (b"oth", b"er")])
def test_a_record_begins_anew_where_its_writer_had_given_one_up(pieces: tuple[bytes, ...]) -> None:
    stream = owned()
    stream.add(MessageKind.PART, b"t", 0)
    stream.add(MessageKind.PART, b"w", 1)
    stream.commit(*pieces)
    assert read(stream) == [b"one", b"other"]


def test_torn_records_are_counted() -> None:
    stream = owned()
    stream.add(MessageKind.PART, b"t", 0)
    stream.claim(BOB)
    stream.add(MessageKind.PART, b"t", 0)
    stream.commit(b"other")
    replay = Replay(SHARD, StreamPlace())
    for sequence, data in enumerate(stream.messages, 1):
        replay.take(sequence, data)
    assert replay.torn == 2


def test_reading_goes_on_from_a_place() -> None:
    stream = owned()
    replay = Replay(SHARD, StreamPlace())
    for sequence, data in enumerate(stream.messages, 1):
        replay.take(sequence, data)
    stream.commit(b"t", b"wo")
    stream.claim(BOB)
    stream.commit(b"three")
    assert read(stream, replay.place) == [b"two", b"three"]


def refused(stream: Stream, why: str) -> None:
    with pytest.raises(ShardDamaged, match=why) as raised:
        read(stream)
    assert raised.value.shard == SHARD
    assert "nats stream view" in str(raised.value)


def test_a_message_that_the_engine_has_lost_is_noticed_even_if_its_sequence_was_used_again() -> None:
    stream = owned()
    stream.commit(b"two")
    stream.commit(b"three")
    del stream.messages[2]
    refused(stream, "message 3 follows a hole: its number is 4, and the one before it is 2")


def test_a_message_that_is_there_twice_is_noticed() -> None:
    stream = owned()
    stream.messages.append(stream.messages[-1])
    refused(stream, "message 3 is there twice: its number is 2")


def test_another_message_with_the_right_number_is_noticed() -> None:
    stream = owned()
    other = owned()
    other.commit(b"lost")
    stream.commit(b"stays")
    other.commit(b"three")
    stream.messages.append(other.messages[-1])
    refused(stream, "message 4 follows another message")


def test_a_record_of_an_owner_who_is_shut_out_is_noticed() -> None:
    stream = owned()
    stream.claim(BOB)
    stream.add(MessageKind.COMMIT, b"late", epoch=1, writer=ALICE)
    refused(stream, r"message 4 was written by an owner \(epoch 1\) who is shut out since epoch 2")


def test_a_record_of_another_writer_of_the_same_epoch_is_noticed() -> None:
    stream = owned()
    stream.add(MessageKind.COMMIT, b"late", writer=BOB)
    refused(stream, "who is shut out")


def test_a_record_of_an_owner_whose_claim_is_missing_is_noticed() -> None:
    stream = owned()
    stream.add(MessageKind.COMMIT, b"early", epoch=2, writer=BOB)
    refused(stream, "epoch 2")


def test_a_record_before_any_claim_is_noticed() -> None:
    stream = Stream()
    stream.commit(b"one")
    refused(stream, "shut out")


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_claim_of_an_epoch_that_has_been_is_noticed(epoch: int) -> None:
    stream = owned()
    stream.claim(BOB, epoch=epoch)
    refused(stream, f"claims epoch {epoch}, and epoch 1 was claimed before")


def test_a_claim_that_knew_less_than_there_is_is_noticed() -> None:
    stream = owned()
    stream.claim(BOB, position=0)
    refused(stream, "claims the shard at record 0, and there are 1")


def test_a_piece_that_is_missing_is_noticed() -> None:
    stream = owned()
    stream.add(MessageKind.PART, b"t", 0)
    stream.add(MessageKind.COMMIT, b"o", 2)
    refused(stream, "is piece 2 of a record of which there are 1")


def test_a_record_out_of_its_turn_is_noticed() -> None:
    stream = owned()
    stream.add(MessageKind.COMMIT, b"three", position=3)
    refused(stream, "is of record 3, and 2 is the next")


def test_a_message_of_another_shard_is_noticed() -> None:
    stream = owned()
    stream.add(MessageKind.COMMIT, b"two", shard=6)
    refused(stream, "is of shard 6")


def test_what_is_no_message_is_noticed() -> None:
    stream = owned()
    stream.messages.append(b"hello")
    refused(stream, "message 3 is 5 bytes long, and so none of ours")


def test_a_sequence_that_is_left_out_is_noticed() -> None:
    replay = Replay(SHARD, StreamPlace())
    with pytest.raises(ShardDamaged, match="message 2 was read after message 0"):
        replay.take(2, owned().messages[0])


def refused_alone(stream: Stream, **right: Any) -> None:
    """By a check that no other one stands in for: whoever does without it believes what the last message says."""

    class DropsIt(Replay):
        def _check(self, sequence: int, message: StreamMessage) -> None:
            is_last = sequence == len(stream.messages)
            super()._check(sequence, message._replace(**right) if is_last else message)

    with pytest.raises(ShardDamaged):
        read(stream)
    replay = DropsIt(SHARD, StreamPlace())
    for sequence, data in enumerate(stream.messages, 1):
        replay.take(sequence, data)


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ("number", 2, 3),
        ("number", 4, 3),
        ("epoch", 0, 1),
        ("epoch", 2, 1),
        ("writer", BOB, ALICE),
        ("position", 1, 2),
        ("position", 3, 2),
        ("part", 1, 0),
        ("shard", 6, SHARD),
    ],
)
def test_each_check_of_a_record_is_needed(field: str, wrong: Any, right: Any) -> None:
    """All else of the message is right."""
    stream = owned()
    stream.add(MessageKind.COMMIT, b"two", **{field: wrong})
    refused_alone(stream, **{field: right})


@pytest.mark.parametrize(
    ("field", "wrong", "right"), [("number", 2, 3), ("number", 4, 3), ("epoch", 1, 2), ("position", 0, 1), ("shard", 6, SHARD)]
)
def test_each_check_of_a_claim_is_needed(field: str, wrong: Any, right: Any) -> None:
    stream = owned()
    stream.claim(BOB, **{field: wrong})
    refused_alone(stream, **{field: right})


def test_the_checksum_of_the_message_before_is_needed() -> None:
    """An older end was put back, and the sequence used again by the same owner: everything but the checksum fits."""
    stream = owned()
    stream.commit(b"two")
    lost = stream.messages[-1]
    other = owned()
    other.commit(b"instead")
    right = other.before
    stream.commit(b"three")
    stream.messages[2] = other.messages[2]
    assert lost != stream.messages[2]
    refused_alone(stream, before=right)


def test_the_place_of_a_replay_is_proved_by_its_message() -> None:
    stream = owned()
    stream.commit(b"two")
    replay = Replay(SHARD, StreamPlace())
    for sequence, data in enumerate(stream.messages, 1):
        replay.take(sequence, data)
    replay.prove(stream.messages[2])
    with pytest.raises(ShardDamaged, match="message 3 is another one than this host has applied"):
        replay.prove(stream.messages[1])
    with pytest.raises(ShardDamaged, match="message 3 is 5 bytes long"):
        replay.prove(b"hello")


def test_a_place_keeps_which_stream_it_is_of() -> None:
    stream = owned()
    replay = Replay(SHARD, StreamPlace(created="a day"))
    for sequence, data in enumerate(stream.messages, 1):
        replay.take(sequence, data)
    assert replay.place.created == "a day"


def test_whatever_is_left_out_doubled_or_moved_is_noticed_or_changes_nothing() -> None:
    """Every stream of four that can be made of these messages, against the records of the right one."""
    stream = owned()
    stream.commit(b"t", b"wo")
    stream.claim(BOB)
    stream.commit(b"three")
    right = read(stream)
    tried = 0
    for order in itertools.product(stream.messages, repeat=4):
        other = Stream()
        other.messages = list(order)
        try:
            found = read(other)
        except ShardDamaged:
            tried += 1
        else:
            assert found == right[: len(found)]
            assert list(order) == stream.messages[:4]
    assert tried == 6**4 - 1
