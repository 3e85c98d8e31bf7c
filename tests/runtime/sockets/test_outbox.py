"""Outbox: order and bounds of what waits for clients that do not read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.runtime.limits import ERRORS_BYTES_MAX, SEND_AHEAD_BYTES
from tidegate.runtime.sockets.outbox import Outbox
from tidegate.runtime.wire.protocol import own_identity


def test_messages_of_a_client_come_back_in_the_order_in_which_they_were_kept() -> None:
    outbox = Outbox()
    for number in range(5):
        assert outbox.keep(b"a", (b"%d" % number,))
        assert outbox.keep(b"b", (b"x",))
    seen = []
    while (frames := outbox.first(b"a")) is not None:
        seen.append(frames)
        outbox.remove_first(b"a")
    assert seen == [(b"0",), (b"1",), (b"2",), (b"3",), (b"4",)]
    assert b"a" not in outbox
    assert outbox.clients() == [b"b"]


class Way:
    """Of a message that the library has."""

    def __init__(self) -> None:
        self.done = False


def fill(outbox: Outbox, client: bytes, size: int = 1_000) -> int:
    """Until it is full; how many bytes that took."""
    taken = 0
    while not outbox.is_full(client):
        assert outbox.keep(client, (b"x" * size,))
        taken += size
    return taken


def test_one_client_alone_may_have_half_of_the_pool_and_ten_leave_as_much_as_each_has() -> None:
    outbox = Outbox(100_000)
    assert 35_000 < fill(outbox, b"a") <= 50_000
    outbox = Outbox(100_000)
    clients = [b"%d" % number for number in range(10)]
    while not all(outbox.is_full(client) for client in clients):
        for client in clients:
            if not outbox.is_full(client):
                outbox.keep(client, (b"x" * 1_000,))
    assert 6_000 < outbox.share_bytes < 12_000
    assert not outbox.is_full(b"polite")
    assert outbox.keep(b"polite", (b"x",))


def test_errors_in_place_of_replies_find_room_above_the_bound_and_then_are_dropped() -> None:
    outbox = Outbox(100_000)
    fill(outbox, b"a")
    kept = 0
    while outbox.keep(b"a", (b"x" * 1_000,), errors=True):
        kept += 1_000
        assert kept < ERRORS_BYTES_MAX
    assert kept > ERRORS_BYTES_MAX * 0.8
    assert outbox.keep(b"b", (b"x",), errors=True)


def test_what_the_library_has_counts_until_it_is_through_with_it() -> None:
    outbox, ways = Outbox(100_000), [Way() for _ in range(4)]
    for way in ways:
        outbox.sent(b"a", 10_000, way)
    ways[1].done = True
    assert not outbox.settle()
    assert outbox.total == 40_000, "they leave in order"
    ways[0].done = True
    assert outbox.settle((b"a",))
    assert outbox.total == 20_000
    for way in ways:
        way.done = True
    assert outbox.settle()
    assert not outbox
    outbox.check_invariants()


def test_a_client_with_a_quarter_of_its_share_is_crowded_until_it_has_taken_half_of_that() -> None:
    roomy: list[bytes] = []
    outbox, ways = Outbox(100_000, roomy.append), [Way() for _ in range(3)]
    for way in ways:
        assert not outbox.crowded
        outbox.sent(b"a", 8_000, way)
    assert outbox.crowded == {b"a"}
    ways[0].done = True
    outbox.settle()
    assert outbox.crowded == {b"a"}
    ways[1].done = True
    outbox.settle()
    assert outbox.crowded == set()
    assert roomy == [b"a"]


def test_a_process_of_the_service_is_crowded_by_what_the_library_takes_at_once() -> None:
    outbox = Outbox()
    own = own_identity("") + b"router-1"
    for client in (own, b"a"):
        outbox.sent(client, SEND_AHEAD_BYTES, Way())
        assert not outbox.crowded
    for client in (own, b"a"):
        outbox.sent(client, 1, Way())
    assert outbox.crowded == {own}


def test_what_was_made_in_a_turn_counts_until_it_is_sent() -> None:
    outbox = Outbox(100_000)
    outbox.made(b"a", 40_000)
    assert outbox.crowded == {b"a"}
    outbox.encoded()
    assert not outbox.crowded
    assert outbox.total == 0


def test_the_library_gets_a_bounded_amount_for_one_client_at_once() -> None:
    outbox, way = Outbox(), Way()
    outbox.sent(b"a", SEND_AHEAD_BYTES - 1, Way())
    assert not outbox.must_wait(b"a")
    outbox.sent(b"a", 1, way)
    assert outbox.must_wait(b"a")
    assert not outbox.must_wait(b"b")


@given(st.lists(st.tuples(st.sampled_from(["keep", "remove"]), st.sampled_from([b"a", b"b", b"c"])), max_size=60))
def test_it_equals_a_plain_dict_of_lists(steps: list[tuple[str, bytes]]) -> None:
    outbox = Outbox()
    model: dict[bytes, list[bytes]] = {}
    for number, (step, client) in enumerate(steps):
        if step == "keep":
            outbox.keep(client, (b"%d" % number,))
            model.setdefault(client, []).append(b"%d" % number)
        elif step == "remove" and client in model:
            outbox.remove_first(client)
            model[client].pop(0)
            if not model[client]:
                del model[client]
        outbox.check_invariants()
        assert outbox.clients() == list(model)
        for other in (b"a", b"b", b"c"):
            assert outbox.first(other) == ((model[other][0],) if other in model else None)
