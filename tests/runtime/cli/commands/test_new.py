"""A project that `tidegate new` makes works as it stands, and nothing that is there already is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_pages import blocks, steps
from tests.support.service import Serve
from tests.support.wheel import ROOT
from tidegate.runtime.cli.cli import main


def make(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What it says."""
    assert main(["new", name]) == 0
    return capsys.readouterr().out


def refused(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["new", name]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checked(*command: str, cwd: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.timeout(400)
def test_the_tests_of_a_new_project_pass_and_its_types_and_style_are_clean(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = make("corner-shop", capsys)
    assert "tidegate serve corner_shop.py --dev" in said
    project = here / "corner-shop"
    files = {".gitignore", "Containerfile", "README.md", "corner_shop.py", "pyproject.toml", "tidegate.toml"}
    assert set(contents(project)) == files | {"tests/test_corner_shop.py"}
    checked(sys.executable, "-m", "ruff", "check", "--isolated", "--extend-select", "I", ".", cwd=project)
    checked(sys.executable, "-m", "ruff", "format", "--isolated", "--check", ".", cwd=project)
    checked(sys.executable, "-m", "mypy", "--strict", "corner_shop.py", "tests", cwd=project)
    checked(sys.executable, "-m", "pytest", "-q", cwd=project)
    checked(sys.executable, "-m", "tidegate", "config", "check", "tidegate.toml", cwd=project)


@pytest.mark.timeout(400)
def test_what_the_readme_of_a_new_project_shows_is_what_happens(
    here: Path, capsys: pytest.CaptureFixture[str], serve: Serve
) -> None:
    make("till", capsys)
    service = serve(1, app=str(here / "till" / "till.py"))
    service.expect(" raised: ", "Traceback", "ValueError")
    (typed,) = [text for text in blocks(here / "till" / "README.md", "console") if "tidegate call" in text]
    done = 0
    for command, expected in steps(typed):
        if command.startswith("tidegate call"):
            line = command.replace("tidegate call", f"{sys.executable} -m tidegate call --connect {service.endpoint}")
            ran = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
            assert (ran.stdout or ran.stderr).strip() == expected, command
            done += 1
    assert done == 3


def test_the_containerfile_of_a_new_project_is_that_of_the_tree_with_its_app(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which tests/systemd/test_container.py carries out."""
    make("till", capsys)

    def lines(path: Path) -> list[str]:
        return [line for line in path.read_text().splitlines() if not line.startswith(("#", "COPY", "CMD"))]

    made = here / "till" / "Containerfile"
    assert lines(made) == lines(ROOT / "Containerfile")
    copied = [line.split()[1:] for line in made.read_text().splitlines() if line.startswith("COPY")]
    assert copied == [["tidegate-*.whl", "/tmp/"], ["till.py", "/srv/till.py"], ["tidegate.toml", "/srv/tidegate.toml"]]
    assert all(source.endswith(".whl") or (here / "till" / source).exists() for source, _ in copied)
    assert 'CMD ["--config", "/srv/tidegate.toml"]' in made.read_text()


def test_a_folder_with_something_in_it_and_a_file_are_left_as_they_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "till").mkdir()
    (here / "till" / "notes.txt").write_text("mine")
    (here / "shelf").write_text("mine")
    for name in ("till", "shelf"):
        assert "there is something already" in refused(name, capsys)
    assert contents(here) == {"till/notes.txt": b"mine", "shelf": b"mine"}


def test_an_empty_folder_is_filled_also_the_one_where_one_stands(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "till").mkdir()
    monkeypatch.chdir(here / "till")
    assert "cd " not in make(".", capsys)
    assert "till.py" in contents(here / "till")
    assert "shop" not in (here / "till" / "till.py").read_text()


@pytest.mark.parametrize("name", ["json", "numpy.d", "2shops", "läden", "class", "tidegate", "msgspec", "tests", "a b", "", ".."])
def test_a_name_that_no_app_can_have_is_refused_in_one_line(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(here.parent.iterdir())
    refused(name, capsys)
    assert contents(here) == {}
    assert set(here.parent.iterdir()) == before


def test_what_cannot_be_made_whole_leaves_nothing_behind(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "file").touch()
    assert "name a folder that can be made" in refused("file/till", capsys)
    written: list[str] = []

    def full(path: Path, *arguments: object, **keywords: object) -> object:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(str(path))
        return open(path, *arguments, **keywords)  # type: ignore[call-overload]  # as it was asked

    monkeypatch.setattr("tidegate.runtime.cli.commands.new.open", full, raising=False)
    assert "No space left on device" in refused("till", capsys)
    assert not (here / "till").exists()
    assert len(written) == 3
