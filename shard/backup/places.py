"""Which depot a text names: a folder, or a store."""

from __future__ import annotations

from pathlib import Path

from tidegate.runtime.errors import OperatorError
from tidegate.shard.backup.depot import Depot, FolderDepot
from tidegate.shard.backup.stores import is_store, open_store


def place_of(text: str) -> str:
    """As it is known wherever the command is typed: what `Depot.place` is."""
    return text.rstrip("/") if "://" in text else str(Path(text).absolute())


def open_depot(text: str) -> Depot:
    """Raises OperatorError."""
    if is_store(text):
        return open_store(text)
    if "://" in text:
        raise OperatorError("use backups in", text, "this kind of place is not known", "name a folder, or s3://BUCKET/PREFIX")
    return FolderDepot(Path(place_of(text)))
