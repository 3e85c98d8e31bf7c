"""The part of root's process in a command that puts another directory in the place of DATA: in the folder above it."""

from __future__ import annotations

from pathlib import Path

from tidegate.runtime.cli.as_owner import DataOwner, may_change
from tidegate.runtime.data.folder_above import FolderAbove


def above_of_root(owner: DataOwner, data: Path) -> dict[str, FolderAbove]:
    """None where the owner of the data may change names there himself, as where a file system is mounted, and none where he says
    what the path leads to, which then is another at any moment: through a link, or by what is his on the way."""
    above = FolderAbove(data, (owner.uid, owner.gid))
    is_his = data.is_symlink() or may_change(owner, data.absolute().parent) or may_change(owner, above.folder)
    return {} if is_his else {"above": above}
