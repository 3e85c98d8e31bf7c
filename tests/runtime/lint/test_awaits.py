"""Whose answer nobody waits for: what is found, and what is left alone because an `await` may come."""

from __future__ import annotations

import pytest

from tests.runtime.lint.test_findings import HEAD
from tidegate.runtime.lint.findings import findings


def found(*lines: str) -> list[tuple[int, str]]:
    """Line, counted from the first of the method, and rule."""
    return [(each.line - 6, each.rule) for each in findings(HEAD + "".join(f"        {line}\n" for line in lines))]


@pytest.mark.parametrize("line", [
    "return self.storage.get('n')",
    "return {'value': self.storage.get('n')}",
    "return [self.storage.get('n')]",
    "self.storage.list()",
    "x = self.storage.get('n') or 0; return x",
    "x = self.storage.get('n'); return x + 1",
    "x, y = self.storage.get('n'), 1; return x + y",
    "x = self.storage.get('n'); return {'x': x}",
    "x = 1; x += self.storage.get('n'); return x",
    "return 1 if self.storage.get('n') else 2",
    "return f'{self.storage.get(\"n\")}'",
    "return int(self.storage.get('n'))",
    "return sum(self.storage.get(k) for k in 'ab')",
    "if self.storage.get('n'): return 1",
    "if not self.storage.get_alarm(): return 1",
    "if self.storage.delete('n'): return 1",
    "for key in self.storage.list(): print(key)",
    "return [key for key in self.storage.list()]",
    "return self.storage.list().items()",
    "return self.storage.get_many(['a'])['a']",
    "self.storage.put('a', self.storage.get('b'))",
    "self.storage.sync()",
    "self.n = self.storage.get('n')",
    "storage = self.storage; return storage.get('n')",
    "self.stub(C, 'b').m()",
    "b = self.stub(C, 'b'); b.m()",
    "b = self.stub(C, 'b'); return b.m() + 1",
    "b = self.stub(C, 'b'); x = b.m()",
    "b = self.stub(C, 'b'); return b.m()",
    "a, b = self.stub(C, 'a'), self.stub(C, 'b'); b.m()",
    "if self.stub(C, 'b').m(): return 1",
    "await self.stub(C, 'b').m(self.stub(C, 'c').m())",
    "self.m()",
    "super().on_start()",
])  # fmt: skip
def test_what_is_not_awaited_is_named(line: str) -> None:
    assert found(line) == [(1, "await")] or (line.startswith("self.n =") and {rule for _, rule in found(line)} == {"await"})


@pytest.mark.parametrize("line", [
    "return await self.storage.get('n')",
    "return await self.storage.get('n') or 0",
    "return {'value': await self.storage.get('n')}",
    "self.storage.put('n', 1)",
    "self.storage.delete('n')",
    "self.storage.set_alarm(1)",
    "read = self.storage.get('n'); return await read",
    "a, b = self.storage.get('n'), 1; return await a + b",
    "reads = [self.storage.get(k) for k in 'ab']; return await asyncio.gather(*reads)",
    "reads = {k: self.storage.get(k) for k in 'ab'}; return {k: await v for k, v in reads.items()}",
    "reads = []; reads.append(self.storage.get('n')); return await asyncio.gather(*reads)",
    "reads = {}; reads['n'] = self.storage.get('n'); return await reads['n']",
    "return await asyncio.gather(*(self.storage.get(k) for k in 'ab'), self.stub(C, 'b').m())",
    "return await asyncio.gather(*list(self.storage.get(k) for k in 'ab'))",
    "async with asyncio.TaskGroup() as tasks: tasks.create_task(self.stub(C, 'b').m())",
    "return await asyncio.wait_for(self.stub(C, 'b').m(), 1)",
    "return await (self.storage.get('a') if self.id.name else self.storage.get('b'))",
    "return await later(self.storage.get('n'))",
    "if (read := self.storage.get('n')): return await read",
    "b = self.stub(C, 'b'); await b.m()",
    "b = self.stub(C, 'b'); call = b.m(); await self.storage.put('n', 1); return await call",
    "self.spawn(self.m())",
    "return await self.each(lambda key: self.storage.get(key))",
    "call = self.stub(C, 'b').m(); call.add_done_callback(print)",
    "b = {}; return b.get('n')",
    "(await self.storage.get('d', {})).get('n')",
    "return self.stub(C, 'b')",
])  # fmt: skip
def test_what_may_be_awaited_is_left_alone(line: str) -> None:
    assert found(line) == []


def test_a_function_that_is_no_coroutine_hands_it_to_its_caller() -> None:
    inside = "        def read():\n            return self.storage.get('n')\n        return await read()\n"
    assert not findings(HEAD + inside)
    assert not findings(HEAD.replace("async def m", "def _read") + "        return self.storage.get('n')\n")


def test_what_is_kept_by_the_object_may_be_awaited_elsewhere() -> None:
    start = "class D(DurableObject):\n    async def on_start(self):\n        self.call = self.stub(C, 'b').m()\n"
    rest = "    async def n(self):\n        return {}self.call\n"
    assert not findings(HEAD + "        pass\n" + start + rest.format("await "))
    assert [each.rule for each in findings(HEAD + "        pass\n" + start + rest.format(""))] == ["await"]


def test_a_stub_that_the_object_keeps_is_a_stub() -> None:
    start = "class D(DurableObject):\n    async def on_start(self):\n        self.other = self.stub(C, 'b')\n"
    rest = "    async def n(self):\n        self.other.m()\n        await self.other.m()\n"
    assert [(each.line, each.rule) for each in findings(HEAD + "        pass\n" + start + rest)] == [(12, "await")]


@pytest.mark.parametrize("lines", [
    ["async with self.storage.transaction() as txn:", "    await self.stub(C, 'b').m()"],
    ["b = self.stub(C, 'b')", "async with self.storage.transaction():", "    await b.m()"],
    ["storage = self.storage; b = self.stub(C, 'b')", "async with storage.transaction():", "    await asyncio.gather(b.m())"],
])  # fmt: skip
def test_a_call_of_another_object_inside_a_transaction_is_named(lines: list[str]) -> None:
    assert found(*lines) == [(len(lines), "transaction")]


def test_what_is_done_around_a_transaction_is_left_alone() -> None:
    block = ["async with self.storage.transaction() as txn:", "    b = self.stub(C, await txn.get('to'))", "await b.m()"]
    assert found(*block) == []
    assert found(block[0], "    return txn.get('n')") == [(2, "await")]


@pytest.mark.parametrize("line", [
    "asyncio.create_task(self.m())",
    "asyncio.ensure_future(self.m())",
    "asyncio.get_running_loop().create_task(self.m())",
    "loop = asyncio.get_running_loop(); loop.create_task(self.m())",
    "task = asyncio.create_task(self.m())",
    "loop = asyncio.get_event_loop(); task = loop.create_task(self.m())",
])  # fmt: skip
def test_a_task_that_nobody_hears_of_is_named(line: str) -> None:
    assert found(line) == [(1, "task")]


@pytest.mark.parametrize("line", [
    "task = asyncio.create_task(self.m()); await task",
    "task = asyncio.create_task(self.m()); self.tasks.add(task); task.add_done_callback(self.tasks.discard)",
    "await asyncio.create_task(self.m())",
    "self.task = asyncio.create_task(self.m())",
    "async with asyncio.TaskGroup() as group: group.create_task(self.m())",
])  # fmt: skip
def test_a_task_that_somebody_looks_at_is_left_alone(line: str) -> None:
    assert found(line) == []
