"""What a run was answered and has left stored, compared with its twin.

Rule 1: pure. Both are trees of dicts, lists and plain values; a difference is named by its path.
Rule 2: what two runs differ in to which nothing happened (the time, numbers of chance) is *noise* and compared in no run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

Path = tuple[Any, ...]
_RANDOM = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}|(?<= at )0x[0-9a-f]+")
"""A UUID, however it is written; and where something was in memory: `<Future at 0x7f4367b000d0 state=finished>`."""
MISSING = "nothing"


class Difference(NamedTuple):
    path: Path
    twin: Any
    found: Any


class Noise(NamedTuple):
    paths: frozenset[Path] = frozenset()
    steady: Mapping[Path, frozenset[Any]] = {}
    """Of dicts of which keys differ: those that do not. Of the others the number has to be the same."""

    @classmethod
    def of(cls, twin: Any, others: Iterable[Any]) -> Noise:
        paths, steady = set[Path](), dict[Path, frozenset[Any]]()

        def look(first: Any, second: Any, path: Path) -> None:
            if isinstance(first, dict) and isinstance(second, dict):
                if first.keys() != second.keys():
                    if len(first) != len(second):
                        paths.add(path)
                    steady[path] = steady.get(path, frozenset(first)) & second.keys()
                for key in first.keys() & second.keys():
                    look(first[key], second[key], (*path, key))
            elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
                for at, (each, twin) in enumerate(zip(first, second, strict=True)):
                    look(each, twin, (*path, at))
            elif not _same(first, second):
                paths.add(path)

        for other in others:
            look(twin, other, ())
        return cls(frozenset(paths), steady)


def plain(value: Any) -> Any:
    """Of what a run has given: a tree in which numbers of chance are gone."""
    if isinstance(value, dict):
        found: dict[Any, Any] = {}
        for key, each in value.items():
            name = _unnumbered(key)
            found[name if name not in found else f"{name} {len(found)}"] = plain(each)
        return found
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return _unnumbered(value)


def _unnumbered(value: Any) -> Any:
    return _RANDOM.sub("(a random number)", value) if isinstance(value, str) else value


def differences(twin: Any, found: Any, noise: Noise, path: Path = ()) -> Iterator[Difference]:
    if path in noise.paths:
        return
    if isinstance(twin, dict) and isinstance(found, dict):
        if path in noise.steady:
            if len(twin) != len(found):
                yield Difference(path, f"{len(twin)} entries", f"{len(found)} entries")
            every = [key for key in twin if key in noise.steady[path]]
        else:
            every = [*twin, *(key for key in found if key not in twin)]
        for key in every:
            yield from differences(twin.get(key, MISSING), found.get(key, MISSING), noise, (*path, key))
    elif isinstance(twin, list) and isinstance(found, list) and len(twin) == len(found):
        for at, (each, other) in enumerate(zip(twin, found, strict=True)):
            yield from differences(each, other, noise, (*path, at))
    elif not _same(twin, found):
        yield Difference(path, twin, found)


def _same(one: Any, other: Any) -> bool:
    """True is not 1 here."""
    return bool(type(one) is type(other) and one == other)
