"""What one append to the commit log says, and its bytes.

Rule 1: a record holds absolute values, never differences, so that applying a run of records twice ends in the same state.
Rule 2: fields are only ever added at the end; the segment's format version says which ones are there.
"""

from __future__ import annotations

import msgspec

from tidegate.shard.store.interface import ObjectWrites, ShardCommit


class CommitRecord(msgspec.Struct, array_like=True, gc=False):
    """One group commit of a worker: durable as a whole or not at all."""

    wall_ms: int
    """Unix time of the cut in milliseconds. Says when, decides nothing."""
    shards: list[ShardCommit]
    seqs: dict[int, int] = {}
    """By shard of the worker, the sequence of its newest commit before this record; in some records only (see `seqs_of`). Where
    a record is lost, that tells which shards have lost nothing."""


NO_ANSWERS = msgspec.Raw(b"\x90")


class UnreadShardCommit(msgspec.Struct, array_like=True, gc=False):
    """A `ShardCommit` whose objects are decoded only if somebody wants them: recovery skips the shards of others cheaply."""

    shard: int
    seq: int
    objects: msgspec.Raw
    answers: msgspec.Raw = NO_ANSWERS
    rolls: msgspec.Raw = NO_ANSWERS


class UnreadCommitRecord(msgspec.Struct, array_like=True, gc=False):
    wall_ms: int
    shards: list[UnreadShardCommit]
    seqs: dict[int, int] = {}


encode_record = msgspec.msgpack.Encoder().encode
decode_unread_record = msgspec.msgpack.Decoder(UnreadCommitRecord).decode
decode_objects = msgspec.msgpack.Decoder(list[ObjectWrites]).decode
