"""This tree and another commit of it, measured in turn: what a change has cost or won.

The other commit is taken out of git into a temporary folder and runs with the packages of this environment, so that only the
code of the project differs. Each measurement is a process of its own, `python -m tidegate.benchmarks WORKLOAD --json` in one of
the two trees, so that the load generator of a commit calls a service of the same. Every round measures both, first and last in
turn; a ratio is taken within a round, the median over rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tidegate.benchmarks.figures import results
from tidegate.benchmarks.figures.compare import Ratio, compare, summarise
from tidegate.benchmarks.instructions import Instructions
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.plan import Measurement
from tidegate.benchmarks.processes import REPOSITORY, scratch_folder

T = TypeVar("T")
HERE = "this tree"
_SECONDS_MAX = 900


class _Measured(msgspec.Struct):
    """What is read of the result of another commit, whose other fields may differ."""

    measurements: list[Measurement]


@dataclass(frozen=True)
class Tree:
    name: str
    folder: Path

    def run(self, arguments: Sequence[str]) -> list[Measurement]:
        """Raises BenchmarkFailed."""
        found = self._run([*arguments, "--no-save"], _Measured).measurements
        return [msgspec.structs.replace(one, peer=self.name) for one in found]

    def instructions(self, arguments: Sequence[str] = ()) -> list[Instructions]:
        """By part. Raises BenchmarkFailed."""
        return self._run(["micro", "--instructions", *arguments], list[Instructions])

    def _run(self, arguments: Sequence[str], result: type[T]) -> T:
        command = [sys.executable, "-m", "tidegate.benchmarks", *arguments, "--json"]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        try:
            ended = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=_SECONDS_MAX, check=False
            )
        except subprocess.TimeoutExpired:
            raise BenchmarkFailed(f"{self.name} was not done after {_SECONDS_MAX} s: fewer --requests?") from None
        if ended.returncode:
            last = ended.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise BenchmarkFailed(f"{self.name} cannot be measured by `{' '.join(arguments)}`: {last[0]}")
        try:
            return msgspec.json.decode(ended.stdout, type=result)
        except msgspec.DecodeError as error:
            raise BenchmarkFailed(f"{self.name} reports in another form, and is too old for this: {error}") from error


@contextlib.contextmanager
def other_tree(revision: str, parent: str | None) -> Iterator[Tree]:
    """The files of that commit, until the end. Raises BenchmarkFailed."""
    if not results.IS_TREE:
        raise BenchmarkFailed("this needs the repository: what is installed has no other commits")
    try:
        name = _git("rev-parse", "--short=12", "--verify", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
    except BenchmarkFailed:
        raise BenchmarkFailed(f"git knows no commit {revision!r} here") from None
    with scratch_folder(parent) as folder:
        subprocess.run(["tar", "-x", "-C", str(folder)], input=_git("archive", name), check=True)
        tree = Tree(name, folder)
        _check_that_it_is_run(tree)
        yield tree


def _git(*arguments: str) -> bytes:
    ended = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, check=False)
    if ended.returncode:
        raise BenchmarkFailed(f"git {arguments[0]}: {ended.stderr.decode(errors='replace').strip()}")
    return ended.stdout


def _check_that_it_is_run(tree: Tree) -> None:
    """And not what is installed; and with packages that it can do with."""
    code = "import tidegate.benchmarks.__main__ as found; print(found.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tree.folder)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tree.folder, env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise BenchmarkFailed(
            f"{tree.name} does not run with the packages installed here: {ended.stderr.strip().splitlines()[-1]}"
        )
    if not Path(ended.stdout.strip()).resolve().is_relative_to(tree.folder.resolve()):
        raise BenchmarkFailed(f"python runs {ended.stdout.strip()} in place of {tree.name}")


def measure(options: argparse.Namespace, begin: Callable[[str], None]) -> results.Result:
    """Raises BenchmarkFailed."""
    measurements: list[Measurement] = []
    with other_tree(options.revision, options.folder) as other, scratch_folder(options.folder) as folder:
        begin("looking at the machine")
        machine = results.machine_facts(folder)
        trees = (Tree(HERE, REPOSITORY), other)
        for number in range(options.rounds):
            for tree in trees if number % 2 == 0 else trees[::-1]:
                for workload in options.workload:
                    begin(f"round {number + 1} of {options.rounds}: {tree.name}, {workload}")
                    measurements += tree.run([workload, *_passed_on(options)])
    return results.Result(
        command="versus",
        at=results.now_utc(),
        commit=results.commit(),
        machine=machine,
        settings=_settings(vars(options)),
        summaries=summarise(measurements),
        ratios=compare(measurements, HERE, other.name),
        measurements=measurements,
    )


class Change(msgspec.Struct, frozen=True):
    """Instructions of a call, in one part."""

    part: str
    here: float
    there: float
    against: str

    @property
    def ratio(self) -> float:
        return self.here / self.there


def count(options: argparse.Namespace) -> list[Change]:
    """Raises BenchmarkFailed."""
    smoke = ["--smoke"] if options.smoke else []
    with other_tree(options.revision, options.folder) as other:
        there = {one.part: one.per_call for one in other.instructions(smoke)}
        here = Tree(HERE, REPOSITORY).instructions(smoke)
    return [Change(one.part, one.per_call, there[one.part], other.name) for one in here if one.part in there]


def steps(options: argparse.Namespace) -> int:
    """How often `measure` says that it begins something."""
    return int(1 + 2 * options.rounds * len(options.workload))


def _passed_on(options: argparse.Namespace) -> list[str]:
    numbers = ",".join(map(str, options.concurrency))
    passed = ["--route", options.route, "--load", options.load, "--concurrency", numbers, "--rounds", "1"]
    for name in ("requests", "workers"):
        if (value := getattr(options, name)) is not None:
            passed += [f"--{name}", str(value)]
    return [*passed, "--smoke"] if options.smoke else passed


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("command", "folder", "json")}


def longer(changes: Sequence[Change], at_least: float) -> list[str]:
    """A line for each part that takes so many more instructions that it would have less than that share of the rate."""
    return [
        f"{one.part}: {one.here:,.0f} instructions against {one.there:,.0f} of {one.against}, "
        f"{1 / one.ratio:.3f} is less than {at_least:g}"
        for one in changes
        if one.ratio * at_least > 1
    ]


def slower(ratios: Sequence[Ratio], at_least: float) -> list[str]:
    """A line for each case in which this tree has not that share of the other's rate."""
    return [
        f"{one.workload}, {one.route}, {one.concurrency} at once: {one.rate:.3f} of {one.against} "
        f"({one.rate_min:.3f} to {one.rate_max:.3f}), less than {at_least:g}"
        for one in ratios
        if one.rate < at_least
    ]
