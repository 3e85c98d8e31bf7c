"""A fresh Debian 12, made once and kept beside the tree: what `debian.sh` says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.wheel import ROOT

DEBIAN = ROOT / ".debian-12"
MADE_S_MAX = 900


def make_debian() -> None:
    """Skips the test where that cannot be done."""
    if not (DEBIAN / "made").exists() and not shutil.which("debootstrap"):
        pytest.skip("needs debootstrap (package debootstrap)")
    command = [str(Path(__file__).with_name("debian.sh")), str(DEBIAN), sys.executable]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=MADE_S_MAX, check=False)
    if made.returncode != 0:
        pytest.skip(f"cannot make a Debian here: {made.stderr[-500:]}")
