"""The examples of the documentation, run as a reader would: files are served, commands typed, answers compared."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.support.service import Serve
from tidegate.runtime.errors import BY_CODE

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|console|transcript json|transcript hex)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Command and expected output of each `$ ` line."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output.strip()


def exchanges(text: str) -> list[tuple[str, str]]:
    sent = re.findall(r"^C> (.*)$", text, re.MULTILINE)
    received = re.findall(r"^S> (.*)$", text, re.MULTILINE)
    assert len(sent) == len(received) > 0
    return list(zip(sent, received, strict=True))


def write_files(page: Path, folder: Path) -> None:
    """Blocks that begin with `# file: NAME` are appended to that file, in order."""
    for text in blocks(page, "python"):
        first, _, rest = text.partition("\n")
        if first.startswith("# file: "):
            with (folder / first.removeprefix("# file: ")).open("a") as file:
                file.write(rest + "\n\n")


@pytest.mark.timeout(240)
def test_the_guide_to_objects_shows_what_really_happens(tmp_path: Path, serve: Serve) -> None:
    page = DOCS / "objects.md"
    write_files(page, tmp_path)
    service = serve(2, app=str(tmp_path / "shop.py"))
    service.expect(" raised: ", "Traceback", "ValueError")
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


def test_the_transcripts_of_the_protocol_are_what_is_said_on_the_wire(serve: Serve) -> None:
    page = DOCS / "protocol.md"
    service = serve(2)
    with zmq.Context() as context, context.socket(zmq.REQ) as req, context.socket(zmq.DEALER) as dealer:
        for socket in (req, dealer):
            socket.linger = 0
            socket.rcvtimeo = 10_000
            socket.connect(service.endpoint)
        for text in blocks(page, "transcript json"):
            for sent, received in exchanges(text):
                req.send_string(sent)
                assert req.recv_string() == received, sent
        for text in blocks(page, "transcript hex"):
            for sent, received in exchanges(text):
                dealer.send(bytes.fromhex(sent))
                assert dealer.recv() == bytes.fromhex(received), sent


def test_every_error_code_is_on_the_page_with_its_outcome() -> None:
    text = (DOCS / "protocol.md").read_text()
    for code, error in BY_CODE.items():
        rows = [line for line in text.splitlines() if line.startswith("|") and line.count("|") == 5]
        row = next(line for line in rows if f"`{code}`" in line.split("|")[1])
        assert error.outcome_default in row, code
        assert row.split("|")[3].strip() == ("yes" if error.retryable_default else "no"), code


def test_the_readme_has_a_client_that_works_as_it_stands(serve: Serve) -> None:
    readme = DOCS.parent / "README.md"
    client = next(text for text in blocks(readme, "python") if "zmq.REQ" in text)
    service = serve(1)
    done = subprocess.run(
        [sys.executable, "-c", client.replace("tcp://127.0.0.1:7711", service.endpoint)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "b'[1,0,0]'\n"
