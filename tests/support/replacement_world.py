"""Processes of a service as `Supervision` sees them: each does what is expected of it when a test says so, or dies.

What must hold at any instant is asserted here: nobody opens shards that another process has, two processes never sit in one
seat, and every replacement ends once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tidegate.runtime.supervisor.rules.seats import (
    NEXT_ROUTER,
    NEXT_WORKER,
    Effect,
    Finish,
    Kill,
    Promote,
    ReplacementEnded,
    ReplacementSaid,
    Report,
    Send,
    Spawn,
    is_router,
)
from tidegate.runtime.supervisor.rules.supervision import Supervision
from tidegate.runtime.wire.commands import ConfigChanges
from tidegate.runtime.wire.supervisor_messages import (
    Drain,
    Drained,
    Failed,
    FromChild,
    HoldAll,
    Leave,
    Loaded,
    OpenShards,
    Park,
    Parked,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Quiet,
    Ready,
    TopologyChanged,
    Waited,
)


@dataclass
class Process:
    seat: int
    generation: int
    to_say: list[FromChild | None] = field(default_factory=list)
    """What is expected of it next; None: that it exits well."""
    opened: bool = False
    held: bool = False
    """It lets no calls of clients in."""
    moving: bool = False
    """It drains because a successor takes over."""
    doomed: bool = False
    parked: dict[int, str | None] = field(default_factory=dict)
    """Workers that it keeps calls back for, and the endpoint that it knows of each."""
    topology: tuple[str | None, ...] = ()

    def owes_parked(self) -> bool:
        return any(isinstance(message, Parked) for message in self.to_say)


class ReplacementWorld:
    def __init__(self, workers: int = 2, routers: int = 1) -> None:
        self.read_config: Callable[[int, int, bool], ConfigChanges | Failed] = lambda *_: ConfigChanges()
        self.machine = Supervision(
            tuple(range(workers)),
            workers,
            1,
            30.0,
            9.0,
            routers,
            replace_s=5.0,
            read_config=lambda *asked: self.read_config(*asked),
        )
        self.now = 0.0
        self.processes: dict[int, Process] = {}
        self.ended: dict[int, ReplacementEnded] = {}
        self.reports: list[str] = []
        self.said: list[str] = []
        """To who has asked for replacements."""
        self.finished = False
        self.broken: set[int] = set()
        """Generations that cannot be loaded."""
        self.closed: set[int] = set()
        """Generations that load and cannot open."""
        self.obey(self.machine.start(0.0))
        self.run()
        assert self.machine.all_ready

    # What the shell does

    def obey(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert not self.finished, effect
            if isinstance(effect, Spawn):
                self._spawn(effect)
            elif isinstance(effect, Promote):
                assert effect.seat not in self.processes, "the old process is still there"
                self.processes[effect.seat] = self.processes.pop(effect.successor)
                self.processes[effect.seat].seat = effect.seat
            elif isinstance(effect, Kill):
                self.processes[effect.seat].doomed = True
            elif isinstance(effect, Send):
                self._hear(self.processes[effect.seat], effect)
            elif isinstance(effect, ReplacementEnded):
                assert effect.number not in self.ended, "ended twice"
                self.ended[effect.number] = effect
            elif isinstance(effect, Report):
                self.reports.append(effect.text)
            elif isinstance(effect, ReplacementSaid):
                self.said.append(effect.text)
            elif isinstance(effect, Finish):
                assert not self.processes, "somebody was left behind"
                self.finished = True
        self.machine.check_invariants()

    def _spawn(self, effect: Spawn) -> None:
        assert effect.seat not in self.processes, "two processes in one seat"
        process = self.processes[effect.seat] = Process(effect.seat, effect.generation)
        if is_router(effect.seat):
            process.to_say = [Ready("tcp://router")]
        elif effect.generation in self.broken:
            process.to_say = [Failed("load", "app.py", "it raised NameError (app.py:3)", "correct the app"), None]
        else:
            process.to_say = [Loaded(f"v{effect.generation}")]
            if effect.successor_of is None:
                self._open(process)

    def _open(self, process: Process) -> None:
        """At this instant nobody else may have the shards: `processes` has whoever is not known to be gone."""
        process.opened = True
        if process.generation in self.closed:
            process.to_say += [Failed("open", "data", "boom", "mend it", fatal=False), None]
        else:
            ready = Ready(f"ipc://{process.seat}.{id(process):x}", app_version=f"v{process.generation}")
            process.to_say.append(ready)

    def _hear(self, process: Process, effect: Send) -> None:
        match effect.message:
            case OpenShards():
                self._open(process)
            case Prepare():
                process.to_say.append(Prepared())
            case Drain(moving=moving):
                if is_router(process.seat):
                    process.to_say += [Drained(), None]
                else:
                    process.to_say.append(Quiet())
                    process.moving = moving
            case Leave():
                if process.moving and not self.machine.stopping:
                    others = [each for each in self.processes.values() if each.topology and each is not process]
                    assert not process.owes_parked(), "it has calls to answer"
                    assert all(process.seat in each.parked and not each.owes_parked() for each in others), "somebody may call it"
                process.to_say += [Drained(), None]
            case Park(worker, round_number):
                assert process.opened or is_router(process.seat)
                if worker != process.seat:
                    process.parked.setdefault(worker, process.topology[worker])
                process.to_say.append(Parked(worker, round_number))
            case HoldAll(on):
                assert not (on and process.held)
                process.held = on
            case Ping(number):
                process.to_say.append(Pong(number))
            case TopologyChanged(topology):
                process.topology = topology.endpoints
                for worker, former in list(process.parked.items()):
                    if topology.endpoints[worker] not in (None, former):
                        del process.parked[worker]
                        process.to_say.append(Waited(worker, 3, 7.5))

    # What may happen

    def choices(self) -> list[str]:
        """By name; `happen` makes one of them come true."""
        found = [] if self.finished else ["timer", "stop", "reload"]
        for seat, process in sorted(self.processes.items()):
            if process.to_say and (not process.doomed or process.to_say[0] is not None):  # Last words are heard before the end.
                found.append(f"say {seat}")
            found.append(f"die {seat}")
        return found

    def happen(self, choice: str) -> None:
        what, _, seat = choice.partition(" ")
        if what == "timer":
            deadline = self.machine.next_deadline()
            if deadline is not None:
                self.now = max(self.now, deadline)
                self.obey(self.machine.timer(self.now))
        elif what == "stop":
            self.obey(self.machine.stop_requested(self.now))
        elif what == "reload":
            self.reload()
        elif what == "say":
            self.say(int(seat))
        else:
            self.die(int(seat))

    def reload(self, *, routers: bool = False) -> int:
        number, effects = self.machine.replace_requested(self.now, routers=routers)
        self.obey(effects)
        return number

    def say(self, seat: int) -> None:
        self.now += 0.001
        message = self.processes[seat].to_say.pop(0)
        if message is None:
            self.die(seat, expected=True)
        else:
            self.obey(self.machine.child_said(seat, message, self.now))

    def die(self, seat: int, *, expected: bool = False) -> None:
        del self.processes[seat]
        how = "exited with code 0" if expected else "was killed by SIGKILL"
        self.obey(self.machine.child_exited(seat, how, expected, self.now))

    def run(self, until: str = "", steps: int = 400) -> None:
        """Everybody does what is expected, and time goes on when nobody has anything to do; until the step of a replacement is
        `until`, or all is quiet."""
        for _ in range(steps):
            if self.finished or (until and self.step() == until):
                return
            speaker = next((seat for seat, each in sorted(self.processes.items()) if each.to_say and not each.doomed), None)
            doomed = next((seat for seat, each in sorted(self.processes.items()) if each.doomed), None)
            if doomed is not None:
                self.die(doomed)
            elif speaker is not None:
                self.say(speaker)
            elif not until and self.machine.all_ready and self.machine.replacements.running is None:
                return
            else:
                self.happen("timer")
        raise AssertionError(f"it never came to {until or 'rest'}: {self.machine.replacements.running} {self.machine.seats}")

    def step(self) -> str:
        running = self.machine.replacements.running
        return "" if running is None or running.current is None else running.current.step.value

    def generations(self) -> list[int]:
        return [self.processes[seat].generation for seat in self.machine.worker_seats]

    def judge(self) -> None:
        """At rest: no successor is left, every replacement has ended, and two versions side by side are told."""
        assert NEXT_ROUTER not in self.machine.seats
        assert NEXT_WORKER not in self.machine.seats
        assert self.machine.replacements.running is None
        assert not any(process.held for process in self.processes.values())
        if not self.finished and len(set(self.generations())) > 1:
            assert self.machine.replacements.failed is not None, self.generations()
