"""Which writes are edits, and when."""

from __future__ import annotations

from tidegate.runtime.supervisor.rules.edits import SETTLED_S, Edits, Stamp


class Disk:
    """Files whose every write has a stamp of its own; looked at ten times within the time that a write needs to settle."""

    def __init__(self, **contents: bytes) -> None:
        self.contents: dict[str, bytes | None] = dict(contents)
        self.edits = Edits(contents)
        self.reads: list[str] = []
        self._now = 0.0
        self._writes = 0
        self._stamps: dict[str, Stamp] = dict.fromkeys(contents, (0, 0, 0))

    def write(self, path: str, content: bytes | None) -> None:
        self._writes += 1
        self.contents[path] = content
        self._stamps[path] = None if content is None else (1, len(content), self._writes)

    def look(self, times: int = 1) -> list[list[str]]:
        """What was to be reloaded for, each time that there was something."""
        found = []
        for _ in range(times):
            self._now += SETTLED_S / 10
            found.append(self.edits.looked(self._stamps, self._now, self._read))
        return [each for each in found if each]

    def _read(self, path: str) -> bytes | None:
        self.reads.append(path)
        return self.contents[path]


def settled(**contents: bytes) -> Disk:
    disk = Disk(**contents)
    assert disk.look(20) == []
    disk.reads.clear()
    return disk


def test_what_is_saved_is_an_edit_once_it_has_settled_and_only_once() -> None:
    disk = settled(app=b"1", lib=b"1")
    disk.write("app", b"2")
    assert disk.look(10) == []
    assert disk.look(30) == [["app"]]


def test_files_that_are_saved_together_are_one_edit() -> None:
    disk = settled(app=b"1", lib=b"1")
    for path in ("lib", "app"):
        disk.write(path, b"2")
        assert disk.look(5) == []
    assert disk.look(30) == [["app", "lib"]]


def test_a_file_that_is_away_for_a_moment_while_another_takes_its_place_is_one_edit() -> None:
    disk = settled(app=b"1")
    disk.write("app", None)
    assert disk.look(3) == []
    disk.write("app", b"2")
    assert disk.look(30) == [["app"]]


def test_a_file_that_stays_away_is_an_edit_and_so_is_its_return() -> None:
    disk = settled(app=b"1")
    disk.write("app", None)
    assert disk.look(30) == [["app"]]
    disk.write("app", b"1")
    assert disk.look(30) == [["app"]]


def test_what_is_written_without_a_change_or_taken_back_at_once_is_no_edit() -> None:
    disk = settled(app=b"1")
    disk.write("app", b"1")
    assert disk.look(30) == []
    disk.write("app", b"2")
    disk.look(3)
    disk.write("app", b"1")
    assert disk.look(30) == []


def test_what_is_taken_back_after_it_was_tried_is_an_edit() -> None:
    disk = settled(app=b"1")
    for content in (b"2", b"1"):
        disk.write("app", content)
        assert disk.look(30) == [["app"]]


def test_what_was_saved_between_the_load_of_a_version_and_the_first_look_is_an_edit() -> None:
    disk = Disk(app=b"1")
    disk.write("app", b"2")
    assert disk.look(30) == [["app"]]


def test_nothing_is_read_while_nothing_is_written() -> None:
    disk = settled(app=b"1", lib=b"1")
    assert disk.look(100) == []
    assert disk.reads == []
