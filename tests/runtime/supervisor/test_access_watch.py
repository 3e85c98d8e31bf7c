"""Changes of the list of access keys are noticed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import zmq

from tidegate.runtime.data.access_file import change_access, end, read_access, with_key
from tidegate.runtime.supervisor.access_watch import AccessWatch
from tidegate.runtime.wire.access import AccessKey, Rights


def added(path: Path, name: str, until_s: float | None = None, classes: tuple[str, ...] | None = None) -> AccessKey:
    key = AccessKey(name, zmq.curve_keypair()[0].decode(), Rights(classes), until_s=until_s)
    change_access(path, lambda access: with_key(access, key, 0.0), create=True)
    return key


def read_public(path: Path) -> str:
    access = read_access(path)
    assert access is not None
    return access.public


def watch(path: Path) -> AccessWatch:
    return AccessWatch(path, change_access(path, lambda access: access, create=True), 0.0)


def test_new_keys_ended_keys_and_the_passing_of_time_are_noticed_once(tmp_path: Path) -> None:
    path = tmp_path / "access.json"
    first, ends = added(path, "a"), added(path, "b", until_s=10.0)
    watched = watch(path)
    assert (watched.now.keys, watched.look(1.0)) == ((first, ends), None)
    new = added(path, "c")
    assert (watched.look(1.0), watched.look(1.0)) == ((first, ends, new), None)
    assert (watched.look(10.0), watched.look(11.0)) == ((first, new), None)
    change_access(path, lambda access: end(access, "a", 12.0, 12.0), create=False)
    assert watched.look(12.0) == (new,)
    assert watched.now.keys == (new,)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("{")])
def test_a_list_that_is_gone_or_broken_changes_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: object
) -> None:
    path = tmp_path / "access.json"
    added(path, "a", until_s=10.0)
    watched = watch(path)
    spoil(path)  # type: ignore[operator]
    with caplog.at_level(logging.ERROR):
        assert [watched.look(1.0), watched.look(2.0)] == [None, None]
    assert len(caplog.records) == 1
    assert watched.look(10.0) == ()


def test_another_secret_of_the_service_is_used_from_the_next_start_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "access.json"
    added(path, "a")
    watched = watch(path)
    secret = watched.now.secret
    assert not watched.waits
    path.unlink()
    new = added(path, "b")
    assert watched.look(1.0) == (new,)
    waiting, *more = watched.waits
    assert not more
    assert (waiting.after, waiting.takes) == (read_public(path), "a stop and a start")
    assert waiting.before == zmq.curve_public(secret.encode()).decode()
    assert watched.now.secret == secret
    assert "from the next start on" in caplog.text


def test_a_new_key_for_a_class_that_the_app_does_not_have_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "access.json"
    added(path, "a")
    watched = watch(path)
    added(path, "b", classes=("Cart", "Crat"))
    added(path, "c", classes=("Cart",))
    watched.look(1.0, {"Cart": {}})
    added(path, "d")
    watched.look(2.0, {"Cart": {}})
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["access: the key b is for Crat, which the app does not have"]
