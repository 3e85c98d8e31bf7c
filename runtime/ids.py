"""Names of objects and where they live: object -> slot -> shard.

The mapping object -> slot is part of wire protocol 1 and of the data format; it never changes.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

from tidegate.runtime.limits import CLASS_BYTES_MAX, NAME_BYTES_MAX, SLOTS

SLOT_MASK = SLOTS - 1
OBJECT_KEY_BYTES = 16
SLOT_KEY_BYTES = 2
"""Of them: the slot."""
DIGEST_BYTES = OBJECT_KEY_BYTES - SLOT_KEY_BYTES


class ObjectId(NamedTuple):
    """The identity of an object: the name of its class (256 bytes of UTF-8 at most, no slash) and its own (1 to 1,024 bytes).
    `str(id)` is `Class/name`."""

    class_name: str
    name: str

    def __str__(self) -> str:
        return f"{self.class_name}/{self.name}"


def object_id(class_name: str, name: str) -> ObjectId:
    """What `ObjectId` does in Python code, for very many of them."""
    return tuple.__new__(ObjectId, (class_name, name))


def tag_of(class_name: str, name: str) -> str:
    """The text that decides placement: what stands between the first `{` and the next `}` of the name, if anything
    does, so that objects can be kept together; else class and name."""
    start = name.find("{")
    if start >= 0:
        end = name.find("}", start + 1)
        if end > start + 1:
            return name[start + 1 : end]
    return f"{class_name}/{name}"


def slot_of(class_name: str, name: str) -> int:
    """Contract, section 9: `crc32(utf8(tag)) & 16383`. Raises UnicodeEncodeError for lone surrogates."""
    if "{" in name:
        return crc32(tag_of(class_name, name).encode()) & SLOT_MASK
    return crc32(f"{class_name}/{name}".encode()) & SLOT_MASK


def shard_of_slot(slot: int, shards: int) -> int:
    """Slots are dealt to shards in equal, contiguous ranges; `shards` is a power of two (see `SlotTable`)."""
    return slot * shards // SLOTS


def shard_of_key(key: bytes, shards: int) -> int:
    """Of the object whose `object_key` it is."""
    return shard_of_slot(int.from_bytes(key[:SLOT_KEY_BYTES], "big"), shards)


def object_key(class_name: str, name: str) -> bytes:
    """16 bytes that stand for the object in the store: its slot (big-endian, so that a slot is one key range) and 112
    bits of BLAKE2b of `Class/name`. Two objects share one with probability n²/2¹¹³."""
    return key_and_slot(class_name, name)[0]


def key_and_slot(class_name: str, name: str) -> tuple[bytes, int]:
    """Both, for little more than the price of one."""
    identity = f"{class_name}/{name}".encode()
    slot = slot_of(class_name, name) if "{" in name else crc32(identity) & SLOT_MASK
    digest = blake2b(identity, digest_size=DIGEST_BYTES).digest()
    return slot.to_bytes(SLOT_KEY_BYTES, "big") + digest, slot


NAME_ROW_BYTES_MAX = 480
WHOLE_NAME_BYTES_MAX = NAME_ROW_BYTES_MAX - 2 * OBJECT_KEY_BYTES
"""Of a row that is not cut. One that is has more, so that nobody can give an object a name that is the row of another."""


def name_row(class_name: str, name: str) -> str:
    """Where an object stands in the index of names, which is in the order of these texts, by code point: `Class/name`; of a long
    one as much of it as leaves room for the object key, which follows, so that it is as short as keys are."""
    row = f"{class_name}/{name}"
    start = name_row_start(row)
    return row if start == row else start + object_key(class_name, name).hex()


def name_row_start(text: str) -> str:
    """What the rows of all objects begin with whose `Class/name` begins with this text: as much of it as fits into one that is
    cut."""
    if len(text) * 4 <= WHOLE_NAME_BYTES_MAX:
        return text
    encoded = text.encode()
    return text if len(encoded) <= WHOLE_NAME_BYTES_MAX else encoded[:WHOLE_NAME_BYTES_MAX].decode(errors="ignore")


def check_object_id(class_name: object, name: object) -> str | None:
    """Why this cannot name an object, or None. Class names contain no slash, so that `Class/name` is unambiguous."""
    if not isinstance(class_name, str) or not isinstance(name, str):
        return "class and name must be strings"
    try:
        class_bytes, name_bytes = len(class_name.encode()), len(name.encode())
    except UnicodeEncodeError:
        return "class and name must be valid Unicode"
    if not 1 <= class_bytes <= CLASS_BYTES_MAX or "/" in class_name:
        return f"the class name must have 1 to {CLASS_BYTES_MAX} bytes of UTF-8 and no slash"
    if not 1 <= name_bytes <= NAME_BYTES_MAX:
        return f"the name must have 1 to {NAME_BYTES_MAX} bytes of UTF-8"
    return None
