"""State in memory: of an object, and of a module; and which of it may be there."""

from __future__ import annotations

import pytest

from tests.runtime.lint.test_awaits import found
from tests.runtime.lint.test_findings import HEAD
from tidegate.runtime.lint.findings import findings


@pytest.mark.parametrize(("line", "rules"), [
    ("self.count = 1", ["memory"]),
    ("self.count += 1", ["memory"]),
    ("self.count: int = 1", ["memory"]),
    ("self.a, self.b = 1, 2", ["memory", "memory"]),
    ("self.a, (self.b, *self.c) = 1, (2, 3)", ["memory", "memory", "memory"]),
    ("for self.a in (1, 2): pass", ["memory"]),
    ("self.stats['calls'] += 1", ["memory"]),
    ("self.seen.append(1)", ["grows"]),
    ("self.seen[self.id] = 1", ["grows"]),
    ("key = 1; self.counts[key] += 1", ["grows"]),
    ("key = 1; self.rooms[key]['n'].add(2)", ["grows"]),
    ("heapq.heappush(self.due, 1)", ["grows"]),
    ("CACHE['a'] = 1", ["module"]),
    ("CACHE.update(a=1)", ["module"]),
    ("del CACHE['a']", ["module"]),
    ("global TOTAL; TOTAL = 1", ["module"]),
])  # fmt: skip
def test_state_that_is_lost_or_shared_is_named(line: str, rules: list[str]) -> None:
    assert found(line) == [(1, rule) for rule in rules]


@pytest.mark.parametrize("line", [
    "self.count = await self.storage.get('n', 0)",
    "rows = await self.storage.list(); count = len(rows); self.count = count",
    "async with self.storage.transaction() as txn: self.count = await txn.get('n')",
    "for key, row in (await self.storage.list()).items(): self.rows[key] = row",
    "self.seen.append(1); self.seen.pop()",
    "self.seen[self.id] = 1; del self.seen[self.id]",
    "heapq.heappush(self.due, 1); heapq.heappop(self.due)",
    "self.due.append(1); heapreplace(self.due, 2)",
    "self.busy = True; self.x = await self.storage.get('x')\n        try: await self.m()\n        finally: self.busy = False",
    "self.task = self.spawn(self.m())",
    "self.other = self.stub(C, 'b')",
    "self.ready = asyncio.Event()",
    "all, self.ring = self.ring, []; rung = asyncio.get_running_loop().create_future(); self.ring.append(rung)",
    "await self.stub(C, 'b').add(1)",
    "CACHE = {}; CACHE['a'] = 1",
    "return CACHE.get('a')",
    "self.count: int",
    "x = {}; x['a'] = 1",
])  # fmt: skip
def test_what_may_be_in_memory_is_left_alone(line: str) -> None:
    assert found(line) == []


@pytest.mark.parametrize(("made", "rules"), [
    ("self.seen = []", ["grows"]),
    ("self.seen = deque()", ["grows"]),
    ("self.seen = deque(maxlen=9)", []),
    ("self.seen = Digest()", []),
    ("self.seen = list((await self.storage.list()).values())", []),
])  # fmt: skip
def test_whether_something_grows_depends_on_what_it_is(made: str, rules: list[str]) -> None:
    start = f"    async def on_start(self):\n        {made}\n"
    assert [each.rule for each in findings(f"{HEAD}        self.seen.append(1)\n{start}")] == rules


def test_what_a_base_in_another_module_does_is_looked_at_as_well() -> None:
    add = "        self.seen.append(n)\n        self.seen.clear()\n"
    base = f"import tidegate\nclass Base(tidegate.DurableObject):\n    async def add(self, n):\n{add}"
    app = "from base import Base\nclass A(Base):\n    async def m(self, n):\n        self.seen.append(n)\n        self.n = n\n"
    assert [(each.line, each.rule) for each in findings(app, "app", {"base": base}.get)] == [(5, "memory")]


def test_what_is_made_anew_at_each_start_may_be_made_by_another_method() -> None:
    load = "    async def on_start(self):\n        await self._load()\n    async def _load(self):\n        self.n = 1\n"
    assert not findings(f"{HEAD}        self.n = 2\n{load}")


def test_what_a_function_of_the_module_changes_for_a_handler_is_shared_too() -> None:
    helper = "def keep(n):\n    CACHE[n] = 1\ndef of_nobody(n):\n    CACHE[n] = 1\n"
    assert [(each.line, each.rule) for each in findings(f"{HEAD}        keep(1)\n{helper}")] == [(9, "module")]
