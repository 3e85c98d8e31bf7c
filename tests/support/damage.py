"""Data files with flipped bits: made, changed, read back."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random

import lmdb

from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.pages import PageFile, Verifier

PAGE = 4_096
_LEAF = 2
ROWS = 600


def object_row(number: int) -> bytes:
    return b"\x01%015d" % (number // 5) + b"key%d" % (number % 5)


def write_state(
    path: Path, random: Random, *, rows: int = 600, commits: int = 20, value_bytes_max: int = 60
) -> dict[bytes, bytes]:
    """A state with a history: rows put, changed and deleted, pages freed and used again. Returns what it holds."""
    state = LmdbState(path, 1)
    held: dict[bytes, bytes] = {}
    keys = [object_row(number) for number in range(ROWS)]
    for seq in range(1, commits + 1):
        batch = state.begin()
        for key in sorted(random.sample(keys, random.choice([1, 20, ROWS // 2]))):
            if random.random() < 0.3:
                held.pop(key, None)
                batch.delete_many([key])
            else:
                size = 5_000 if random.random() < value_bytes_max / 60_000 else random.randrange(value_bytes_max)
                held[key] = random.randbytes(size)
                batch.put_many([(key, held[key])])
        batch.set_applied_seq(seq)
        batch.commit()
    state.close()
    return held


def places_of_rows(file: Path) -> dict[bytes, int]:
    """Where in the file the key of each small row is that is not of an older commit; its value follows."""
    found = {}
    with PageFile(file) as pages:
        verifier = Verifier(pages)
        assert not list(verifier.run())
        for number in range(pages.pages):
            if verifier.reached(number) and pages.is_leaf(number):
                page = pages.page(number)
                for row in pages.rows_of(number, page):
                    # What older commits have left in the page lies below its rows.
                    if (place := page.rfind(row.key + row.value)) >= 0:
                        found[row.key] = number * PAGE + place
    return found


def flip_bit(file: Path, byte: int, bit: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(byte)
        (old,) = opened.read(1)
        opened.seek(byte)
        opened.write(bytes([old ^ 1 << bit]))


def write_format_1(path: Path, shard: int, rows: dict[bytes, bytes], applied_seq: int) -> None:
    """A state as versions before checksums left it."""
    path.mkdir(parents=True)
    env = lmdb.open(str(path), map_size=1 << 30, max_dbs=0, lock=False)
    with env.begin(write=True) as txn:
        for key, value in rows.items():
            txn.put(key, value)
        txn.put(b"\xffstate", (1).to_bytes(4, "little") + shard.to_bytes(4, "little") + applied_seq.to_bytes(8, "little"))
    env.close()


def hide_row(file: Path, key: bytes) -> None:
    """In every page that has it the row is there no longer, as far as LMDB can see; nothing else of the file says so."""
    data = bytearray(file.read_bytes())
    for page in range(0, len(data), PAGE):
        flags, lower = struct.unpack_from("<HH", data, page + 10)
        if flags != _LEAF:
            continue
        places = range(page + 16, page + lower, 2)
        for place in places:
            node = page + struct.unpack_from("<H", data, place)[0]
            (key_bytes,) = struct.unpack_from("<H", data, node + 6)
            if data[node + 8 : node + 8 + key_bytes] == key:
                data[place : page + lower] = data[place + 2 : page + lower] + b"\0\0"
                struct.pack_into("<H", data, page + 12, lower - 2)
                break
    with file.open("r+b") as opened:  # In place: who has mapped it sees it, too.
        opened.write(data)


def forget_newest_commit(path: Path) -> None:
    """LMDB goes on from the one before, as where the newest meta page was not written."""
    with PageFile(path) as pages:
        newest = pages.newest_meta()
        assert newest is not None
    with path.open("r+b") as opened:  # Where its transaction stands.
        opened.seek(newest.page * PAGE + 16 + 24 + 2 * 48 + 8)
        opened.write((newest.txn - 2).to_bytes(8, "little"))
