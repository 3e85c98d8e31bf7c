"""One object as it was at a moment, out of a backup, without making a directory of it."""

from __future__ import annotations

from collections.abc import Callable

from tidegate.runtime.ids import ObjectId, object_key, shard_of_slot, slot_of
from tidegate.runtime.wire.object_records import Record
from tidegate.shard.backup.depot import Depot
from tidegate.shard.backup.pieces import rows_name
from tidegate.shard.backup.reading import read_pieces
from tidegate.shard.backup.restore import HeldBack, Moment
from tidegate.shard.core.alarms import STEADY_KEY
from tidegate.shard.offline.export import STEADY_ROW, ahead_us_of, records_of
from tidegate.shard.store.record import UnreadCommitRecord, decode_objects, decode_unread_record

Progress = Callable[[str, float], object]


def read_object(depot: Depot, moment: Moment, wanted: ObjectId, progress: Progress) -> list[Record]:
    """As it is exported; empty where there was none. Reads the rows of its shard, and all records. Raises OperatorError."""
    full = moment.lineage.manifests[0]
    shard = shard_of_slot(slot_of(*wanted), full.shards)
    owners = object_key(*wanted), STEADY_KEY
    rows: dict[bytes, bytes] = {}
    beginning = rows_name(full.lineage, shard, 0)[:-6]
    pieces = [piece for piece in full.rows if piece.name.startswith(beginning)]
    for number, (_, flat) in enumerate(read_pieces(depot, pieces)):
        progress(f"rows of shard {shard}", number / len(pieces))
        rows |= {key: value for key, value in zip(flat[::2], flat[1::2], strict=True) if key.startswith(owners)}
    cut = HeldBack(moment.at_ms, full.seqs)
    records = [piece for manifest in moment.lineage.manifests for piece in manifest.records]
    for number, (_, flat) in enumerate(read_pieces(depot, records)):
        progress("records of the log", number / len(records))
        for record in flat[1::2]:
            _lay_over(rows, cut.kept(decode_unread_record(record)), shard, full.base[shard], owners)
    return list(records_of(sorted(rows.items()), lambda header: True, ahead_us_of(rows.pop(STEADY_ROW, None))))


def _lay_over(rows: dict[bytes, bytes], record: UnreadCommitRecord, shard: int, base: int, owners: tuple[bytes, ...]) -> None:
    for commit in record.shards:
        if commit.shard == shard and commit.seq > base:
            for change in decode_objects(commit.objects):
                if change.key in owners:
                    if change.cleared:
                        for key in [key for key in rows if key.startswith(change.key)]:
                            del rows[key]
                    for name, value in change.writes.items():
                        rows.pop(change.key + name.encode(), None)
                        if value is not None:
                            rows[change.key + name.encode()] = value
