"""What one append to the commit log says, and its bytes.

Rule 1: a record holds absolute values, never differences, so that applying a run of records twice ends in the same state.
Rule 2: fields are only ever added at the end; the segment's format version says which ones are there.
"""

from __future__ import annotations

import msgspec


class ObjectWrites(msgspec.Struct, array_like=True, gc=False):
    """What one commit changes in one object. `gc=False`: it holds bytes and strings only, so it is never part of a cycle."""

    key: bytes
    """The object key (see `tidegate.runtime.ids.object_key`)."""
    cleared: bool
    """Everything the object had before is gone; `writes` come after that."""
    writes: dict[str, bytes | None]
    """New value by key, None where the key is deleted. The key "" is the object's header."""


class ShardCommit(msgspec.Struct, array_like=True, gc=False):
    """One shard's part of a group commit. `seq` grows by one from commit to commit of the shard, across workers and starts."""

    shard: int
    seq: int
    objects: list[ObjectWrites]


class CommitRecord(msgspec.Struct, array_like=True, gc=False):
    """One group commit of a worker: durable as a whole or not at all."""

    wall_ms: int
    """Unix time of the cut in milliseconds. Says when, decides nothing."""
    shards: list[ShardCommit]


class UnreadShardCommit(msgspec.Struct, array_like=True, gc=False):
    """A `ShardCommit` whose objects are decoded only if somebody wants them: recovery skips the shards of others cheaply."""

    shard: int
    seq: int
    objects: msgspec.Raw


class UnreadCommitRecord(msgspec.Struct, array_like=True, gc=False):
    wall_ms: int
    shards: list[UnreadShardCommit]


encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(CommitRecord).decode
decode_unread_record = msgspec.msgpack.Decoder(UnreadCommitRecord).decode
decode_objects = msgspec.msgpack.Decoder(list[ObjectWrites]).decode
