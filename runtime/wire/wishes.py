"""What an operator wishes of objects: said to the supervisor, carried out by the workers that own them.

A wish is an object with its kind under `type`; values are as they are stored, in it and in what is told of it (see
`plain_json`); those to compare with and arguments are JSON. Most are about one object. `EDITS` change something and are written
to the audit log.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

LISTED_OBJECTS = 100
LISTED_OBJECTS_MAX = 10_000
LISTED_ERRORS = 20
SHOWN_ROWS = 100
SHOWN_ROWS_MAX = 500
"""Some milliseconds of a worker."""
SHOWN_BYTES_MAX = 256 << 10
"""Of a page: it ends where its values take so much, after one at least."""
MANY_OBJECTS_MAX = 250
"""That are wished for at once."""
MANY_BYTES_MAX = 512 << 10
"""Of keys and values of all of them: no further object is begun beyond."""
SHOWN_VALUE_BYTES_MAX = 16 << 10
"""A larger value is not in a page; `get` has it whole."""


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """What must be so, at the instant of the edit, for it to be made. Nothing is asked for where all are as here."""

    value: Any | UnsetType = UNSET
    """The key has this value."""
    digest: str = ""
    """The value of the key has this digest; of a whole object, the object."""
    missing: bool = False
    """There is no such key; of a whole object, no such object."""


NO_CONDITION = Condition()


class Get(msgspec.Struct, frozen=True, tag="get"):
    """One value."""

    key: str


class Show(msgspec.Struct, frozen=True, tag="show"):
    """A page of keys, in byte order."""

    prefix: str = ""
    after: str = ""
    """The last key of the page before."""
    limit: int = SHOWN_ROWS
    whole: bool = False
    """Values of any size are in it. One of several pages says `unchanged_since`: those that say the same are of one instant. It
    is null where the object had something that was not durable."""


class Put(msgspec.Struct, frozen=True, tag="put"):
    key: str
    packed: bytes
    condition: Condition = NO_CONDITION
    create: bool = False
    """Where there is no such object, make it."""


class Delete(msgspec.Struct, frozen=True, tag="delete"):
    key: str = ""
    """Empty: the whole object, with its alarm."""
    condition: Condition = NO_CONDITION


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Many keys at once, all or none of them."""

    rows: list[tuple[str, bytes]]
    goes_on: bool = False
    """With an object that is there: it is not the first part of it."""
    replace: bool = False
    """Whatever the object has is deleted with it. Else there must be no such object."""
    alarm_ms: int | None = None
    """When its alarm is due, in Unix time."""


class ReadMany(msgspec.Struct, frozen=True, tag="read_many"):
    """All keys of many objects, each by itself as by `Show`. To the workers that own them. What came of it are `pages`, in the
    order of `objects`: of each its page, or an `error`; null where others had MANY_BYTES_MAX before: ask again. A page that would
    have more than SHOWN_BYTES_MAX has no row, and more follow: ask for that object by itself."""

    objects: list[str]
    """`Class/name`."""

    def names(self) -> list[str]:
        return self.objects

    def only(self, at: list[int]) -> ReadMany:
        return ReadMany([self.objects[each] for each in at])


class LoadOne(msgspec.Struct, frozen=True):
    """Of `LoadMany`: as `Load` has it."""

    object: str
    rows: list[tuple[str, bytes]]
    alarm_ms: int | None = None


class LoadMany(msgspec.Struct, frozen=True, tag="load_many"):
    """Many objects, each by itself as by `Load`. To the workers that own them. What came of it are `pages`, as of `ReadMany`: of
    each how many rows it has got, or an `error`."""

    objects: list[LoadOne]
    replace: bool = False

    def names(self) -> list[str]:
        return [each.object for each in self.objects]

    def only(self, at: list[int]) -> LoadMany:
        return LoadMany([self.objects[each] for each in at], self.replace)


class TurnAlarm(msgspec.Struct, frozen=True, tag="alarm"):
    """Its alarm rings now, or never: the one that is scheduled, unless `abandoned_at` is given."""

    do: Literal["run", "drop"]
    due_ms: int | None = None
    """Only if it is the one that is due then, in Unix time. None: whichever it is."""
    abandoned_at: str = ""
    """The one that was given up then, as is told of it."""


class CallMethod(msgspec.Struct, frozen=True, tag="call"):
    method: str
    arguments: list[Any] | dict[str, Any] = []


class Evict(msgspec.Struct, frozen=True, tag="evict"):
    """It leaves memory, unless something of it is at work."""


class Inspect(msgspec.Struct, frozen=True, tag="inspect"):
    """What is known of it at this instant; its gate is no obstacle."""


class ListNames(msgspec.Struct, frozen=True, tag="names"):
    """A page of objects, in the order of `ids.name_row`. To all workers: each answers with its own."""

    class_name: str = ""
    """Empty: all."""
    prefix: str = ""
    """Of the name; where no class is given, of `Class/name`."""
    after: tuple[str, str] | None = None
    """Class and name of the last one of the page before."""
    limit: int = LISTED_OBJECTS
    sizes: bool = False
    """With the number of keys, and the bytes of keys and values, of each."""
    orphans: bool = False
    """Only those whose class the app does not have."""


class ListClasses(msgspec.Struct, frozen=True, tag="classes"):
    """How many objects there are of each class. To all workers."""


class Weigh(msgspec.Struct, frozen=True, tag="weigh"):
    """The largest of those objects that a worker has in its data files, which are gone through part by part. To all workers."""

    class_name: str = ""
    prefix: str = ""
    """Of the name; where no class is given, of `Class/name`."""
    count: int = 10
    after: dict[str, str] = {}
    """By worker, what it has told as `next`. A worker that is not in it begins, unless it is not empty: then it has ended."""


class ListAlarms(msgspec.Struct, frozen=True, tag="alarms"):
    """Alarms that are scheduled, those due first; and those that were abandoned. To all workers."""

    class_name: str = ""
    from_ms: int = 0
    """Only those that are due then or later, in Unix time."""
    limit: int = LISTED_OBJECTS


class ListErrors(msgspec.Struct, frozen=True, tag="errors"):
    """What went wrong lately with any object, and which calls were slow, the newest first. To all workers."""

    limit: int = LISTED_ERRORS


ObjectWish = Get | Show | Put | Delete | Load | TurnAlarm | CallMethod | Evict | Inspect
OF_ALL_WORKERS = ListNames | ListClasses | ListAlarms | ListErrors | Weigh
OF_MANY = ReadMany | LoadMany
Wish = ObjectWish | ListNames | ListClasses | ListAlarms | ListErrors | Weigh | ReadMany | LoadMany
EDITS = Put | Delete | Load | LoadMany | TurnAlarm | CallMethod | Evict
"""Those of the audit log."""


def digest_of(raw: bytes) -> str:
    """Of a value, of its bytes as they are stored: 16 hexadecimal digits."""
    return hashlib.blake2b(raw, digest_size=8).hexdigest()
