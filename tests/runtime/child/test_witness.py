"""What a worker wrote down about whose code it ran is there when it has died, however it died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.runtime.child.witness import BYTES, Witness, take_testimony
from tidegate.runtime.wire.supervisor_messages import Running

PROGRAM = """
import os, sys
from pathlib import Path
from tidegate.runtime.child.witness import Witness
witness = Witness(Path(sys.argv[1]))
witness.enter("Gone", "g", "before")
witness.leave()
witness.enter("Poison", "näme/" + "x" * 1_000, "boom")
{end}
"""


@pytest.mark.parametrize("end", ["os._exit(3)", f"os.kill(os.getpid(), {int(signal.SIGKILL)})", "os.abort()"])
def test_who_ran_is_known_however_the_process_ends(end: str, tmp_path: Path) -> None:
    path = tmp_path / "witness.0"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    subprocess.run([sys.executable, "-c", limit + PROGRAM.format(end=end), str(path)], check=False, timeout=60)
    assert take_testimony(path) == Running("Poison", "näme/" + "x" * 1_000, "boom")
    assert not path.exists()


def test_between_two_objects_nobody_ran(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "w")
    witness.enter("Poison", "p", "boom")
    witness.leave()
    assert take_testimony(tmp_path / "w") is None


def test_a_new_worker_does_not_repeat_what_the_last_one_said(tmp_path: Path) -> None:
    Witness(tmp_path / "w").enter("Poison", "p", "boom")
    Witness(tmp_path / "w")
    assert take_testimony(tmp_path / "w") is None


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff" * BYTES, b"\x00\x05abc", b"\x00\x01\x93"])
def test_what_is_no_testimony_says_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    assert take_testimony(tmp_path / "w") is None
    assert take_testimony(tmp_path / "none") is None


def test_the_longest_names_fit(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "w")
    witness.enter("C" * 256, "n" * 1_024, "m" * 10_000)
    assert os.path.getsize(tmp_path / "w") == BYTES
    assert take_testimony(tmp_path / "w") == Running("C" * 256, "n" * 1_024, "m" * 100)
