"""shard/store/state/live_rows.py: rows of a data file that changes while it is read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.support.damage import flip_bit, places_of_rows
from tidegate.shard.store.state.live_rows import LiveRows, SourceDamaged
from tidegate.shard.store.state.lmdb_state import LmdbState

QUIET, BUSY = b"\x00", b"\x01"


def key_of(number: int, kind: bytes) -> bytes:
    """Both kinds stand side by side in the leaves."""
    return b"\x00" + number.to_bytes(3, "big") + kind + b"key of a row".ljust(12)


class Writer:
    """Quiet rows never change; busy ones come, go and change, and all values that each ever had are known."""

    def __init__(self, path: Path) -> None:
        self.random = Random(3)
        self.state = LmdbState(path, 5)
        self.quiet = {key_of(number, QUIET): self.value() for number in range(0, 1_000, 2)}
        self.ever: dict[bytes, set[bytes | None]] = {}
        self.seq = 0
        self.commit({**self.quiet, **{key_of(number, BUSY): self.value() for number in range(0, 1_000, 3)}})

    def value(self) -> bytes:
        large = self.random.random() < 0.02
        return self.random.randbytes(self.random.randrange(9_000) if large else self.random.randrange(60))

    def commit(self, rows: dict[bytes, bytes | None] | dict[bytes, bytes]) -> None:
        self.seq += 1
        batch = self.state.begin()
        batch.put_many([(key, value) for key, value in sorted(rows.items()) if value is not None])
        batch.delete_many([key for key, value in rows.items() if value is None])
        batch.set_applied_seq(self.seq)
        for key, value in rows.items():
            self.ever.setdefault(key, {None} if key not in self.quiet else set()).add(value)
        batch.commit()

    def change(self) -> None:
        numbers = self.random.sample(range(1_000), 50)
        self.commit({key_of(n, BUSY): None if self.random.random() < 0.4 else self.value() for n in numbers})


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path)
    yield writer
    writer.state.close()


def check(writer: Writer, found: list[tuple[bytes, bytes]]) -> None:
    assert [key for key, _ in found] == sorted({key for key, _ in found})
    rows = dict(found)
    assert {key: rows.get(key) for key in writer.quiet} == writer.quiet
    assert all(value in writer.ever[key] for key, value in found)


@pytest.mark.parametrize("commits", [0, 1, 2, 3, 7])
def test_commits_between_any_two_leaves_lose_and_invent_nothing(writer: Writer, tmp_path: Path, commits: int) -> None:
    found = []
    with LiveRows(tmp_path, 5) as live:
        assert live.seq == 1
        for rows in live.leaves():
            found += rows
            for _ in range(commits):
                writer.change()
        assert (live.reads_again > 0) == (commits > 0)
    check(writer, found)


def test_a_file_that_is_written_all_the_time_is_read_to_its_end(writer: Writer, tmp_path: Path) -> None:
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            writer.change()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(10):
            with LiveRows(tmp_path, 5) as live:
                check(writer, [row for rows in live.leaves() for row in rows])
    finally:
        ended.set()
        thread.join()


def test_reading_goes_on_behind_any_row(writer: Writer, tmp_path: Path) -> None:
    with LiveRows(tmp_path, 5) as live:
        every = [row for rows in live.leaves() for row in rows]
        for at in [*range(0, len(every), 97), len(every) - 1]:
            after = every[at][0]
            assert [row for rows in live.leaves(after) for row in rows] == every[at + 1 :]
            assert [row for rows in live.leaves(after + b"\0") for row in rows] == every[at + 1 :]


def test_a_copy_that_takes_the_place_of_the_file_changes_nothing_for_who_reads(writer: Writer, tmp_path: Path) -> None:
    found = []
    with LiveRows(tmp_path, 5) as live:
        for number, rows in enumerate(live.leaves()):
            found += rows
            if number == 3:
                writer.state.change_to(*writer.state.copy_smaller()).close()
            writer.change()
    check(writer, found)


def test_damage_is_named_and_not_taken_for_a_change(writer: Writer, tmp_path: Path) -> None:
    writer.state.close()
    places = places_of_rows(tmp_path / "data.mdb")
    flip_bit(tmp_path / "data.mdb", places[sorted(places)[40]] + 3, 2)
    with LiveRows(tmp_path, 5) as live, pytest.raises(SourceDamaged, match="tidegate check"):
        list(live.leaves())
    with pytest.raises(SourceDamaged, match="it holds shard 5"):
        LiveRows(tmp_path, 6)
    (tmp_path / "data.mdb").write_bytes(b"short")
    with pytest.raises(SourceDamaged, match="only 5 bytes"):
        LiveRows(tmp_path, 5)
