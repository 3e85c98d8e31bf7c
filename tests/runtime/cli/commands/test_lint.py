"""`tidegate lint`: files, packages and folders, and what cannot be read."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tidegate.runtime.cli.cli import main

WRONG = (
    "import time\nfrom tidegate import DurableObject\nclass C(DurableObject):\n    async def m(self):\n        time.sleep(1)\n"
)
SAID = "5: blocks: time.sleep holds up every object"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Lines of what is found, up to the rule; or of the error."""
    code = main(["lint", *arguments])
    output = capsys.readouterr()
    assert code == (1 if output.out or output.err else 0)
    return [line.partition(": blocks")[0] for line in (output.out or output.err).splitlines()]


def test_the_command_prints_what_it_has_found_and_fails(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = here / "app.py"
    app.write_text(WRONG)
    assert main(["lint", str(app)]) == 1
    assert capsys.readouterr().out.startswith(f"{app}:{SAID}")
    assert main(["lint", f"{app}:C", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["rule"] == "blocks"
    app.write_text("x = 1\n")
    assert said(capsys, str(app)) == []


def test_all_modules_of_a_package_are_looked_at(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "shop" / "inner").mkdir(parents=True)
    (here / "shop" / ".venv").mkdir()
    (here / "shop" / "env").mkdir()
    (here / "shop" / "env" / "pyvenv.cfg").touch()
    (here / "shop" / ".#orders.py").symlink_to("somebody@edits.it")
    for name in ("__init__", "orders", "inner/deep", ".venv/not", "env/not"):
        (here / "shop" / f"{name}.py").write_text(WRONG)
    files = ["shop/__init__.py:5", "shop/orders.py:5", "shop/inner/deep.py:5"]
    assert said(capsys, "shop") == files
    assert said(capsys, "shop/") == files
    assert said(capsys, "shop.inner") == files[2:]
    assert said(capsys, "shop.orders") == files[1:2]
    assert said(capsys, "shop.none")[0].startswith("tidegate: read shop/none.py: there is no such file")


def test_a_package_that_is_installed_is_found_and_not_imported(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = here / "elsewhere"
    (elsewhere / "a_shop").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(elsewhere))
    (elsewhere / "a_shop" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (elsewhere / "a_shop" / "orders.py").write_text(WRONG)
    for app in ("a_shop", "a_shop.orders"):
        assert said(capsys, app) == [f"{elsewhere}/a_shop/orders.py:5"]


def test_a_base_may_stand_in_another_module_of_the_app(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "shop").mkdir()
    (here / "shop" / "__init__.py").touch()
    (here / "shop" / "base.py").write_text("from tidegate import DurableObject\nclass Base(DurableObject): ...\n")
    for first in ("from .base import Base", "from shop.base import Base", "from shop import base; Base = 1"):
        text = WRONG.replace("from tidegate import DurableObject", first).replace("DurableObject", "base.Base")
        (here / "shop" / "orders.py").write_text(text if "; Base" in first else text.replace("base.Base", "Base"))
        assert said(capsys, "shop/orders.py") == ["shop/orders.py:5"]


@pytest.mark.parametrize(("content", "problem"), [
    (b"def\n", "mend it first"),
    (b"x = '\xe9'\n", "save it as UTF-8"),
    (b"\n\n\nx = '\xe9'\n", "save it as UTF-8"),
    (b"# coding: klingon\n", "unknown encoding"),
    (b"x = 1\0\n", "mend it first"),
    (b"x = " + b"(" * 5_000 + b")" * 5_000, "mend it first"),
])  # fmt: skip
def test_what_cannot_be_read_is_told_in_a_line(
    here: Path, capsys: pytest.CaptureFixture[str], content: bytes, problem: str
) -> None:
    (here / "app.py").write_bytes(content)
    assert main(["lint", "app.py"]) == 1
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


def test_a_folder_without_a_module_and_one_that_cannot_be_read_are_not_without_mistakes(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "empty" / "notes").mkdir(parents=True)
    assert said(capsys, "empty") == [
        "tidegate: read empty: there is no Python file in it (name the folder of the app, or a file of it)"
    ]
    (here / "empty" / "app.py").write_text("x = 1\n")
    assert said(capsys, "empty") == []
    asked = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("notes"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return asked(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert said(capsys, "empty") == ["tidegate: read empty/notes: Permission denied (make it readable)"]


def test_a_file_may_say_in_what_it_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "app.py").write_bytes(b"# coding: latin-1\n" + WRONG.replace("(1)", "(1)  # \xe9").encode("latin-1"))
    assert said(capsys, "app.py") == ["app.py:6"]


def test_a_file_that_the_disk_does_not_give_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "/proc/self/mem"]) == 1
    assert "read /proc/self/mem: Input/output error" in capsys.readouterr().err
