"""What a type checker makes of a stub."""

from __future__ import annotations

from pathlib import Path

import mypy.api

PROGRAM = """
import asyncio
from typing import Any, assert_type
from tidegate.runtime.client.asynchronous import connect

class Counter:
    async def add(self, amount: int = 1) -> int:
        return amount

async def main() -> None:
    async with connect("tcp://127.0.0.1:7711") as client:
        counter = client.stub(Counter, "alice", timeout=1.0)
        assert_type(counter, Counter)
        assert_type(await counter.add(2), int)
        assert_type(await client.stub("Counter", "alice").add(2), Any)
        async with asyncio.TaskGroup() as tasks:
            assert_type(tasks.create_task(counter.add(2)), asyncio.Task[int])
            assert_type(await asyncio.create_task(client.call("Counter", "alice", "add")), Any)
            assert_type(await asyncio.gather(counter.add(2), counter.add(3)), tuple[int, int])
        await counter.add("x")
        await counter.typo()
"""


def test_a_stub_made_from_a_class_is_checked_as_that_class_and_one_made_from_a_name_is_not(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    said, _, _ = mypy.api.run(["--strict", "--no-error-summary", "--hide-error-context", str(program)])
    errors = [line.partition(": error: ")[2] for line in said.splitlines() if ": error: " in line]
    assert len(errors) == 2, said
    assert "incompatible type" in errors[0]
    assert 'no attribute "typo"' in errors[1]
