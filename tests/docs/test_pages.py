"""The examples of the documentation, run as a reader would: files are served, commands typed, answers compared."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.service import Serve

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Command and expected output of each `$ ` line."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output.strip()


def write_files(page: Path, folder: Path) -> None:
    """Blocks that begin with `# file: NAME` are appended to that file, in order."""
    for text in blocks(page, "python"):
        first, _, rest = text.partition("\n")
        if first.startswith("# file: "):
            with (folder / first.removeprefix("# file: ")).open("a") as file:
                file.write(rest + "\n\n")


@pytest.mark.timeout(60)
def test_the_guide_to_objects_shows_what_really_happens(tmp_path: Path, serve: Serve) -> None:
    page = DOCS / "objects.md"
    write_files(page, tmp_path)
    service = serve(2, app=str(tmp_path / "shop.py"))
    service.expect("a method raised", "Traceback", "ValueError")
    tidegate = f"{shlex.quote(sys.executable)} -m tidegate"
    checked = 0
    for text in blocks(page, "console"):
        for command, expected in steps(text):
            typed = command.replace("tidegate call", f"{tidegate} call --connect {service.endpoint}")
            done = subprocess.run(typed, shell=True, capture_output=True, text=True, check=False)
            printed = (done.stdout or done.stderr).strip()
            assert printed == expected, command
            checked += 1
    assert checked > 15
