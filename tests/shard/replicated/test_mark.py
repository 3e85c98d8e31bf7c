"""What a state says of the stream that it is a cache of."""

from __future__ import annotations

import pytest

from tidegate.shard.replicated.mark import decode_mark, encode_mark
from tidegate.shard.replicated.replay import StreamPlace
from tidegate.shard.store.logs import LogMark
from tidegate.shard.store.logs import decode_mark as decode_own_mark

PLACE = StreamPlace(7, 6, 5, 4, b"w" * 16, 3, "2026-11-29T20:30:43.815534283Z")


def test_a_place_is_read_back_as_it_was() -> None:
    assert decode_mark(encode_mark(PLACE)) == PLACE
    assert decode_mark(b"") is None, "a state that has nothing yet"


def test_every_changed_byte_is_noticed() -> None:
    data = encode_mark(PLACE)
    for at in range(len(data)):
        with pytest.raises(ValueError, match=r"damaged|without a cluster"):
            decode_mark(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r"damaged|without a cluster"):
            decode_mark(data[: max(1, at)])


def test_a_state_of_a_service_without_a_cluster_is_not_taken_for_one_and_the_other_way_round() -> None:
    with pytest.raises(ValueError, match="of a service without a cluster"):
        decode_mark(LogMark(1, 0, 0, 9).encode())
    with pytest.raises(ValueError, match="damaged"):
        decode_own_mark(encode_mark(PLACE))
