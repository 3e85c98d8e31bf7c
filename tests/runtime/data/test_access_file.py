"""The list of access keys on the disk."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq

from tidegate.runtime.data.access_file import (
    AccessList,
    change_access,
    end,
    forget,
    is_open_to_others,
    read_access,
    rotate,
    with_key,
)
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.wire.access import AccessKey, Rights


def public() -> str:
    return zmq.curve_keypair()[0].decode()


def names(access: AccessList | None, now_s: float = 0.0) -> list[str]:
    return [] if access is None else [key.name for key in access.valid(now_s)]


def test_the_first_key_makes_the_list_which_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "data" / "access.json"
    assert read_access(path) is None
    made = change_access(path, lambda access: with_key(access, AccessKey("web", public()), 0.0), create=True)
    assert read_access(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["access.json"]
    assert made.secret not in repr(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_writes_belongs_to_whom_the_list_before_did(tmp_path: Path) -> None:
    path = tmp_path / "access.json"
    for name, owner in (("a", 0), ("b", 1234)):
        if path.exists():
            os.chown(path, owner, owner)
        change_access(path, lambda access, name=name: with_key(access, AccessKey(name, public()), 0.0), create=True)  # type: ignore[misc]
        assert (path.stat().st_uid, path.stat().st_gid) == (owner, owner)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no list of access keys"),
        ("{}", "no list of access keys"),
        ('{"format":2,"secret":"%s"}' % ("x" * 40), "another version"),
        ('{"format":1,"secret":"short"}', "no CURVE key"),
        ('{"format":1,"secret":"%s","keys":[{"name":"a","public":"x"}]}' % ("x" * 40), "the public half of 'a'"),
        (
            '{{"format":1,"secret":"{0}","keys":[{{"name":"a","public":"{0}"}},{{"name":"b","public":"{0}"}}]}}'.format("x" * 40),
            "the same public half",
        ),
        ('{{"format":1,"secret":"{0}","keys":[{{"name":"a","public":"{0}","made_s":1e18}}]}}'.format("x" * 40), "made_s"),
        ('{{"format":1,"secret":"{0}","keys":[{{"name":"a","public":"{0}","until_s":-1}}]}}'.format("x" * 40), "until_s"),
    ],
)
def test_what_is_no_list_is_an_error_and_is_not_written_over(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "access.json"
    path.write_text(text)
    with pytest.raises(OperatorError, match=problem):
        read_access(path)
    with pytest.raises(OperatorError, match=problem):
        change_access(path, lambda access: access, create=True)
    assert path.read_text() == text


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "access.json")
    with pytest.raises(OperatorError, match="no regular file"):
        read_access(tmp_path / "access.json")


def test_a_list_that_others_may_read_or_write_is_told(tmp_path: Path) -> None:
    path = tmp_path / "access.json"
    assert is_open_to_others(path) == ""
    change_access(path, lambda access: access, create=True)
    assert is_open_to_others(path) == ""
    for mode, word in ((0o640, "read, with the secret"), (0o604, "read, with the secret"), (0o622, "write: whoever does")):
        path.chmod(mode)
        assert word in is_open_to_others(path)
        assert f"chmod 600 {path}" in is_open_to_others(path)


def test_a_name_is_taken_until_its_key_has_ended(tmp_path: Path) -> None:
    access = with_key(AccessList(1, "x" * 40), AccessKey("web", public()), 0.0)
    with pytest.raises(OperatorError, match="there is a key of this name"):
        with_key(access, AccessKey("web", public()), 1.0)
    ended = end(access, "web", 5.0, 1.0)
    assert (names(ended, 4.9), names(ended, 5.0)) == (["web"], [])
    again = with_key(ended, AccessKey("web", public()), 6.0)
    assert names(again, 6.0) == ["web"]
    assert len(forget(again, "web", 6.0).keys) == 1
    with pytest.raises(OperatorError, match="no valid key of this name"):
        end(ended, "web", 7.0, 6.0)


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "a\n", "x" * 65, "é"])
def test_a_name_can_be_that_of_a_file_and_stand_in_a_line(name: str) -> None:
    with pytest.raises(OperatorError, match="a name has 1 to 64"):
        with_key(AccessList(1, "x" * 40), AccessKey(name, public()), 0.0)


def test_a_rotated_key_keeps_its_rights_and_the_old_one_is_good_for_as_long_as_was_said() -> None:
    old, new, rights = public(), public(), Rights(classes=("A",), read_only=True)
    access = rotate(with_key(AccessList(1, "x" * 40), AccessKey("web", old, rights), 0.0), "web", new, 10.0, 1.0)
    assert [key.public for key in access.valid(9.0)] == [old, new]
    assert [(key.public, key.rights) for key in access.valid(10.0)] == [(new, rights)]


def _add_one(path: Path, name: str) -> None:
    change_access(path, lambda access: with_key(access, AccessKey(name, public()), 0.0), create=True)


def test_two_changes_at_once_both_happen(tmp_path: Path) -> None:
    path, wanted = tmp_path / "access.json", [f"key{number}" for number in range(8)]
    with ThreadPoolExecutor(4) as pool:  # The lock is of each opening of the folder: threads keep each other out as processes do.
        list(pool.map(_add_one, [path] * len(wanted), wanted))
    assert sorted(names(read_access(path))) == wanted


def test_a_list_that_is_not_there_is_an_error_for_who_wants_to_change_it(tmp_path: Path) -> None:
    for path in (tmp_path / "access.json", tmp_path / "away" / "access.json"):
        with pytest.raises(OperatorError, match="there are no access keys"):
            change_access(path, lambda access: access, create=False)
    assert os.listdir(tmp_path) == []
