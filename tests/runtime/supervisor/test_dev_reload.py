"""Saves of an app's source, in real files, as workers have kept them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tidegate.runtime.supervisor.dev_reload import DevReload, digest


class App:
    """What is on disk, what workers have kept of it, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.source, self._kept = folder / "source", folder / "kept"
        self.source.mkdir()
        self.reloads = 0
        self.reloading = False
        self.watch = DevReload(self._kept, self._reload, lambda: self.reloading)
        self._now = 0.0

    def save(self, name: str, text: str) -> None:
        (self.source / name).write_text(text)

    def load(self, *names: str, generation: int = 0) -> None:
        folder = self._kept / str(generation)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            stem = Path(name).stem
            (folder / f"{stem}.from").write_text(str(self.source / name))
            shutil.copy(self.source / name, folder / f"{stem}.py")

    def ended(self, generation: int, *, failed: bool) -> None:
        """A reload, after which what is kept of the other version is removed."""
        self.reloading = False
        self.watch.ended(failed=failed)
        shutil.rmtree(self._kept / str(generation if failed else generation - 1))

    def looks(self) -> int:
        """How many reloads have been asked for in a while."""
        before = self.reloads
        for _ in range(10):
            self._now += 0.25
            self.watch.look(self._now)
        return self.reloads - before

    def tries(self, text: str, *, failed: bool, generation: int = 1) -> None:
        """A save of the app, and what came of it."""
        self.save("shop.py", text)
        assert self.looks() == 1
        self.load("shop.py", generation=generation)
        self.ended(generation, failed=failed)

    def _reload(self) -> None:
        self.reloads += 1
        self.reloading = True


@pytest.fixture
def app(tmp_path: Path) -> App:
    app = App(tmp_path)
    app.save("shop.py", "1")
    app.load("shop.py")
    return app


def test_a_module_that_a_worker_imports_later_is_watched_from_then_on_and_no_other_file_is(app: App) -> None:
    app.save("later.py", "1")
    assert app.looks() == 0
    app.load("later.py")
    app.save("later.py", "2")
    assert app.looks() == 1


def test_what_is_saved_while_a_reload_is_on_its_way_is_loaded_after_it(app: App) -> None:
    app.save("shop.py", "2")
    assert app.looks() == 1
    app.load("shop.py", generation=1)
    app.save("shop.py", "3")
    assert app.looks() == 0
    app.ended(1, failed=False)
    assert app.looks() == 1


def test_what_is_taken_back_after_a_failure_is_loaded_so_that_nothing_is_a_problem_any_longer(app: App) -> None:
    app.tries("broken", failed=True)
    assert app.looks() == 0
    app.save("shop.py", "1")
    assert app.looks() == 1


def test_what_a_broken_version_lacks_brings_it_when_it_appears_and_temporary_files_do_not(app: App) -> None:
    for generation in (1, 2):  # A second failure makes no other folder one of the app's.
        app.tries(f"import lib  # {generation}", failed=True, generation=generation)
    (app.source.parent / "beside.py").write_text("")
    for name in (".#shop.py", "shop.py~", ".shop.py.swp", "4913"):
        app.save(name, "")
    assert app.looks() == 0
    app.save("lib.py", "")
    assert app.looks() == 1


def test_what_a_broken_version_lacks_may_appear_while_it_is_being_loaded(app: App) -> None:
    app.save("shop.py", "import lib")
    assert app.looks() == 1
    app.load("shop.py", generation=1)
    app.save("lib.py", "")
    app.ended(1, failed=True)
    assert app.looks() == 1


def test_after_a_version_that_is_loaded_only_its_own_files_are_watched(app: App) -> None:
    app.save("lib.py", "1")
    app.load("lib.py")
    app.tries("2", failed=False)
    app.save("lib.py", "2")
    app.save("new.py", "")
    assert app.looks() == 0
    app.save("shop.py", "3")
    assert app.looks() == 1


def test_a_folder_is_told_from_another_by_what_can_be_imported_from_it(tmp_path: Path) -> None:
    (tmp_path / "shop.py").touch()
    before = digest(str(tmp_path))
    for name in ("__pycache__", "notes.txt", ".hidden.py"):
        (tmp_path / name).touch()
    assert digest(str(tmp_path)) == before
    (tmp_path / "package").mkdir()
    assert digest(str(tmp_path)) != before
    assert digest(str(tmp_path / "gone")) is None


def test_lint_finds_the_base_of_a_class_in_another_module_of_a_package(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = tmp_path / "kept" / "0"
    kept.mkdir(parents=True)
    modules = {
        "shop": ("shop/__init__.py", "from .base import Base as Shown\n"),
        "shop.base": ("shop/base.py", "from tidegate import DurableObject\nclass Base(DurableObject): ...\n"),
        "shop.orders": ("shop/orders.py", "from . import Shown\nclass C(Shown):\n    async def m(self):\n        self.n = 1\n"),
    }
    for name, (place, text) in modules.items():
        (kept / f"{name}.py").write_text(text)
        (kept / f"{name}.from").write_text(str(tmp_path / place))
    DevReload(tmp_path / "kept", lambda: None, lambda: False).look(0.0)
    assert [message.partition(": memory")[0] for message in caplog.messages] == [f"lint: {tmp_path}/shop/orders.py:4"]


def test_what_lint_sees_is_said_once_for_each_version_of_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = App(tmp_path)
    head = "import time\nfrom tidegate import DurableObject\nclass C(DurableObject):\n"
    wrong = f"{head}    async def m(self):\n        time.sleep(1)\n"
    app.save("shop.py", wrong)
    app.load("shop.py")
    assert app.looks() == 0
    app.looks()
    said = f"lint: {app.source}/shop.py:5: blocks: time.sleep holds up every object"
    assert [message.startswith(said) for message in caplog.messages] == [True]
    app.tries(f"x = 1\n{wrong}", failed=True)
    app.looks()
    assert [message.partition(": blocks")[0] for message in caplog.messages if "lint" in message] == [
        f"lint: {app.source}/shop.py:{line}" for line in (5, 6)
    ]
    app.tries("def f(:", failed=True)
    app.looks()
    assert sum("lint" in message for message in caplog.messages) == 2
