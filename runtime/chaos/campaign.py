"""One run: the stage is built, callers call, faults strike, and in the end every object is asked once more, before and after a
clean stop and start.

Whatever happens, everything that was started is stopped, and what was found so far is reported.
"""

from __future__ import annotations

import collections
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec

from tidegate.runtime.addresses import free_port
from tidegate.runtime.chaos.calls.callers import CallerThread, Contract, start_callers
from tidegate.runtime.chaos.calls.own_calls import OwnCalls
from tidegate.runtime.chaos.calls.recorder import Recorder
from tidegate.runtime.chaos.calls.workload import Call, Roster
from tidegate.runtime.chaos.faults.all import STRIKERS
from tidegate.runtime.chaos.faults.catalogue import FAULTS
from tidegate.runtime.chaos.faults.fault import Fault, Stage
from tidegate.runtime.chaos.faults.schedule import Strike, strikes
from tidegate.runtime.chaos.stage.cluster import SERVERS, ChaosCluster, machines
from tidegate.runtime.chaos.stage.disk import Disk
from tidegate.runtime.chaos.stage.network import MachineNetwork
from tidegate.runtime.chaos.stage.proxy import Proxy
from tidegate.runtime.chaos.stage.sampling import Sampler
from tidegate.runtime.chaos.stage.service import ChaosService, ServiceFailed
from tidegate.runtime.chaos.stage.syncs import Syncs
from tidegate.runtime.chaos.verdict.history import Kind, RunHistory, Violation
from tidegate.runtime.chaos.verdict.models import MODELS
from tidegate.runtime.chaos.verdict.money import find_money
from tidegate.runtime.chaos.verdict.report import NOT_DONE, ChaosReport
from tidegate.runtime.errors import OperatorError

GRACE_S = 5.0
"""After its timeout a call must have been answered within this time."""
LOOK_S = 0.25
"""Between two looks at what has ended."""
PROGRESS_S = 2.0
MISSED_MAX = 50
"""After so many strikes in a row that could not do what they wanted the run proves nothing."""
SAMPLES = 60
SAMPLE_S = 1.0, 60.0
"""Between two samples: so that there are `SAMPLES` of them, within these bounds."""
INTERRUPTED_PAUSE_S = 0.05
ALLOWED = {
    ("shard_lost", "unknown"), ("object_reset", "unknown"), ("unavailable", "refused"), ("unavailable", "unknown"),
    ("overloaded", "refused"), ("moved", "refused"), ("deadline_exceeded", "unknown"), ("deadline_exceeded", "refused"),
    ("connection_lost", "unknown"),
}  # fmt: skip
"""Errors that a fault may cause, without keys, with what each may say of the call."""

