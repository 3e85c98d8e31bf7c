"""Whether the states of a data directory were written with as many shards as it is said to have.

Guarantee: a start with another number of shards than the data was written with is refused, whoever has changed `tidegate.json`:
calls would go to where their object is not, and find it empty.

A shard has one range of slots, and objects are kept in the order of their slots: the first and the last say it of all.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import shard_of_key
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.names import OWN_FIRST
from tidegate.shard.store.state.data_file import DATA_FILE
from tidegate.shard.store.state.pages import PageFile
from tidegate.shard.store.store import ShardState

_HINT = (
    "put the tidegate.json of this data back, or restore a backup; `tidegate reshard` changes the number; what is left in "
    "shards/ of something else is to be moved away"
)
OWN_ROWS = 3
"""That a state has which never had an object: which shard it is, its log, its index of names."""


def check_belonging(data_dir: Path, states: Iterable[ShardState], shards_total: int) -> None:
    """Raises OperatorError. A state that cannot be read is for whoever reads it to tell of."""
    for shard in shards_beyond(data_dir, shards_total):
        raise OperatorError("open data directory", data_dir, f"it has a shard {shard}, and is said to have {shards_total}", _HINT)
    for state in states:
        for key in _first_and_last(state):
            if (other := shard_of_key(key, shards_total)) != state.shard:
                problem = f"shard {state.shard} has an object that belongs to shard {other}, if there are {shards_total} shards"
                raise OperatorError("open data directory", data_dir, problem, _HINT)


def shards_beyond(data_dir: Path, shards_total: int) -> list[int]:
    """Those with objects that there could not be; nobody would serve them."""
    try:
        folders = [folder for folder in (data_dir / "shards").iterdir() if folder.name.isdecimal()]
    except (FileNotFoundError, NotADirectoryError):
        return []  # Each shard is missing: whoever reads them says so.
    return sorted(int(each.name) for each in folders if int(each.name) >= shards_total and _has_objects(each / DATA_FILE))


def _first_and_last(state: ShardState) -> list[bytes]:
    found: list[bytes] = []
    for reverse in (False, True):
        try:
            with closing(state.scan(b"", OWN_FIRST, reverse)) as rows:
                found.extend(key for key, _ in [next(rows, (b"", b""))] if key)
        except ShardDamaged:
            break
    return found


def _has_objects(file: Path) -> bool:
    try:
        with PageFile(file) as pages:
            meta = pages.newest_meta()
            return meta is not None and meta.main.entries > OWN_ROWS
    except (OSError, ValueError):
        return False
