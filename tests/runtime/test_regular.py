"""runtime/regular.py: files that another user may have put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidegate.runtime.regular import read_regular


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    assert read_regular(tmp_path / "file", 4) == b"1234"
    with pytest.raises(OSError, match="more than 3 bytes"):
        read_regular(tmp_path / "file", 3)


def test_what_is_no_file_is_neither_followed_nor_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name, problem in (("link", "symbolic links"), ("pipe", "no regular file"), (".", "no regular file")):
        with pytest.raises(OSError, match=problem):
            read_regular(tmp_path / name, 4)
