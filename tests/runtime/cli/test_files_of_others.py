"""What root's own process reads of the user whose data directory it is: his files, and what a child says that is he."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.waiting import WITHIN_S
from tidegate.runtime import shipping
from tidegate.runtime.cli import roots_part
from tidegate.runtime.cli.roots_part import serve
from tidegate.runtime.data import access_file, audit_history, backup_notes
from tidegate.runtime.data.access_file import read_access
from tidegate.runtime.data.audit import AUDIT_NAME
from tidegate.runtime.data.audit_history import edits_of
from tidegate.runtime.data.backup_notes import read_notes
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.shipping import GIVEN_UP, why_given_up
from tidegate.shard.backup import backup, depot
from tidegate.shard.backup.backup import kept_lineages
from tidegate.shard.backup.depot import FolderDepot

Read = Callable[[Path], object]
READS: dict[str, tuple[str, Read]] = {
    "how backups went": (backup_notes.NAME, read_notes),
    "why the log was given up": (GIVEN_UP, why_given_up),
    "what the log is kept for": ("shipping/one.json", kept_lineages),
    "edits": (AUDIT_NAME, lambda data: edits_of(data, "Shop/a")),
    "a piece of a backup": ("lineage/piece", lambda data: FolderDepot(data).get("lineage/piece")),
}
"""By what is read: the file, and who reads it."""
BOUNDS: dict[str, tuple[object, str]] = {
    "how backups went": (backup_notes, "BYTES_MAX"),
    "why the log was given up": (shipping, "_WHY_BYTES_MAX"),
    "what the log is kept for": (backup, "NOTE_BYTES_MAX"),
    "a piece of a backup": (depot, "BYTES_MAX"),
}
SECRET = b'{"of": "root"}'


@pytest.mark.parametrize("what", READS)
def test_a_link_is_not_followed_and_a_pipe_not_waited_for(tmp_path: Path, what: str) -> None:
    name, read = READS[what]
    (secret := tmp_path / "secret").write_bytes(SECRET)
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    for put in (lambda: path.symlink_to(secret), lambda: os.mkfifo(path)):
        put()
        with pytest.raises((OSError, OperatorError), match=r"symbolic links|no regular file"):
            read(tmp_path / "data")
        path.unlink()


@pytest.mark.parametrize("what", BOUNDS)
def test_more_than_it_ever_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    name, read = READS[what]
    module, bound = BOUNDS[what]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.truncate(getattr(module, bound) + 1)  # It takes no room, and would take the memory.
    with pytest.raises((OSError, OperatorError), match=r"has more than \d+ bytes"):
        read(tmp_path)


def test_a_line_of_the_audit_log_that_does_not_end_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_history, "LINE_BYTES_MAX", 1_000)
    line = b'{"edit": "1-1", "time": "now", "state": "asked", "what": "put", "object": "Shop/a", "key": "k"}\n'
    (tmp_path / AUDIT_NAME).write_bytes(b"x" * 10_500 + b"\n" + line)
    assert [each.edit for each in edits_of(tmp_path, "Shop/a")] == ["1-1"]


def test_a_list_of_access_keys_is_a_file_of_its_size_at_most(tmp_path: Path) -> None:
    path = tmp_path / "access.json"
    with path.open("wb") as file:
        file.truncate(access_file.BYTES_MAX + (1 << 30))
    with pytest.raises(OperatorError, match="no list of access keys"):
        read_access(path)


# What the child says


class Asked:
    """A part of root's process."""

    asked = ("double",)

    def __init__(self) -> None:
        self.did: list[object] = []

    def double(self, number: int) -> int:
        self.did.append(number)
        return 2 * number

    def secret(self) -> str:
        self.did.append("secret")
        return "of root"

    def close(self) -> None:
        pass


@contextmanager
def served(part: Asked) -> Iterator[socket.socket]:
    """The child's end. In the end root's process has to be done with it."""
    ours, theirs = socket.socketpair()
    serving = threading.Thread(target=lambda: (serve(ours, {"part": part}), ours.close()))
    serving.start()
    with theirs:
        yield theirs
    serving.join(WITHIN_S)
    assert not serving.is_alive()


def said(body: bytes, length: int | None = None) -> bytes:
    return roots_part._LENGTH.pack(len(body) if length is None else length) + body


def request(part: str, method: str, *arguments: Any) -> bytes:
    return said(msgspec.msgpack.encode({"part": part, "method": method, "arguments": list(arguments)}))


def test_what_is_asked_for_is_done() -> None:
    with served(part := Asked()) as child:
        for number in (1, 2):
            child.sendall(request("part", "double", number))
            (length,) = roots_part._LENGTH.unpack(child.recv(8, socket.MSG_WAITALL))
            assert msgspec.msgpack.decode(child.recv(length, socket.MSG_WAITALL))["value"] == 2 * number
    assert part.did == [1, 2]


@pytest.mark.parametrize(
    "says",
    [
        request("part", "secret"),
        request("part", "__init__"),
        request("other", "double", 1),
        said(b"\xc1"),
        said(b"\x91" * 100_000),
        said(b"", roots_part.MESSAGE_BYTES_MAX + 1),
        said(b"", 2**64 - 1),
    ],
    ids=["a method that is no part", "a private one", "another part", "no MessagePack", "deep", "long", "longest"],
)
def test_whatever_else_it_says_is_the_last_that_is_read_of_it(says: bytes) -> None:
    with served(part := Asked()) as child:
        child.settimeout(WITHIN_S)
        child.sendall(says)
        assert child.recv(1) == b"", "the end"
    assert part.did == []
