"""Which depot a text names: a folder."""

from __future__ import annotations

from pathlib import Path

from tidegate.runtime.errors import OperatorError
from tidegate.shard.backup.depot import Depot, FolderDepot


def open_depot(text: str) -> Depot:
    """Raises OperatorError."""
    if "://" in text:
        raise OperatorError("use backups in", text, "this kind of place is not known", "name a folder")
    return FolderDepot(Path(text).absolute())
