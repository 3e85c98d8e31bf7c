"""shard/store/record.py: what a log record says, and its bytes."""

from __future__ import annotations

import pytest

from tests.support.records import decode_record
from tidegate.shard.store.interface import ObjectWrites, ShardCommit
from tidegate.shard.store.record import CommitRecord, decode_objects, decode_unread_record, encode_record

RECORD = CommitRecord(
    1_700_000_000_000,
    [
        ShardCommit(3, 7, [ObjectWrites(b"k" * 16, False, {"": b"header", "ä": b"\0\xff", "gone": None})]),
        ShardCommit(4, 1, [ObjectWrites(b"l" * 16, True, {})]),
    ],
)


def test_a_record_is_the_same_after_encoding_and_decoding() -> None:
    assert decode_record(encode_record(RECORD)) == RECORD


def test_the_commits_of_other_shards_need_not_be_decoded() -> None:
    unread = decode_unread_record(encode_record(RECORD))
    assert [(commit.shard, commit.seq) for commit in unread.shards] == [(3, 7), (4, 1)]
    assert decode_objects(unread.shards[0].objects) == RECORD.shards[0].objects


def test_bytes_that_are_no_record_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected"):
        decode_record(b"\x93\x01\x02\x03")
