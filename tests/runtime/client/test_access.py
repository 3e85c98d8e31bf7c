"""Where a client finds its access key."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path

import pytest

from tidegate.runtime.client.access import ShownKey, client_key, key_text
from tidegate.runtime.client.synchronous import connect_sync
from tidegate.runtime.wire.access import ClientKey

KEY = ClientKey("s" * 40, "#" + "p" * 39, "k" * 40)
WORDS = f"{KEY.server} {KEY.public} {KEY.secret}"


def test_a_file_goes_before_the_environment_and_the_key_there_before_its_file(tmp_path: Path) -> None:
    file = tmp_path / "web.key"
    file.write_text(key_text("web", KEY))
    other = {"TIDEGATE_KEY": WORDS.replace("k", "o"), "TIDEGATE_KEY_FILE": "/nowhere"}
    assert client_key(file, other) == KEY
    assert client_key(None, other) == ClientKey(KEY.server, KEY.public, "o" * 40)
    assert client_key(None, {"TIDEGATE_KEY": "", "TIDEGATE_KEY_FILE": str(file)}) == KEY
    assert client_key(None, {}) is None


@pytest.mark.parametrize("text", ["", "# nothing\n", "one two three", f"{WORDS} more", WORDS[:-1], "\xff" * 50])
def test_what_is_no_key_is_named_without_being_repeated(tmp_path: Path, text: str) -> None:
    file = tmp_path / "web.key"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"web\.key: an access key is three words") as caught:
        client_key(file, {})
    assert KEY.secret[:-1] not in str(caught.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client_key(tmp_path / "web.key", {})


def test_a_client_that_could_not_be_made_is_not_complained_of_when_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    with pytest.raises(FileNotFoundError) as caught:
        connect_sync("tcp://127.0.0.1:1", key_file=tmp_path / "nope.key")
    del caught
    gc.collect()
    assert complaints == []


def test_a_key_that_is_written_to_the_file_meanwhile_is_the_next_one(tmp_path: Path) -> None:
    file, other = tmp_path / "web.key", ClientKey("o" * 40, KEY.public, KEY.secret)
    file.write_text(key_text("web", KEY))
    for shown in (ShownKey(file, {}), ShownKey(None, {"TIDEGATE_KEY_FILE": str(file)})):
        file.write_text(key_text("web", KEY))
        assert shown.newest() == KEY
        for half in ("", key_text("web", other)[:-20]):  # As whoever writes it in place leaves it for a moment.
            file.write_text(half)
            assert shown.newest() == KEY
        file.unlink()
        assert shown.newest() == KEY
        file.write_text(key_text("web", other))
        assert shown.newest() == other
    words = ShownKey(None, {"TIDEGATE_KEY": WORDS, "TIDEGATE_KEY_FILE": str(file)})
    assert (words.newest(), ShownKey(None, {}).newest()) == (KEY, None)


def test_a_key_that_comes_through_a_pipe_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    writer = threading.Thread(target=pipe.write_text, args=(key_text("web", KEY),))
    writer.start()
    shown = ShownKey(pipe, {})
    writer.join()
    assert shown.newest() == KEY
