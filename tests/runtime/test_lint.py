"""`tidegate lint`: each kind of mistake is named with its line, and what is right is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tidegate.runtime.cli.cli import main
from tidegate.runtime.lint import findings

HEAD = """import asyncio
import time
from tidegate import DurableObject
CACHE = {}
class C(DurableObject):
    async def m(self):
"""
WRONG = {
    "self.count = 1": "memory",
    "self.count += 1": "memory",
    "time.sleep(1)": "blocks",
    "open('x')": "blocks",
    "return self.storage.get('n')": "await",
    "self.storage.list()": "await",
    "self.stub(C, 'b').m()": "await",
    "CACHE['a'] = 1": "module",
    "asyncio.create_task(self.m())": "task",
    "self.seen.append(1)": "grows",
}
RIGHT = [
    "await asyncio.sleep(1)",
    "return await self.storage.get('n')",
    "self.storage.put('n', 1)",
    "await self.stub(C, 'b').m()",
    "self.count = await self.storage.get('n', 0)",
    "self.spawn(self.m())",
    "task = asyncio.create_task(self.m())",
    "self.count = 1  # tidegate: ignore",
    "self.seen.append(1); self.seen.pop()",
]


@pytest.mark.parametrize("line", WRONG)
def test_a_mistake_is_named_with_its_line(line: str) -> None:
    assert [(each.line, each.rule) for each in findings(f"{HEAD}        {line}\n")] == [(7, WRONG[line])]


@pytest.mark.parametrize("line", RIGHT)
def test_what_is_right_is_left_alone(line: str) -> None:
    assert not findings(f"{HEAD}        {line}\n")


def test_a_call_of_another_object_inside_a_transaction_is_named() -> None:
    block = "        async with self.storage.transaction() as txn:\n            await self.stub(C, 'b').m()\n"
    assert [each.rule for each in findings(HEAD + block)] == ["transaction"]


def test_the_examples_have_nothing_that_is_named() -> None:
    for path in sorted((Path(__file__).parents[2] / "examples").glob("*.py")):
        assert not findings(path.read_text()), path


def test_the_command_prints_what_it_has_found_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = tmp_path / "app.py"
    app.write_text(f"{HEAD}        time.sleep(1)\n")
    assert main(["lint", str(app)]) == 1
    assert capsys.readouterr().out.startswith(f"{app}:7: blocks: time.sleep holds up every object")
    assert main(["lint", str(app), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["rule"] == "blocks"
    app.write_text("x = 1\n")
    assert main(["lint", str(app)]) == 0
    app.write_text("def\n")
    assert main(["lint", str(app)]) == 1
    assert "mend it first" in capsys.readouterr().err
    assert main(["lint", str(tmp_path / "none.py")]) == 1
    assert "there is no such file" in capsys.readouterr().err