Errors = Literal["none", "of faults"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    faults: tuple[str, ...]
    seed: int
    duration_s: float
    times: int
    """Strikes after which the run ends. 0: it ends by time alone."""
    every_s: float
    callers: int
    rate: float
    """Calls a second, of all callers together. 0: as many as are answered."""
    timeout_s: float
    keys: bool
    errors: Errors
    """Which ones callers may see."""
    workers: int
    routers: int
    fs: str
    """The kind of file system of a disk of its own; empty: none."""
    size_mib: int
    hosts: int = 0
    """Of a cluster, with its NATS servers. 0: one service without."""
    network: bool = False
    """With hosts: each of them and each server is on a machine of its own, in a network of its own."""

    @property
    def stage(self) -> str:
        """In words."""
        where = "in a network of their own" if self.network else "on loopback"
        return f"{self.hosts} hosts and {SERVERS} NATS servers {where}" if self.hosts else "one service"


class Campaign:
    def __init__(self, plan: Plan, folder: Path, progress: Callable[[str], None]) -> None:
        """`folder` is empty, and gets everything. `progress` is given a line every few seconds."""
        self._plan = plan
        self._folder = folder
        self._progress = progress
        self._interrupted = threading.Event()
        self._recorder = Recorder(plan.timeout_s)
        self._roster = Roster()
        self._history = RunHistory(self._roster.retire)
        self._struck: collections.Counter[str] = collections.Counter()
        self._strikes: collections.Counter[str] = collections.Counter()
        self._missed = 0
        """Strikes in a row that could not do what they wanted."""
        self._violations: list[Violation] = []
        self._began_at = self._looked_at = self._told_at = self._answered_at = time.monotonic()
        self._answered = 0
        self._silence_s = 0.0
        self._half_paid = 0
        self._sampler: Sampler | None = None

    def interrupt(self) -> None:
        """The run ends as soon as what is under way allows, with its report. May be called by a handler of signals."""
        self._interrupted.set()

    def run(self) -> ChaosReport:
        """Raises OperatorError where the stage cannot be built."""
        with self._stage() as stage:
            try:
                stage.start()
                self._sampler = Sampler(stage.services, min(max(self._plan.duration_s / SAMPLES, SAMPLE_S[0]), SAMPLE_S[1]))
                ended_by = self._drive(stage)
                self._look_once_more(stage)
            except ServiceFailed as failed:
                ended_by = "the service failed"
                self._broken("service", "tidegate serve", str(failed))
            except OperatorError as failed:
                ended_by = "the stage failed"
                self._broken("service", "what it stands on", str(failed))
            finally:
                self._recorder.stopping.set()
            if said := stage.log_says():
                self._broken("service", "its log", said)
        return self._report(ended_by)

    # The stage

    @contextmanager
    def _stage(self) -> Iterator[Stage]:
        plan, faults = self._plan, [FAULTS[name] for name in self._plan.faults]
        with ExitStack() as stack:
            syncs = Syncs(self._folder) if any(fault.needs_syncs for fault in faults) else None
            disk = Disk(self._folder, plan.fs, plan.size_mib) if plan.fs else None
            if disk is not None:
                stack.callback(self._unmount, disk)
            cluster = stack.enter_context(self._cluster(stack)) if plan.hosts else None
            services = [self._service(disk, syncs)] if cluster is None else list(cluster.hosts.values())
            proxies = [_proxy(service.endpoint) for service in services]
            for proxy in proxies:
                stack.callback(proxy.close)
            calls = OwnCalls([service.endpoint for service in services], self._recorder, self._pause)
            stage = Stage(services, proxies, cluster, disk, syncs, self._roster, self._pause, calls)
            stack.callback(stage.kill_all)
            yield stage

    def _cluster(self, stack: ExitStack) -> ChaosCluster:
        plan = self._plan
        network = stack.enter_context(MachineNetwork(machines(plan.hosts))) if plan.network else None
        return ChaosCluster(self._folder, plan.hosts, network, workers=plan.workers, routers=plan.routers)

    def _service(self, disk: Disk | None, syncs: Syncs | None) -> ChaosService:
        return ChaosService(
            self._folder,
            (self._folder if disk is None else disk.place) / "data",
            f"tcp://127.0.0.1:{free_port()}",
            workers=self._plan.workers,
            routers=self._plan.routers,
            environment={} if syncs is None else syncs.environment,
        )

    def _unmount(self, disk: Disk) -> None:
        try:
            disk.unmount()
        except OperatorError as failed:  # What was found is told all the same.
            self._broken("service", "what it stands on", str(failed))

    # The run

    def _drive(self, stage: Stage) -> str:
        """Why it ended."""
        plan = self._plan
        rate = plan.rate / plan.callers
        routers, side_doors = ([each.endpoint for each in some] for some in (stage.services, stage.proxies))
        contract = Contract(routers, side_doors, self._recorder, self._roster, plan.keys, rate)
        callers = start_callers(plan.callers, plan.seed, contract)
        faults = {name: strikers(plan.hosts > 0)[name]() for name in plan.faults}
        self._began_at = self._answered_at = time.monotonic()
        schedule = strikes(plan.seed, plan.faults, plan.every_s, Random)
        try:
            while not (reason := self._why_it_ends(stage)):
                strike = next(schedule, None)
                self._pause(self._time_until(strike))
                if strike is not None and not self._why_it_ends(stage):
                    what = faults[strike.fault].strike(stage, strike.chance)
                    self._note_strike(strike.fault, what)
        finally:
            self._recorder.stopping.set()
            if stage.syncs is not None:
                stage.syncs.heal()
        self._join(callers)
        return reason

    def _note_strike(self, fault: str, what: str) -> None:
        """One that could not do what it wanted is told, and not counted: another one takes its place."""
        self._strikes[f"{fault}: {what}"] += 1
        if not what.startswith(NOT_DONE):
            self._struck[fault] += 1
            self._missed = 0
            return
        self._missed += 1
        if self._missed >= MISSED_MAX:
            text = f"{self._missed} faults in a row could not be made, the last one: {fault}: {what}"
            self._broken("service", "what it stands on", text)

    def _time_until(self, strike: Strike | None) -> float:
        left_s = max(0.0, self._began_at + self._plan.duration_s - time.monotonic())
        return min(left_s, PROGRESS_S) if strike is None else min(left_s, strike.after_s)

    def _why_it_ends(self, stage: Stage) -> str:
        if self._interrupted.is_set():
            return "interrupted"
        if self._history.violations or self._violations:
            return "a promise was broken"
        if self._plan.times and sum(self._struck.values()) >= self._plan.times:
            return "every strike was made"
        if time.monotonic() >= self._began_at + self._plan.duration_s:
            return "its time was over"
        if not stage.running:
            raise ServiceFailed("the supervisor has ended by itself")
        return ""

    def _join(self, callers: list[CallerThread]) -> None:
        """Every call ends by itself, within its timeout."""
        until = time.monotonic() + self._plan.timeout_s + GRACE_S + 1.0
        while any(caller.is_alive() for caller in callers) and time.monotonic() < until:
            self._pause(LOOK_S)
        for caller in callers:
            if caller.failure is not None:
                text = "".join(traceback.format_exception(caller.failure))
                self._broken("error", caller.name, f"the caller failed: {text}")
            elif caller.is_alive():
                self._broken("unanswered", caller.name, "the caller waits for something that is not a call")

    def _look_once_more(self, stage: Stage) -> None:
        """At every object there was, before and after a stop and a start. Raises ServiceFailed."""
        objects = [(cls, name, "read", ()) for cls in MODELS for name in self._roster.names[cls]]
        self._must_be_answered(stage, objects)
        stage.stop()
        stage.start()
        self._must_be_answered(stage, objects)
        accounts = self._roster.names["Account"]
        books = self._must_be_answered(stage, [("Account", name, "books", ()) for name in accounts])
        if books is not None:
            for wrong in find_money(dict(zip(accounts, books, strict=True)), self._half_paid):
                self._broken("money", "all accounts", wrong)
        stage.stop()
        self._look(last=True)

    def _must_be_answered(self, stage: Stage, calls: list[Call]) -> list[Any] | None:
        """The results; None where one is missing, which is told."""
        operations = stage.calls.call_until_answered(calls)
        for operation in operations:
            if operation.fate != "answered":
                what = f"{operation.class_name}/{operation.name}"
                self._broken("unanswered", what, f"at the end it cannot be read: {operation.error}")
                return None
        return [operation.result for operation in operations]

    # Looking on

    def _pause(self, seconds: float) -> None:
        """Waits, and looks after the run meanwhile. Short where the run was interrupted."""
        until = time.monotonic() + seconds
        while True:
            self._look()
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            if self._interrupted.wait(min(left_s, LOOK_S)):
                threading.Event().wait(min(left_s, INTERRUPTED_PAUSE_S))
                return

    def _look(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_S and not last:
            return
        self._looked_at = now
        for operation in self._recorder.overdue(GRACE_S):
            call = f"{operation.method}{operation.args} of {operation.class_name}/{operation.name}"
            text = f"no answer within {self._plan.timeout_s:g} s and {GRACE_S:g} s of grace"
            self._broken("unanswered", f"{call}, by {operation.caller}", text)
        ended, watermark = self._recorder.take()
        self._half_paid += sum(each.args[1] for each in ended if each.method == "pay" and each.fate == "unknown")
        self._history.digest(ended, watermark)
        answered = self._recorder.tally.answered
        self._silence_s = max(self._silence_s, now - self._answered_at)
        if answered > self._answered:
            self._answered, self._answered_at = answered, now
        if self._sampler is not None:
            self._sampler.sample_if_due()
        if now - self._told_at >= PROGRESS_S:
            self._told_at = now
            self._progress(self._line(now))

    def _line(self, now: float) -> str:
        tally = self._recorder.tally
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self._struck.items())) or "no faults"
        wrong = len(self._violations) + len(self._history.violations)
        return (
            f"{now - self._began_at:7.0f} s  {faults}; {tally.ended:,} calls, {tally.count_of('unknown'):,} unknown, "
            f"{tally.count_of('refused'):,} refused, worst {tally.worst_s:.1f} s; {wrong} broken"
        )

    def _broken(self, kind: Kind, what: str, text: str) -> None:
        self._violations.append(Violation(kind, what, text))

    def _check_errors(self) -> None:
        for (caller, code, fate), count in sorted(self._recorder.tally.errors.items()):
            if code == "no_answer":
                continue  # Told one by one.
            if self._plan.errors == "none" or (code, fate) not in ALLOWED:
                first = self._recorder.tally.examples[caller, code, fate]
                call = f"{first.class_name}/{first.name} {first.method}, after {first.ended_at - first.began_at:.1f} s"
                self._broken("error", caller, f"{code} ({fate}), {count} times; first {call}: {first.message}")

    def _report(self, ended_by: str) -> ChaosReport:
        self._check_errors()
        violations = self._history.violations + self._violations
        trends = [] if self._sampler is None else self._sampler.trends()
        if not self._plan.faults:
            violations += [Violation("service", "its size", str(line)) for line in trends if not line.is_flat]
        for number, violation in enumerate(violations):
            if story := self._history.story_of(violation.what):
                lines = b"\n".join(map(msgspec.json.encode, story)) + b"\n"
                (self._folder / f"story-{number}.jsonl").write_bytes(lines)
        return ChaosReport(
            seed=self._plan.seed,
            stage=self._plan.stage,
            keys=self._plan.keys,
            seconds=round(time.monotonic() - self._began_at, 1),
            ended_by=ended_by,
            faults=dict(self._struck),
            strikes=dict(self._strikes),
            calls=self._recorder.tally.as_dict(),
            checked=self._history.checked,
            objects=sum(map(len, self._roster.names.values())),
            silence_s=round(self._silence_s, 2),
            violations=violations,
            undecided=self._history.undecided,
            samples=[] if self._sampler is None else self._sampler.samples,
            trends=[str(line) for line in trends],
            kept=str(self._folder),
        )


def _proxy(endpoint: str) -> Proxy:
    address, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return Proxy(address, int(port))


def strikers(hosts: bool) -> Mapping[str, type[Fault]]:
    """By name. Those of hosts need NATS's client, which others need not load."""
    if not hosts:
        return STRIKERS
    from tidegate.runtime.chaos.faults import of_hosts

    return {**STRIKERS, **of_hosts.STRIKERS}
