"""One seed is one run: on every Python there is here, and whatever the order of sets."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT = "timelines.digest"
"""In an environment: what it has found, below a digest of the sources. A Python that cannot be run from here (CI has one in a
folder of its own) has left it."""


def sources() -> str:
    digest = hashlib.sha256()
    for folder in ("shard", "runtime", "testing", "tests/testing", "tests/support"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def digest_of(environment: Path, hash_seed: str = "1") -> str | None:
    """None: its Python cannot be run here."""
    python = environment / "bin" / "python"
    settings = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    try:
        subprocess.run([str(python), "-c", "import tidegate"], capture_output=True, cwd=ROOT, env=settings, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    command = [str(python), "-m", "tests.support.timelines"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=settings, check=True).stdout


def kept_by(environment: Path, now: str) -> str | None:
    kept = environment / KEPT
    if not kept.is_file():
        return None
    of, _, digest = kept.read_text().partition("\n")
    return digest if of == now else None


@pytest.mark.timeout(600)
def test_the_same_seeds_give_the_same_runs_on_every_python() -> None:
    now, mine = sources(), digest_of(Path(sys.prefix))
    assert mine is not None
    (Path(sys.prefix) / KEPT).write_text(f"{now}\n{mine}")
    others = [each for each in sorted(ROOT.glob(".venv*")) if (each / ".installed").exists() and each != Path(sys.prefix)]
    found = {each.name: kept_by(each, now) or digest_of(each) for each in others}
    assert {name: digest for name, digest in found.items() if digest not in (None, mine)} == {}


@pytest.mark.timeout(600)
def test_nothing_depends_on_the_order_of_a_set() -> None:
    assert digest_of(Path(sys.prefix), "1") == digest_of(Path(sys.prefix), "2")
