"""Records of the commit log, read back whole. The product decodes a part of one: what belongs to its shards."""

from __future__ import annotations

import msgspec

from tidegate.shard.store.record import CommitRecord

decode_record = msgspec.msgpack.Decoder(CommitRecord).decode
