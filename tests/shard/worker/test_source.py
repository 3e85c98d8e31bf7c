"""shard/worker/source.py: every worker of one start runs the app as it was, whatever has become of its files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import tidegate.benchmarks
import tidegate.runtime
from tidegate.shard.worker import source
from tidegate.shard.worker.app import load_app
from tidegate.shard.worker.source import KeptSource, keep_source


class Place:
    """The folder of an app, and processes that load it one after the other."""

    def __init__(self, root: Path) -> None:
        self.app = root / "app"
        self.kept = root / "run"
        self.app.mkdir()

    def write(self, name: str, text: str) -> Path:
        path = self.app / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def load(self, target: str = "served.py") -> tuple[KeptSource, ModuleType]:
        """As a new process would."""
        path, finders, known = list(sys.path), list(sys.meta_path), set(sys.modules)
        try:
            if target.endswith(".py"):
                target = str(self.app / target)
            else:
                sys.path.insert(0, str(self.app))
            kept = keep_source(self.kept, target)
            (served,) = load_app(target, kept)
            return kept, sys.modules[served.cls.__module__]
        finally:
            sys.path[:], sys.meta_path[:] = path, finders
            for name in set(sys.modules) - known:
                del sys.modules[name]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    yield Place(tmp_path)
    sys.dont_write_bytecode = before


SERVED = """
import os
from tidegate import DurableObject
import beside
from parts import deep
HERE = os.path.dirname(__file__)
VALUE = {value!r}, beside.VALUE, deep.VALUE
class Thing(DurableObject):
    async def later(self):
        import lazy
        return lazy.VALUE
"""


def write_all(place: Place, value: str) -> None:
    place.write("served.py", SERVED.format(value=value))
    place.write("beside.py", f"VALUE = {value!r}\n")
    place.write("parts/__init__.py", "")
    place.write("parts/deep.py", f"VALUE = {value!r}\n")
    place.write("lazy.py", f"VALUE = {value!r}\n")


def test_what_was_loaded_once_is_loaded_again_after_its_files_have_changed(place: Place) -> None:
    write_all(place, "old")
    kept, module = place.load()
    assert module.VALUE == ("old", "old", "old")
    assert kept.changed == []
    write_all(place, "new")
    again, module = place.load()
    assert module.VALUE == ("old", "old", "old")
    assert again.version == kept.version
    assert again.changed == [str(place.app / name) for name in ("served.py", "beside.py", "parts/deep.py")]
    assert str(place.app) == module.HERE, "data beside the app is found where it is"


def test_it_is_loaded_again_after_its_files_have_gone(place: Place) -> None:
    write_all(place, "old")
    kept, _ = place.load()
    for path in sorted(place.app.rglob("*.py")):
        path.unlink()
    again, module = place.load()
    assert module.VALUE == ("old", "old", "old")
    assert again.version == kept.version


def test_a_served_package_is_kept_though_it_is_installed_like_a_library(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_LIBRARIES", (f"{place.app}/",))
    text = "from tidegate import DurableObject\nVALUE = {!r}\nclass Thing(DurableObject): ...\n"
    place.write("package/__init__.py", text.format("old"))
    place.load("package")
    place.write("package/__init__.py", text.format("new"))
    assert place.load("package")[1].VALUE == "old"


def test_of_our_own_package_only_the_part_that_is_served_is_kept(tmp_path: Path) -> None:
    """`python -m tidegate.benchmarks` serves `tidegate.benchmarks.load.app`."""
    before = list(sys.meta_path)
    try:
        kept = keep_source(tmp_path / "run", "tidegate.benchmarks.load.app")
    finally:
        sys.meta_path[:] = before
    assert kept.find_spec("tidegate.benchmarks.model", tidegate.benchmarks.__path__) is not None
    assert kept.find_spec("tidegate.runtime.ids", tidegate.runtime.__path__) is None


def test_libraries_are_none_of_its_business(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_LIBRARIES", (f"{place.app}/parts/",))
    write_all(place, "old")
    place.load()
    write_all(place, "longer")  # Byte code is known to be old by time in seconds, and by size.
    assert place.load()[1].VALUE == ("old", "old", "longer")
    assert not list(place.kept.glob("json*"))


def test_the_version_is_that_of_the_source(place: Place, tmp_path: Path) -> None:
    write_all(place, "old")
    old = place.load()[0].version
    place.kept = tmp_path / "another start"
    assert place.load()[0].version == old
    place.write("parts/deep.py", "VALUE = 'other'\n")
    place.kept = tmp_path / "a third"
    assert place.load()[0].version != old


def test_no_byte_code_is_read_or_written(place: Place) -> None:
    """It would be that of the file as it is now."""
    write_all(place, "old")
    place.load()
    assert not list(place.app.rglob("*.pyc"))


def test_what_cannot_be_kept_is_used_all_the_same(place: Place) -> None:
    write_all(place, "old")
    place.kept.write_bytes(b"a file where the folder should be")
    assert place.load()[1].VALUE == ("old", "old", "old")
