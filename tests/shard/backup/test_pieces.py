"""shard/backup/pieces.py: bytes of a piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.shard.backup.pieces import (
    PieceDamaged,
    RecordsHeader,
    RowsHeader,
    decode_piece,
    encode_piece,
    records_name,
    rows_name,
)

ROWS = RowsHeader("20260101T000000Z-abcd", 3, 7, 41, 2, b"last", ends=True)
RECORDS = RecordsHeader("20260101T000000Z-abcd", "00000001-0000-0000", 12, 90, 2)


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=300)), max_size=20))
def test_rows_come_back_as_they_were(rows: list[tuple[bytes, bytes]]) -> None:
    flat = [each for row in rows for each in row]
    assert decode_piece(encode_piece(ROWS, flat)) == (ROWS, flat)


def test_records_come_back_with_their_positions() -> None:
    assert decode_piece(encode_piece(RECORDS, [12, b"one", 90, b"two"])) == (RECORDS, [12, b"one", 90, b"two"])


def test_any_bit_that_flips_and_any_byte_that_is_missing_is_noticed() -> None:
    data = encode_piece(ROWS, [b"key", b"value"])
    for at in range(len(data)):
        with pytest.raises(PieceDamaged):
            decode_piece(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(PieceDamaged):
            decode_piece(data[:at])


def test_names_sort_as_what_they_name_does() -> None:
    names = [rows_name("c", shard, number) for shard in (0, 1, 300) for number in (0, 2, 1000)]
    assert names == sorted(names)
    assert records_name("c", "00000001-0000-0000", 9) < records_name("c", "00000001-0000-0000", 10)
