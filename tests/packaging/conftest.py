"""The wheel, built from this tree once a run, and an environment with nothing else in it than the wheel and what it needs.

What it needs is not installed again: a line in the environment shows it the packages of the one that runs the tests, in which
Tidegate is a link to the tree that nobody can follow from there. So these tests prove what the wheel has, and not that the
dependencies which it names are enough."""

from __future__ import annotations

import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.wheel import PIP, build, copy_tree, run


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="session")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(copy, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the environment's programs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel)
    packages = purelib_of(python)
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.fixture(scope="session")
def plain(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment as `pip install tidegate-….whl` makes it: without what only some commands need."""
    folder = tmp_path_factory.mktemp("plain")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    packages, wheels_own = purelib_of(python), purelib_of(installed / "python")
    (packages / "tidegate").symlink_to(wheels_own / "tidegate")
    for name in required("tidegate") - {"tidegate"}:
        for path in {file.parts[0] for file in distribution(name).files or () if ".." not in file.parts}:
            (packages / path).symlink_to(Path(sysconfig.get_path("purelib"), path))
    return python


def purelib_of(python: Path) -> Path:
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())


def required(name: str) -> set[str]:
    """The distribution of this name, and all that pip installs with it."""
    found, todo = set(), [name]
    while todo:
        if (each := todo.pop()) not in found:
            found.add(each)
            needs = map(Requirement, distribution(each).requires or ())
            todo += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found
