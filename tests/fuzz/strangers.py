"""What strangers send to the objects of `echo`: right messages, and what a mutator makes of them."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from tests.fuzz.mutation import Mutator

pack, pack_json = msgspec.msgpack.encode, msgspec.json.encode
WRONG_VALUES_SHARE = 0.4
JSON_SHARE = 0.2

REQUESTS: list[list[Any]] = [
    [1, "Echo", "a", "echo", [7]],
    ["id", "Echo", "{a}b", "echo", {"value": {"k": [1, b"x"]}}, {"deadline_ms": 60_000}],
    [2, "Echo", "b", "add", [1], {"key": "order-17"}],
    [3, "Echo", "b", "add", [1], {"key": "session.3", "answered": 2, "deadline_ms": 5_000}],
    [4, "Echo", "c", "point", [{"x": 1, "y": 0.5}, {"x": 2}]],
    [5, "Echo", "d", "echo", None, {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}],
    [6, "Echo", "d", "echo", [1], {"chain": [["Echo/a", [1, 2]], ["Echo/b", []]]}],
    [7, "", "", "ping"],
    [8, "", "", "topology"],
    [9, "", "Echo/a", "drop_alarm", ["x"]],
    [10, "", "", "unknown_calls", [1, 2, 3]],
]
BODIES = [pack(request) for request in REQUESTS] + [pack(REQUESTS), pack(REQUESTS[:2] * 10)]
BODIES += [pack_json(request) for request in REQUESTS[:1] + REQUESTS[2:5]] + [pack_json(REQUESTS[2:5])]
FRAMES = [[body] for body in BODIES] + [[b"\0\1\2\3\4", b"", body] for body in BODIES[:4]] + [[b"", *BODIES[:3]]]


def wrong_message(chance: Random, mutator: Mutator) -> list[bytes]:
    """Its frames. Of some the values are wrong, of the others the bytes."""
    if chance.random() >= WRONG_VALUES_SHARE:
        return mutator.wrong_frames(chance.choice(FRAMES), BODIES)
    wrong = mutator.wrong_value(chance.choice((*REQUESTS, REQUESTS)))
    if chance.random() < JSON_SHARE:
        try:
            return [pack_json(wrong)]
        except (TypeError, ValueError, OverflowError, RecursionError):  # JSON has no place for it.
            pass
    return [pack(wrong)]
