"""One owner, event by event; tests/sim/replicated has several of them and all that can happen."""

from __future__ import annotations

import pytest

from tidegate.shard.replicated.message import HEAD_BYTES, HEADERS_BYTES_MAX, MessageKind, decode_message
from tidegate.shard.replicated.owner import (
    Acknowledged,
    Apply,
    CaughtUp,
    Confirm,
    Effect,
    EndsEarlier,
    Event,
    FenceRefused,
    LeaveBehind,
    LogRefused,
    Look,
    MessagesRead,
    Own,
    Ownership,
    Publish,
    PublishUnanswered,
    Read,
    ReadUnanswered,
    Refuse,
    ShardOwner,
    ShutOut,
    StopDamaged,
    StreamSeen,
    Wait,
    WaitOver,
)
from tidegate.shard.replicated.replay import StreamPlace

SHARD = 5
ALICE, BOB = b"a" * 16, b"b" * 16
NOTHING = MessagesRead([])


class Stream:
    """An engine that never errs, and answers what it is asked."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.first = 1

    def store(self, effect: Publish) -> Event:
        if effect.after != len(self.messages):
            return FenceRefused()
        self.messages.append(effect.data)
        return Acknowledged(len(self.messages))

    def read(self, effect: Read) -> MessagesRead:
        start = max(effect.sequence, self.first)
        return MessagesRead([(at, self.messages[at - 1]) for at in range(start, len(self.messages) + 1)])

    def settle(self, owner: ShardOwner, effects: list[Effect]) -> list[Effect]:
        """All that comes of them, until the owner wants nothing more."""
        told: list[Effect] = []
        while effects:
            effect, *effects = effects
            match effect:
                case Read():
                    effects += owner.handle(self.read(effect))
                case Publish():
                    effects += owner.handle(self.store(effect))
                case Wait():
                    effects += owner.handle(WaitOver())
                case _:
                    told.append(effect)
        return told


def owner_of(stream: Stream, writer: bytes = ALICE, place: StreamPlace | None = None, piece_bytes: int = 1_000) -> ShardOwner:
    owner = ShardOwner(SHARD, writer, HEADERS_BYTES_MAX + HEAD_BYTES + piece_bytes, place)
    assert isinstance(stream.settle(owner, owner.claim())[-1], Own)
    return owner


def sent(effects: list[Effect]) -> Publish:
    (effect,) = effects
    assert isinstance(effect, Publish)
    return effect


def records(effects: list[Effect]) -> list[bytes]:
    return [effect.record for effect in effects if isinstance(effect, Apply)]


# Claims


def test_an_empty_stream_is_claimed() -> None:
    stream = Stream()
    owner = ShardOwner(SHARD, ALICE, 1 << 20, words=b"host one")
    assert owner.claim() == [Read(1)]
    claim = sent(owner.handle(NOTHING))
    assert claim.after == 0
    message = decode_message(claim.data).message
    assert (message.kind, message.epoch, message.number, message.body) == (MessageKind.EPOCH, 1, 1, b"host one")
    assert owner.handle(stream.store(claim)) == [Own(owner.place)]
    assert owner.place.sequence == 1
    assert owner.state is Ownership.OWNING


def test_whoever_claims_has_applied_everything_before() -> None:
    stream = Stream()
    owner = owner_of(stream)
    for record in (b"one", b"two"):
        stream.settle(owner, owner.append(record))
    other = ShardOwner(SHARD, BOB, 1 << 20)
    effects = stream.settle(other, other.claim())
    assert records(effects) == [b"one", b"two"]
    assert isinstance(effects[-1], Own)
    assert other.place.epoch == 2


def test_whoever_only_reads_disturbs_no_owner_and_another_claim_goes_on_from_there() -> None:
    stream = Stream()
    owner = owner_of(stream)
    stream.settle(owner, owner.append(b"one"))
    reader = ShardOwner(SHARD, BOB, 1 << 20)
    effects = stream.settle(reader, reader.follow())
    assert records(effects) == [b"one"]
    assert effects[-1] == CaughtUp(reader.record_place)
    assert reader.state is Ownership.NONE
    stream.settle(owner, owner.append(b"two"))
    assert records(stream.settle(reader, reader.follow())) == [b"two"], "it may read on"
    stream.settle(owner, owner.append(b"three"))
    other = ShardOwner(SHARD, BOB[::-1], 1 << 20, reader.record_place)
    assert records(stream.settle(other, other.claim())) == [b"three"]
    assert other.state is Ownership.OWNING


def test_an_owner_who_appends_without_pause_is_not_followed_for_ever() -> None:
    stream = Stream()
    owner = owner_of(stream)
    reader = ShardOwner(SHARD, BOB, 1 << 20)
    for up_to in (len(stream.messages), len(stream.messages) + 5):
        effects = reader.follow(up_to)
        for _ in range(20):
            if isinstance(effects[-1], CaughtUp):
                break
            assert isinstance(effects[-1], Read)
            stream.settle(owner, owner.append(b"more"))
            effects = reader.handle(stream.read(effects[-1]))
        assert effects[-1] == CaughtUp(reader.record_place)
        assert up_to <= reader.record_place.sequence <= up_to + 2


def test_whoever_reads_up_to_pieces_of_a_record_goes_on_before_them() -> None:
    stream = Stream()
    owner = owner_of(stream)
    stream.settle(owner, owner.append(b"one"))
    whole = owner.record_place
    (first,) = owner.append(b"x" * 2_500)
    assert isinstance(first, Publish)
    stream.store(first)
    reader = ShardOwner(SHARD, BOB, 1 << 20)
    assert stream.settle(reader, reader.follow())[-1] == CaughtUp(whole)


def test_a_claim_goes_on_from_the_place_that_is_known() -> None:
    stream = Stream()
    owner = owner_of(stream)
    place = stream.settle(owner, owner.append(b"one"))[-1].place  # type: ignore[union-attr]  # of a Confirm
    stream.settle(owner, owner.append(b"two"))
    other = ShardOwner(SHARD, BOB, 1 << 20, place)
    assert records(stream.settle(other, other.claim())) == [b"two"]


def behind(stream: Stream, *rest: bytes) -> StreamPlace:
    """The place behind a record, after which there are others."""
    owner = owner_of(stream)
    (confirmed,) = stream.settle(owner, owner.append(b"one"))
    assert isinstance(confirmed, Confirm)
    for record in rest:
        stream.settle(owner, owner.append(record))
    return confirmed.place


def test_whoever_goes_on_from_a_place_looks_whether_its_message_is_the_one_that_he_knows() -> None:
    """An older copy of the stream may have been put in its place, and its sequences used again: here up to the very same end, so
    that the fence would hold."""
    stream = Stream()
    place = behind(stream)
    del stream.messages[1:]
    owner_of(stream, BOB)
    assert len(stream.messages) == place.sequence
    other = ShardOwner(SHARD, ALICE, 1 << 20, place)
    (effect,) = stream.settle(other, other.claim())
    assert isinstance(effect, StopDamaged)
    assert "message 2 is another one than this host has applied" in str(effect.error)


def test_where_the_message_of_the_place_is_purged_the_next_one_proves_it() -> None:
    stream = Stream()
    place = behind(stream, b"two")
    stream.first = 3
    other = ShardOwner(SHARD, BOB, 1 << 20, place)
    assert records(stream.settle(other, other.claim())) == [b"two"]
    third = ShardOwner(SHARD, BOB, 1 << 20, place._replace(checksum=1))
    (effect,) = stream.settle(third, third.claim())
    assert isinstance(effect, StopDamaged)


def look(owner: ShardOwner, effects: list[Effect]) -> None:
    """Reads give nothing and the fence is refused, until it asks how far the stream goes."""
    for _ in range(100):
        (effect,) = effects
        if effect == Look():
            return
        match effect:
            case Read():
                effects = owner.handle(NOTHING)
            case Publish():
                effects = owner.handle(FenceRefused())
            case _:
                effects = owner.handle(WaitOver())
    pytest.fail("it never asked")


def test_a_claim_that_is_refused_where_nothing_can_be_read_finds_out_that_all_is_purged() -> None:
    owner = ShardOwner(SHARD, ALICE, 1 << 20)
    look(owner, owner.claim())
    assert owner.handle(StreamSeen(8, 7)) == [LeaveBehind(StreamPlace(), 8)]
    assert owner.state is Ownership.STOPPED


def test_an_append_whose_sequence_is_purged_cannot_be_known() -> None:
    stream = Stream()
    owner = owner_of(stream)
    look(owner, owner.append(b"one"))
    assert owner.handle(StreamSeen(3, 2)) == [ShutOut(1, undone=False)]


def test_an_end_that_went_back_is_said_and_settles_nothing() -> None:
    """A leader that has just been elected may not know the newest messages yet."""
    stream = Stream()
    place = behind(stream)
    other = ShardOwner(SHARD, BOB, 1 << 20, place)
    look(other, other.claim())
    (said, wait) = other.handle(StreamSeen(1, 1))
    assert said == EndsEarlier(place, 1)
    assert isinstance(wait, Wait)
    assert isinstance(stream.settle(other, other.handle(WaitOver()))[-1], Own)


def test_a_place_behind_which_all_is_purged_is_one_to_go_on_from() -> None:
    stream = Stream()
    place = behind(stream)
    stream.first = 3
    other = ShardOwner(SHARD, BOB, 1 << 20, place)
    look(other, other.claim())
    effects = other.handle(StreamSeen(3, 2))
    assert isinstance(stream.settle(other, effects)[-1], Own)


def test_whoever_gets_no_answer_to_that_either_goes_on_trying() -> None:
    owner = ShardOwner(SHARD, ALICE, 1 << 20)
    look(owner, owner.claim())
    assert isinstance(owner.handle(ReadUnanswered())[0], Wait)
    assert isinstance(owner.handle(WaitOver())[0], Publish)


def test_a_claim_at_an_old_end_is_refused_reads_on_and_claims_again() -> None:
    stream = Stream()
    owner = owner_of(stream)
    stream.settle(owner, owner.append(b"one"))
    other = ShardOwner(SHARD, BOB, 1 << 20)
    other.claim()
    other.handle(MessagesRead([(1, stream.messages[0])]))
    claim = sent(other.handle(NOTHING))  # So says a replica that lags behind.
    assert stream.store(claim) == FenceRefused()
    assert other.handle(FenceRefused()) == [Read(2)]
    effects = stream.settle(other, other.handle(stream.read(Read(2))))
    assert records(effects) == [b"one"]
    assert isinstance(effects[-1], Own)


def test_of_two_claims_one_wins_and_the_other_gives_way() -> None:
    stream = Stream()
    first, second = ShardOwner(SHARD, ALICE, 1 << 20), ShardOwner(SHARD, BOB, 1 << 20)
    claims = []
    for each in (first, second):
        each.claim()
        claims.append(sent(each.handle(NOTHING)))
    assert isinstance(first.handle(stream.store(claims[0]))[0], Own)
    assert second.handle(stream.store(claims[1])) == [Read(2 - 1)]
    assert second.handle(stream.read(Read(1))) == [ShutOut(1, undone=True)]
    assert second.state is Ownership.STOPPED


def test_a_claim_that_was_stored_unseen_is_found() -> None:
    stream = Stream()
    owner = ShardOwner(SHARD, ALICE, 1 << 20)
    owner.claim()
    claim = sent(owner.handle(NOTHING))
    stream.store(claim)
    assert owner.handle(PublishUnanswered()) == [Wait(1, False)]
    assert owner.handle(WaitOver()) == [claim]
    assert owner.handle(stream.store(claim)) == [Read(1)]
    assert isinstance(owner.handle(stream.read(Read(1)))[0], Own)


def test_a_claim_waits_for_room() -> None:
    owner = ShardOwner(SHARD, ALICE, 1 << 20)
    owner.claim()
    claim = sent(owner.handle(NOTHING))
    assert owner.handle(LogRefused()) == [Wait(1, True)]
    assert owner.handle(WaitOver()) == [claim]
    assert owner.handle(LogRefused()) == [Wait(2, True)]


def test_a_read_that_is_not_answered_is_asked_again() -> None:
    owner = ShardOwner(SHARD, ALICE, 1 << 20)
    owner.claim()
    assert owner.handle(ReadUnanswered()) == [Wait(1, False)]
    assert owner.handle(WaitOver()) == [Read(1)]


def test_whoever_is_left_behind_by_a_purge_says_from_where_he_needs_a_snapshot() -> None:
    stream = Stream()
    owner = owner_of(stream)
    for record in (b"one", b"two", b"three"):
        stream.settle(owner, owner.append(record))
    stream.first = 3
    other = ShardOwner(SHARD, BOB, 1 << 20)
    assert stream.settle(other, other.claim()) == [LeaveBehind(StreamPlace(), 3)]


def test_a_damaged_log_is_not_claimed() -> None:
    stream = Stream()
    owner = owner_of(stream)
    stream.settle(owner, owner.append(b"one"))
    stream.messages[1] = stream.messages[1][:-1] + b"!"
    other = ShardOwner(SHARD, BOB, 1 << 20)
    (effect,) = stream.settle(other, other.claim())
    assert isinstance(effect, StopDamaged)
    assert "message 2 is damaged: its checksum is wrong" in str(effect.error)


# Appends


def test_an_append_is_one_publish_and_confirmed_by_its_acknowledgement() -> None:
    stream = Stream()
    owner = owner_of(stream)
    publish = sent(owner.append(b"one"))
    assert publish.after == 1
    assert owner.handle(stream.store(publish)) == [Confirm(1, owner.place)]
    assert owner.place == StreamPlace(2, 2, 1, 1, ALICE, decode_message(publish.data).checksum)


def test_a_large_record_is_split_and_confirmed_with_its_last_piece() -> None:
    stream = Stream()
    owner = owner_of(stream, piece_bytes=2)
    publishes = []
    effects = owner.append(b"large")
    while isinstance(effects[0], Publish):
        publishes.append(effects[0])
        effects = owner.handle(stream.store(effects[0]))
    assert [decode_message(publish.data).message.kind for publish in publishes] == [
        MessageKind.PART,
        MessageKind.PART,
        MessageKind.COMMIT,
    ]
    assert effects == [Confirm(1, owner.place)]
    other = ShardOwner(SHARD, BOB, 1 << 20)
    assert records(stream.settle(other, other.claim())) == [b"large"]


def test_what_was_not_answered_is_sent_again_byte_for_byte_behind_the_same_message() -> None:
    owner = owner_of(Stream())
    publish = sent(owner.append(b"one"))
    for times in range(1, 4):
        assert owner.handle(PublishUnanswered()) == [Wait(times, False)]
        assert owner.handle(WaitOver()) == [publish]


def test_a_refusal_settles_nothing() -> None:
    """A leader without majority refuses for the sake of entries that will never exist."""
    owner = owner_of(Stream())
    publish = sent(owner.append(b"one"))
    for times in range(1, 4):
        assert owner.handle(FenceRefused()) == [Read(2)]
        assert owner.handle(NOTHING) == [Wait(times, False)]
        assert owner.handle(WaitOver()) == [publish]
    assert owner.state is Ownership.APPENDING


def test_the_proof_of_ones_own_record_confirms_it() -> None:
    stream = Stream()
    owner = owner_of(stream)
    publish = sent(owner.append(b"one"))
    stream.store(publish)
    owner.handle(PublishUnanswered())
    assert owner.handle(WaitOver()) == [publish]
    assert owner.handle(stream.store(publish)) == [Read(2)]
    assert owner.handle(stream.read(Read(2))) == [Confirm(1, owner.place)]
    assert len(stream.messages) == 2


def test_whoever_finds_anothers_claim_is_shut_out_and_knows_that_his_record_is_not_stored() -> None:
    stream = Stream()
    owner = owner_of(stream)
    owner_of(stream, BOB)
    publish = sent(owner.append(b"late"))
    assert owner.handle(stream.store(publish)) == [Read(2)]
    assert owner.handle(stream.read(Read(2))) == [ShutOut(2, undone=True)]
    assert owner.state is Ownership.STOPPED


@pytest.mark.parametrize(("record", "undone"), [(b"1", False), (b"large", True)])
def test_whoever_finds_that_all_is_purged_is_shut_out_and_may_not_know_more(record: bytes, undone: bool) -> None:
    """Of a record of which pieces were not sent yet he knows."""
    stream = Stream()
    owner = owner_of(stream, piece_bytes=2)
    owner.append(record)
    other = owner_of(stream, BOB)
    for each in (b"2", b"3"):
        stream.settle(other, other.append(each))
    stream.first = 4
    owner.handle(FenceRefused())
    assert owner.handle(stream.read(Read(2))) == [ShutOut(1, undone)]


def test_an_acknowledgement_at_another_sequence_shows_that_the_fence_is_none() -> None:
    owner = owner_of(Stream())
    owner.append(b"one")
    (effect,) = owner.handle(Acknowledged(3))
    assert isinstance(effect, StopDamaged)
    assert "message 3 was to be stored as 2 or not at all" in str(effect.error)


# A full log


def test_a_full_log_refuses_the_record_and_the_shard_stays_owned() -> None:
    stream = Stream()
    owner = owner_of(stream)
    owner.append(b"one")
    assert owner.handle(LogRefused(10002)) == [Refuse(1, 10002)]
    assert owner.state is Ownership.OWNING
    assert stream.settle(owner, owner.append(b"other")) == [Confirm(1, owner.place)]


@pytest.mark.parametrize("doubt", [PublishUnanswered(), FenceRefused()])
def test_a_full_log_does_not_settle_what_was_sent_before(doubt: Event) -> None:
    stream = Stream()
    owner = owner_of(stream)
    publish = sent(owner.append(b"one"))
    if owner.handle(doubt) == [Read(2)]:
        owner.handle(NOTHING)
    assert owner.handle(WaitOver()) == [publish]
    assert owner.handle(LogRefused()) == [Read(2)]
    assert owner.handle(NOTHING) == [Wait(1 + 1, True)]
    assert owner.handle(WaitOver()) == [publish]
    assert owner.handle(stream.store(publish)) == [Confirm(1, owner.place)]


def test_a_store_that_failed_settles_nothing_and_waits_for_room() -> None:
    """Other replicas may have stored it: here they have."""
    stream = Stream()
    owner = owner_of(stream)
    publish = sent(owner.append(b"one"))
    stream.store(publish)
    assert owner.handle(PublishUnanswered(no_room=True)) == [Wait(1, True)]
    assert owner.handle(WaitOver()) == [publish]
    assert owner.handle(stream.store(publish)) == [Read(2)]
    assert owner.handle(stream.read(Read(2))) == [Confirm(1, owner.place)]


def test_a_message_of_ones_own_that_was_believed_not_to_be_stored_stops_the_shard() -> None:
    """Its callers were told that nothing was done: never shut out, from where they would be asked to do it again."""
    stream = Stream()
    owner = owner_of(stream)
    publish = sent(owner.append(b"one"))
    stream.store(publish)
    assert owner.handle(LogRefused()) == [Refuse(1)]
    other = sent(owner.append(b"other"))
    assert owner.handle(stream.store(other)) == [Read(2)]
    (effect,) = owner.handle(stream.read(Read(2)))
    assert isinstance(effect, StopDamaged)
    assert "message 2 is of this very owner, who had sent another for its place" in str(effect.error)


def test_half_a_record_in_pieces_is_no_place_to_go_on_from() -> None:
    """One piece is acknowledged, the last one in doubt."""
    stream = Stream()
    owner = owner_of(stream, piece_bytes=4)
    before = owner.record_place
    last = sent(owner.handle(stream.store(sent(owner.append(b"large")))))
    assert owner.place.sequence == before.sequence + 1
    assert owner.record_place == before
    stream.store(last)
    other = ShardOwner(SHARD, BOB, 1 << 20, owner.record_place)
    assert records(stream.settle(other, other.claim())) == [b"large"]
    assert other.record_place == other.place


def test_a_record_that_was_refused_in_pieces_leaves_no_trace() -> None:
    stream = Stream()
    owner = owner_of(stream, piece_bytes=2)
    owner.handle(stream.store(sent(owner.append(b"large"))))
    assert owner.handle(LogRefused()) == [Refuse(1)]
    stream.settle(owner, owner.append(b"other"))
    other = ShardOwner(SHARD, BOB, 1 << 20)
    assert records(stream.settle(other, other.claim())) == [b"other"]


def test_events_out_of_turn_are_mistakes_of_the_shell() -> None:
    owner = owner_of(Stream())
    with pytest.raises(AssertionError):
        owner.handle(WaitOver())
    owner.append(b"one")
    with pytest.raises(AssertionError):
        owner.append(b"two")
    with pytest.raises(AssertionError):
        owner.claim()
