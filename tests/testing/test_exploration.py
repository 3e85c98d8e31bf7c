"""Tests of users under many schedules: what is found, what is told, what is no fault of theirs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.testing.bank import Account
from tests.testing.test_plugin import run
from tidegate import Interrupted, MethodRaised
from tidegate.shard.objects.methods import AppError
from tidegate.testing import Objects, explore
from tidegate.testing.exploration import Exploration, tells_of_mishap

APP = """
import asyncio
from tidegate import DurableObject

class Account(DurableObject):
    async def balance(self) -> int:
        return await self.storage.get("balance", 0)

    async def deposit(self, amount: int) -> None:
        await self.storage.put("balance", await self.balance() + amount)

    async def transfer(self, to: str, amount: int) -> None:
        await self.deposit(-amount)
        await self.stub(Account, to).deposit(amount)
"""
TESTS = """
import asyncio
from app import Account
from tidegate.testing import explore

@explore()
async def test_no_money_is_lost(objects):
    alice, bob = objects(Account, "alice"), objects(Account, "bob")
    await alice.deposit(100)
    await objects.attempt(alice.transfer("bob", 30))
    await objects.clock.advance("1h")
    assert await alice.balance() + await bob.balance() == 100

@explore(schedules=50)
async def test_deposits_add_up(objects):
    alice = objects(Account, "alice")
    await asyncio.gather(*(alice.deposit(1) for _ in range(3)))
    assert await alice.balance() == 3
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "test_app.py").write_text(TESTS)
    return tmp_path


@pytest.mark.timeout(400)
def test_a_failure_names_its_seed_and_tells_what_happened_and_the_seed_runs_it_again(project: Path) -> None:
    output = run(project, "-p", "no:asyncio")
    assert "1 failed, 1 passed" in output, output
    assert "assert (70 + 0) == 100" in output
    assert "the worker of Account/alice crashes at 'after_commit'" in output
    assert "Account/alice put('balance', 70)" in output
    assert "test_deposits_add_up: 50 schedules" in output
    seed = output.partition("--tidegate-seed=")[2].split()[0]
    again = run(project, "-p", "no:asyncio", f"--tidegate-seed={seed}", "-k", "money")
    assert "1 failed" in again, again
    assert story(again) == story(output)
    natural = run(project, "-p", "no:asyncio", "--tidegate-seed=natural")
    assert "2 passed" in natural, natural


def story(output: str) -> str:
    return output.partition("tidegate: what happened:")[2].partition("test_app.py:")[0]


def test_what_a_fixture_has_stored_is_no_part_of_an_exploration(project: Path) -> None:
    fixture = "\nimport pytest\n\n@pytest.fixture(autouse=True)\nasync def filled(objects):\n"
    (project / "test_app.py").write_text(TESTS + fixture + "    await objects(Account, 'alice').deposit(1)\n")
    assert "begins with nothing stored" in run(project, "-p", "no:asyncio")


@explore(schedules=200, crashes=2, failures=True)
async def test_what_is_right_passes_under_every_schedule(objects: Objects) -> None:
    account = objects(Account, "a")
    for amount in (1, 2, 3):
        await account.deposit(amount)
    assert objects.storage(account)["balance"] == 6


def explored(test: Any, **options: Any) -> Exploration:
    """Runs it without pytest."""
    exploration: Exploration = explore(**options)(test).tidegate_exploration
    objects = Objects()
    try:
        exploration.run(objects, lambda: test(objects), "a test", None)
    finally:
        objects.abandon()
    return exploration


def test_a_run_that_only_tells_of_its_mishap_is_cut_short_and_says_nothing() -> None:
    async def naive(objects: Objects) -> None:
        await objects(Account, "a").pay("b", 10)

    exploration = explored(naive, schedules=100)
    assert exploration.cut_short > 0
    assert "cut short by a mishap" in exploration.summary


def test_the_same_test_is_explored_the_same_way_each_time() -> None:
    lines: list[list[str]] = [[], []]
    for seen in lines:

        async def pays(objects: Objects, seen: list[str] = seen) -> None:
            await objects.attempt(objects(Account, "a").pay("b", 10))
            seen.append(f"{objects.clock.now} {dict(objects.storage(objects(Account, 'b')))}")

        explored(pays, schedules=80, crashes=2)
    assert lines[0] == lines[1]
    assert len(set(lines[0])) > 1


def test_errors_of_the_app_are_told_from_those_of_a_mishap() -> None:
    assert tells_of_mishap(Interrupted("x"))
    assert tells_of_mishap(MethodRaised("x", details={"type": "ShardLost"}))
    assert not tells_of_mishap(ValueError("x"))
    assert not tells_of_mishap(MethodRaised("x", details={"type": "app.Wrong"}))


def test_no_process_is_started_for_an_exploration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    explored(test_what_is_right_passes_under_every_schedule, schedules=5)


def test_what_cannot_be_explored_is_refused_where_it_is_written() -> None:
    def plain() -> None: ...

    with pytest.raises(TypeError, match="async def"):
        explore()(plain)  # type: ignore[type-var]  # what is refused
    with pytest.raises(ValueError, match="schedules=0"):
        explore(schedules=0)
    with pytest.raises(ValueError, match="workers=0"):
        explore(workers=0)
    with pytest.raises(ValueError, match="a worker at least"):
        Objects(workers=0)
    with Objects() as objects, pytest.raises(AppError, match="int is no object class: derive it from"):
        objects(int, "a")  # type: ignore[type-var]  # likewise
