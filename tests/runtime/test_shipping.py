"""runtime/shipping.py: segments that wait for a backup, and are given up before they take room that others need."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

import pytest

from tidegate.runtime import shipping as module
from tidegate.runtime.shipping import GIVEN_UP, Shipping, kept_bytes, remove_left

LOG = "00000001-0000-0000"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "log" / LOG).mkdir(parents=True)
    return tmp_path


def segment(data: Path, number: int, content: bytes = b"tidelog\n records") -> Path:
    path = data / "log" / LOG / f"{number:08d}.seg"
    path.write_bytes(content)
    return path


def test_without_the_folder_nothing_is_taken(data: Path) -> None:
    shipping = Shipping(data)
    path = segment(data, 1)
    assert not shipping.is_wanted
    assert not shipping.take(path, LOG)
    shipping.take_all(path.parent)
    assert sorted(data.rglob("*.seg")) == [path]


def test_a_segment_is_moved_under_the_name_of_its_log(data: Path) -> None:
    (data / "shipping").mkdir()
    assert Shipping(data).take(segment(data, 1), LOG)
    assert [str(path.relative_to(data)) for path in data.rglob("*.seg")] == [f"shipping/{LOG}/00000001.seg"]


def test_of_a_log_that_is_removed_what_was_never_written_is_left(data: Path) -> None:
    (data / "shipping").mkdir()
    segment(data, 1), segment(data, 2), segment(data, 3, bytes(100))
    gone = (data / "log" / LOG).rename(data / "log" / f"deleted-{LOG}-kept")
    Shipping(data).take_all(gone)
    kept = sorted(str(path.relative_to(data)) for path in data.rglob("*.seg"))
    assert kept == [f"log/deleted-{LOG}-kept/00000003.seg", f"shipping/{LOG}/00000001.seg", f"shipping/{LOG}/00000002.seg"]


def test_what_is_fetched_while_it_is_counted_is_no_fault(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_bytes(data) == 0
    (data / "shipping").mkdir()
    (data / "shipping" / "lineage.json").write_bytes(b"{}")
    for number in (1, 2):
        assert Shipping(data).take(segment(data, number, b"x" * 10), LOG)
    assert kept_bytes(data) == 20
    real = os.listdir

    def listed(folder: Path) -> list[str]:
        names = sorted(real(folder))
        if folder.name == LOG:
            (folder / "00000001.seg").unlink(missing_ok=True)
        return names

    monkeypatch.setattr(os, "listdir", listed)
    assert kept_bytes(data) == 10

    def listed_and_gone(folder: Path) -> list[str]:
        names = real(folder)
        shutil.rmtree(folder)
        return names

    monkeypatch.setattr(os, "listdir", listed_and_gone)
    assert kept_bytes(data) == 0


def test_above_its_bound_everything_is_given_up_with_a_line_and_a_note(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SHIPPING_BYTES_MAX", 3 << 20)
    (data / "shipping").mkdir()
    shipping = Shipping(data)
    assert shipping.take(segment(data, 1, b"x" * (2 << 20)), LOG)
    with caplog.at_level(logging.WARNING):
        assert not shipping.take(path := segment(data, 2, b"x" * (2 << 20)), LOG)
    assert path.exists()
    assert not (data / "shipping").exists()
    assert "3 MiB were waiting for a backup" in (data / GIVEN_UP).read_text()
    assert "the next `tidegate backup` is a full one" in caplog.text


def test_a_disk_that_is_nearly_full_gets_its_room_back(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "shipping").mkdir()
    shipping = Shipping(data)
    assert shipping.take(segment(data, 1), LOG)
    monkeypatch.setattr(module, "SHIPPING_FREE_BYTES_MIN", 1 << 60)
    assert not shipping.take(segment(data, 2), LOG)
    assert "the disk has less than" in (data / GIVEN_UP).read_text()
    assert not shipping.give_up("a second time")


def test_what_cannot_be_moved_is_given_up(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "shipping").mkdir()
    path = segment(data, 1)

    def fails(self: Path, target: Path) -> Path:
        monkeypatch.undo()
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(Path, "rename", fails)
    assert not Shipping(data).take(path, LOG)
    assert path.exists()
    assert "cross-device" in (data / GIVEN_UP).read_text()


def test_what_a_process_had_begun_to_remove_is_removed_at_the_next_start(data: Path) -> None:
    (data / "deleted-shipping-17" / LOG).mkdir(parents=True)
    remove_left(data)
    assert [path.name for path in data.iterdir()] == ["log"]
