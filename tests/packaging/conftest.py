"""The wheel, built from this tree once a run, and an environment with nothing else in it than the wheel and what it needs.

What it needs is not installed again: a line in the environment shows it the packages of the one that runs the tests, in which
Tidegate is a link to the tree that nobody can follow from there. So these tests prove what the wheel has, and not that the
dependencies which it names are enough."""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

import pytest

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
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent
