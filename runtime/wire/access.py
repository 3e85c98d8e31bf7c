"""Access keys: by which clients are known, and what each of them may do.

Rule 1: pure. Where keys are kept is the supervisor's business, how a client shows one is that of the sockets.
Rule 2: what no right allows is refused, before anything of it runs.

An access key is a pair of CURVE keys: its *public* half is on the service's list, its *secret* half is with the client alone.
Both are written in Z85, 40 characters. It has nothing to do with the key of a call, by which a repeated call is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec

from tidegate.runtime.wire.protocol import OBJECT_CALLS

Z85_LENGTH = 40
ACCESS_KEYS_MAX = 10_000
_Z85 = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")
_VERDICTS_MAX = 10_000
"""Pairs of class and method of which is remembered what was decided."""
_REMEMBERED_CHARACTERS_MAX = 256
"""Of class and method together: names are as long as a client makes them."""
EVERYBODY = frozenset({"ping", "topology"})
"""System calls that any key may make. `classes` is for those that may call every class; `status` for admins."""


def is_z85(text: str) -> bool:
    return len(text) == Z85_LENGTH and _Z85.issuperset(text)


class Rights(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a key may do. Without a word: call every method of every class."""

    classes: tuple[str, ...] | None = None
    """None: all."""
    methods: tuple[str, ...] | None = None
    """`method` or `Class.method`. None: all."""
    read_only: bool = False
    """Methods marked `@readonly` only."""
    admin: bool = False
    """The status of the service too, which names objects, processes and paths."""

    def words(self) -> str:
        """For people."""
        classes = "all classes" if self.classes is None else ", ".join(self.classes)
        methods = "" if self.methods is None else f", only {', '.join(self.methods)}"
        return f"{classes}{methods}{', read-only' if self.read_only else ''}{', admin' if self.admin else ''}"


Time = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
"""What people can be told: Unix time, up to the year 5138."""


class AccessKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of the service's list."""

    name: str
    public: str
    rights: Rights = Rights()
    made_s: Time = 0.0
    until_s: Time | None = None
    """From this time on it is worth nothing; in the past for one that is revoked. Unix time."""

    def is_valid(self, now_s: float) -> bool:
        return self.until_s is None or now_s < self.until_s


class ClientKey(msgspec.Struct, frozen=True):
    """What a client has: the service's public half, and both of its own."""

    server: str
    public: str
    secret: str

    def __repr__(self) -> str:
        return f"ClientKey({self.public})"


ReadOnlyMethods = frozenset[tuple[str, str]]
"""Class and method of those that are marked."""


def read_only_methods(described: Mapping[str, Any]) -> ReadOnlyMethods:
    """Of the answer to the system call `classes`."""
    return frozenset(
        (cls, method)
        for cls, described_class in described.items()
        for method, described_method in described_class.get("methods", {}).items()
        if described_method.get("read_only")
    )


class Holder:
    """One key and what was decided of it so far."""

    __slots__ = ("_methods", "_of_class", "_verdicts", "key", "read_only_methods")

    def __init__(self, key: AccessKey, read_only: ReadOnlyMethods | None) -> None:
        """`read_only`: None while nobody knows which methods are marked."""
        self.key = key
        self.read_only_methods = read_only
        methods = key.rights.methods
        self._methods = None if methods is None else frozenset(each for each in methods if "." not in each)
        self._of_class = frozenset(methods or ())
        self._verdicts: dict[tuple[str, str], str] = {}

    def problem(self, cls: str, method: str) -> str:
        """Why it may not make this call; empty: it may."""
        asked = cls, method
        verdict = self._verdicts.get(asked)
        if verdict is None:
            verdict = self._decide(cls, method)
            if len(cls) + len(method) > _REMEMBERED_CHARACTERS_MAX:
                return verdict
            if len(self._verdicts) >= _VERDICTS_MAX:
                self._verdicts.clear()
            self._verdicts[asked] = verdict
        return verdict

    def _decide(self, cls: str, method: str) -> str:
        rights = self.key.rights
        who = f"the access key {self.key.name!r}"
        if not cls:
            return self._decide_system(method, who)
        if rights.classes is not None and cls not in rights.classes:
            return f"{who} may not call {cls[:64]}"
        if self._methods is not None and method not in self._methods and f"{cls}.{method}" not in self._of_class:
            return f"{who} may not call {cls[:64]}.{method[:64]}"
        if rights.read_only and (cls, method) not in (self.read_only_methods or ()):
            return f"{who} is read-only, and {cls[:64]}.{method[:64]} is not marked @readonly"
        return ""

    def _decide_system(self, method: str, who: str) -> str:
        rights = self.key.rights
        if method in OBJECT_CALLS:
            return ""  # Refused for everybody who is not on the machine.
        if method in EVERYBODY or rights.admin or (method == "classes" and rights.classes is None and rights.methods is None):
            return ""
        return f"{who} may not ask for {method[:64]}"


def duplicates(keys: Iterable[AccessKey]) -> list[str]:
    """Public halves that stand on a list more than once."""
    seen: set[str] = set()
    return [key.public for key in keys if key.public in seen or seen.add(key.public)]  # type: ignore[func-returns-value]  # adds
