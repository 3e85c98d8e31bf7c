"""The wheel, built from a copy of this tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
FOLDERS = ("tidegate", "runtime", "shard", "router", "benchmarks", "testing", "systemd", "template")
SOURCES = (*FOLDERS, "pyproject.toml", "README.md", "LICENSE")
IN_TREE = shutil.ignore_patterns("__pycache__", "*.egg-info")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What it prints."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, timeout=100, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def copy_tree(folder: Path) -> Path:
    """What an earlier build has left in the tree is in no wheel."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=IN_TREE)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(source: Path, folder: Path) -> Path:
    run(*PIP, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, source)
    (found,) = folder.glob("*.whl")
    return found
