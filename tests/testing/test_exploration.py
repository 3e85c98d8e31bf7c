"""Tests of users under many schedules: what is found, what is told, what is no fault of theirs."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.testing.bank import Account
from tests.testing.test_plugin import run
from tidegate import Interrupted, MethodRaised, ShardLost
from tidegate.shard.objects.methods import AppError
from tidegate.testing import Objects, explore
from tidegate.testing.exploration import Exploration, place_of, tells_of_mishap
from tidegate.testing.schedule import Schedule

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


FAILS = """
import asyncio
import pytest
from app import Account
from tidegate.testing import explore

async def pay(objects):
    await objects(Account, "alice").deposit(100)
    await objects.attempt(objects(Account, "alice").transfer("bob", 30))
    return await objects(Account, "alice").balance() + await objects(Account, "bob").balance()

@explore()
async def test_fails_by_saying_so(objects):
    if await pay(objects) != 100:
        pytest.fail("money is lost")

@explore()
async def test_fails_where_nothing_is_raised(objects):
    total = await pay(objects)
    with pytest.raises(ZeroDivisionError):
        1 / (total - 100)

@explore()
async def test_fails_in_a_group(objects):
    async def look():
        if await pay(objects) != 100:
            pytest.fail("money is lost")
    async with asyncio.TaskGroup() as group:
        group.create_task(look())

@explore()
async def test_is_skipped(objects):
    if await pay(objects) != 100:
        pytest.skip("not today")

@explore()
async def test_is_known_to_fail(objects):
    if await pay(objects) != 100:
        pytest.xfail("as we know")
"""


def test_a_test_that_says_that_it_fails_names_its_seed_as_well_and_one_that_is_skipped_is_skipped(project: Path) -> None:
    (project / "test_app.py").write_text(FAILS)
    output = run(project, "-p", "no:asyncio")
    assert "3 failed, 1 skipped, 1 xfailed" in output, output
    assert output.count("--tidegate-seed=") == 3
    assert output.count("  the worker of Account/alice crashes at 'after_commit'") >= 3
    assert output.count("tidegate: what happened:") == 3


def test_what_ends_the_whole_run_ends_it(project: Path) -> None:
    (project / "test_app.py").write_text(FAILS.replace('pytest.fail("money is lost")', 'pytest.exit("enough")', 1))
    output = run(project, "-p", "no:asyncio")
    assert "Exit: enough" in output
    assert "failed" not in output


def test_what_was_explored_is_said_where_tests_run_in_several_processes(project: Path) -> None:
    output = run(project, "-p", "no:asyncio", "-p", "xdist", "-n", "2", "--junitxml", "junit.xml")
    assert "1 failed, 1 passed" in output, output
    assert "tidegate explored test_app.py::test_deposits_add_up: 50 schedules" in output
    assert 'name="tidegate_explored" value="50 schedules' in (project / "junit.xml").read_text()


WORKERS = """
import pytest
from app import Account
from tidegate.testing import explore

@pytest.mark.tidegate(workers=1)
@explore(schedules=3)
async def test_has_what_its_mark_says(objects):
    assert len(objects._service.workers) == 1

@explore(schedules=3)
async def test_has_three(objects):
    assert len(objects._service.workers) == 3

@pytest.mark.tidegate(start=__import__("datetime").datetime(2030, 1, 1).astimezone())
@explore(schedules=3, workers=2)
async def test_has_what_it_says(objects):
    assert (objects.clock.now.year, len(objects._service.workers)) == (2030, 2)

@pytest.mark.tidegate(workers=2)
@explore(workers=2, schedules=3)
async def test_says_it_twice(objects):
    assert len(objects._service.workers) == 2

@pytest.mark.tidegate(workers=2)
@explore(workers=4)
async def test_contradicts_itself(objects): ...
"""


def test_the_mark_of_a_test_says_how_many_workers_there_are(project: Path) -> None:
    (project / "test_app.py").write_text(WORKERS)
    output = run(project, "-p", "no:asyncio")
    assert "1 failed, 4 passed" in output, output
    assert "@explore(workers=4) and @pytest.mark.tidegate(workers=2) contradict each other" in output


def test_a_failure_is_told_from_another_of_the_same_kind_by_its_line() -> None:
    """Else the shortest schedule may be that of another mistake, and the one that was found is lost."""

    async def test(objects: Objects) -> None:
        taken = {number for number in range(3) if objects.explored(f"point {number}")}
        if taken >= {0, 1}:
            raise AssertionError("both")
        if taken >= {1}:
            raise AssertionError("the other one")

    exploration: Exploration = explore()(test).tidegate_exploration  # type: ignore[attr-defined]  # what the mark leaves
    objects = Objects()
    error = exploration._error(objects, lambda: test(objects), Schedule({0: 1, 1: 1, 2: 1}))
    assert str(error) == "both"
    assert error is not None
    assert exploration._shortest(objects, lambda: test(objects), {0: 1, 1: 1, 2: 1}, error) == {0: 1, 1: 1}
    objects.abandon()


def test_the_place_of_a_failure_is_a_line_of_the_test_and_none_of_what_it_is_written_with() -> None:
    def failed(test: Callable[[], object]) -> BaseException:
        with pytest.raises(pytest.fail.Exception) as caught:
            test()
        return caught.value

    def raises_not() -> None:
        with pytest.raises(ValueError, match="never"):
            pass

    errors = [failed(raises_not), failed(raises_not), failed(lambda: pytest.fail("so")), failed(lambda: pytest.fail("so"))]
    one, same, other, another = map(place_of, errors)
    assert one == same
    assert other == another != one
    assert {each[1] for each in (one, other)} == {__file__}


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
    run_explored(exploration, test)
    return exploration


def run_explored(exploration: Exploration, test: Any) -> None:
    objects = Objects()
    try:
        exploration.run(objects, lambda: test(objects), "a test", None)
    finally:
        objects.abandon()


def test_a_run_that_only_tells_of_its_mishap_is_cut_short_and_says_nothing() -> None:
    async def naive(objects: Objects) -> None:
        await objects(Account, "a").pay("b", 10)

    exploration = explored(naive, schedules=100)
    assert exploration.cut_short > 0
    assert "cut short by a mishap" in exploration.summary


def test_an_error_as_of_a_mishap_is_a_failure_where_none_has_happened() -> None:
    """The app raises it by itself, or loses what no crash has taken."""

    async def raises(objects: Objects) -> None:
        await objects(Account, "a").deposit(1)
        raise ShardLost("by itself")

    with pytest.raises(ShardLost, match="by itself"):
        explored(raises, schedules=20)


def test_a_test_that_is_cancelled_has_failed_and_is_told_with_its_seed() -> None:
    async def cancelled(objects: Objects) -> None:
        await objects(Account, "a").deposit(1)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError) as raised:
        explored(cancelled, schedules=5)
    assert "--tidegate-seed=natural" in "".join(raised.value.__notes__)


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
