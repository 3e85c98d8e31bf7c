"""Outbox: order and bounds of what waits for clients that do not read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.runtime.sockets.outbox import Outbox


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


def test_a_client_beyond_its_bound_is_full_and_later_nothing_is_kept_for_it() -> None:
    outbox = Outbox(client_bytes_max=1_000)
    while not outbox.is_full(b"a"):
        assert outbox.keep(b"a", (b"x" * 100,))
    assert outbox.total < 1_500
    kept = 0
    while outbox.keep(b"a", ()):
        kept += 1
        assert kept < 1_000_000
    assert not outbox.is_full(b"b")
    assert outbox.keep(b"b", (b"x",))


def test_all_clients_together_have_a_bound_too() -> None:
    outbox = Outbox(client_bytes_max=10_000, bytes_max=3_000)
    for number in range(30):
        outbox.keep(b"%d" % number, (b"x" * 200,))
    assert all(outbox.is_full(client) for client in outbox.clients())


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
