"""Valid things made wrong, by a seed: bytes, values, lists of frames. The same seed makes the same wrong things."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

STRANGE_BYTES = (0, 1, 0x7F, 0x80, 0x90, 0xC0, 0xC1, 0xC4, 0xD9, 0xDC, 0xDD, 0xDF, 0xFF, 0x5B, 0x7B, 0x22, 0x0A)
"""Edges of MessagePack and of JSON."""
BYTES_MAX = 1 << 16
"""What a mutation makes longer stays below this, so that the rate is that of messages and not of memory."""


class Mutator:
    def __init__(self, chance: Random) -> None:
        self.chance = chance

    # Bytes

    def wrong_bytes(self, data: bytes, other: bytes = b"") -> bytes:
        """With one to four changes; `other` is what is spliced in."""
        for _ in range(self.chance.choice((1, 1, 1, 2, 3, 4))):
            data = self._changed(data, other)
        return data[:BYTES_MAX]

    def _changed(self, data: bytes, other: bytes) -> bytes:
        chance = self.chance
        if not data:
            return chance.randbytes(chance.randrange(1, 9))
        at = chance.randrange(len(data))
        match chance.randrange(9):
            case 0:
                return data[:at] + bytes((data[at] ^ (1 << chance.randrange(8)),)) + data[at + 1 :]
            case 1:
                return data[:at] + bytes((chance.choice(STRANGE_BYTES),)) + data[at + 1 :]
            case 2:
                return data[:at]
            case 3:
                return data[:at] + data[at + chance.randrange(1, 9) :]
            case 4:
                return data[:at] + chance.randbytes(chance.randrange(1, 9)) + data[at:]
            case 5:
                end = at + chance.randrange(1, 64)
                return data[:end] + data[at:end] * chance.randrange(1, 5) + data[end:]
            case 6:
                return data[:at] + other[chance.randrange(len(other) + 1) :]
            case 7:
                return data[:at] + bytes(chance.randrange(1, 64)) + data[at:]
            case _:
                return bytes((chance.choice(STRANGE_BYTES),)) * chance.randrange(1, 200) + data[at:]

    # Values

    def wrong_value(self, value: Any, depth: int = 0) -> Any:
        """One of its parts, or all of it, is something else."""
        chance = self.chance
        if depth > 6 or not isinstance(value, list | dict) or not value or chance.random() < 0.25:
            return self.strange_value()
        if isinstance(value, dict):
            key = chance.choice(list(value))
            changed = {**value, key: self.wrong_value(value[key], depth + 1)}
            if chance.random() < 0.3:
                changed[self.strange_key()] = self.strange_value()
            if chance.random() < 0.2:
                del changed[key]
            return changed
        at = chance.randrange(len(value))
        match chance.randrange(5):
            case 0:
                return [*value[:at], *value[at + 1 :]]
            case 1:
                return [*value[:at], self.strange_value(), *value[at:]]
            case 2:
                return [*value, *value[at:]]
            case _:
                return [*value[:at], self.wrong_value(value[at], depth + 1), *value[at + 1 :]]

    def strange_key(self) -> Any:
        return self.chance.choice(("", "key", "deadline_ms", "answered", "chain", "x" * 300, "ü", "\0"))

    def strange_value(self) -> Any:
        chance = self.chance
        match chance.randrange(12):
            case 0:
                return chance.choice((0, -1, 1, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, 255, 256))
            case 1:
                return chance.choice((0.0, -0.0, float("inf"), float("nan"), 1e308))
            case 2:
                return chance.choice(("", "x", "\0", "ü" * 40, "x" * 1_100, "{a}", "{}", "../../x", "on_start", "__init__"))
            case 3:
                return chance.randbytes(chance.randrange(40))
            case 4:
                return chance.choice((None, True, False, [], {}, [[]], {"a": {}}))
            case 5:
                return msgspec.Raw(b"\x91" * chance.choice((3, 70, 600, 3_000)) + b"\xc0")  # Lists in lists; in JSON: garbage.
            case 6:
                return msgspec.msgpack.Ext(chance.randrange(-1, 100), chance.randbytes(chance.choice((0, 1, 4, 8, 12, 17))))
            case 7:
                return datetime.datetime.fromtimestamp(chance.randrange(2**31), datetime.UTC)
            case 8:
                return [chance.randrange(100)] * chance.randrange(300)
            case 9:
                return {str(number): number for number in range(chance.randrange(60))}
            case _:
                return chance.choice(("echo", "add", "Echo", "drop_alarm", "unknown_calls", "topology", 7))

    # Frames

    def wrong_frames(self, frames: Sequence[bytes], others: Sequence[bytes]) -> list[bytes]:
        chance, changed = self.chance, list(frames)
        at = chance.randrange(len(changed))
        match chance.randrange(8):
            case 0:
                changed.insert(at, b"")
            case 1:
                changed.insert(at, chance.randbytes(chance.randrange(1, 9)))
            case 2:
                changed.append(chance.choice(others))
            case 3:
                changed[at : at + 1] = [b"\0" + chance.randbytes(4), b"", changed[at]]
            case _:
                changed[at] = self.wrong_bytes(changed[at], chance.choice(others))
        return changed
