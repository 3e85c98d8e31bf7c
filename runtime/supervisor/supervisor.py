"""The supervisor's shell: a loop around `Supervision` that starts processes, carries messages and obeys its effects.

Everything is decided in `rules/supervision.py`. The loop runs in the main thread, because children die with the thread that
started them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from tidegate.runtime.child.witness import take_testimony
from tidegate.runtime.data.audit import AuditLog, CommandGiver
from tidegate.runtime.data.backup_notes import NAME as BACKUPS_NAME
from tidegate.runtime.data.backup_notes import read_notes
from tidegate.runtime.descriptors import raise_limit
from tidegate.runtime.ending import run
from tidegate.runtime.errors import OperatorError, Unavailable, one_line
from tidegate.runtime.logs.capture import change_levels
from tidegate.runtime.metrics.ledger import Ledger, Sums
from tidegate.runtime.supervisor.access_watch import LOOK_S
from tidegate.runtime.supervisor.config import Config, Configuration
from tidegate.runtime.supervisor.configurations import Configurations
from tidegate.runtime.supervisor.dev_reload import DevReload
from tidegate.runtime.supervisor.member import Member
from tidegate.runtime.supervisor.notify import Notifier
from tidegate.runtime.supervisor.operators.command_socket import CommandSocket
from tidegate.runtime.supervisor.operators.errands import Errands
from tidegate.runtime.supervisor.operators.http_door import HttpDoor
from tidegate.runtime.supervisor.operators.measuring import measured, why_not_ready
from tidegate.runtime.supervisor.operators.monitoring import Monitoring
from tidegate.runtime.supervisor.operators.status import Identity, Usage, app_version, classes, now_ms, snapshot, status_line
from tidegate.runtime.supervisor.orphans import Orphans
from tidegate.runtime.supervisor.process import ChildProcess, cpu_time, describe_exit
from tidegate.runtime.supervisor.rules.host_shards import HostShards
from tidegate.runtime.supervisor.rules.problems import problems
from tidegate.runtime.supervisor.rules.seats import (
    CpuTime,
    Effect,
    Finish,
    Kill,
    Promote,
    ReplacementEnded,
    ReplacementSaid,
    Report,
    SeatState,
    Send,
    ServiceReady,
    Spawn,
    is_router,
)
from tidegate.runtime.supervisor.rules.supervision import PING_INTERVAL_S, Supervision
from tidegate.runtime.supervisor.service import Service
from tidegate.runtime.supervisor.specs import Specs
from tidegate.runtime.wire.commands import AuditedValues, Command, ConfigChanges, Ended, ShownConfig, Status
from tidegate.runtime.wire.protocol import OBJECT_CALLS
from tidegate.runtime.wire.supervisor_messages import (
    KEPT_SOURCE,
    AccessChanged,
    Administer,
    Administered,
    Failed,
    FromChild,
    HeldUp,
    LevelsChanged,
    Loaded,
    OpenShards,
    Pong,
    Ready,
    Released,
    StatusChanged,
)
from tidegate.runtime.wire.wishes import EDITS, Delete, LoadMany

log = logging.getLogger("tidegate")

_EXTEND_START_S = 30.0
BACKUPS_LOOK_S = 5.0
RETIRE_S_MAX = 4.0
"""A host of a cluster that is stopped gives the others this time to take its shards."""
RETIRE_LOOK_S = 0.05
OURSELVES = CommandGiver(os.getpid(), os.geteuid())
"""Who gives a command that came by a signal."""


class _Place:
    """Where a process sits. Its successor takes another's seat."""

    def __init__(self, seat: int, witness: Path, *, is_door: bool) -> None:
        self.seat = seat
        self.is_door = is_door
        """Whom it lets in is not on the list of access keys."""
        self.witness = witness
        """Where a worker writes down whose code it runs."""


class Supervisor:
    """`run` returns when the last child is gone."""

    def __init__(self, service: Service, notifier: Notifier, on_ready: Callable[[Supervisor], None]) -> None:
        """`on_ready` is called once, when every child answers."""
        config = service.config
        self._service = service
        self._notifier = notifier
        self._on_ready = on_ready
        self._children: dict[int, ChildProcess] = {}
        self._places: dict[int, _Place] = {}
        """By seat, as the children."""
        self._configurations = Configurations(service.configuration or Configuration(config), service.read_again)
        self._specs = Specs(service, self._configurations)
        answers: dict[str, Callable[[], Status | ShownConfig]] = {
            "status": lambda: Status(self._status_now()),
            "config": lambda: ShownConfig(self._configurations.shown()),
        }
        self._commands = CommandSocket(service.run_directory.path, self._on_command, answers)
        workers, shards = len(service.placement.workers), len(service.placement.owners)
        self._errands = Errands(shards, workers, self._owner, self._errand_ended, self._elsewhere)
        self._audit = AuditLog(service.directory.path, service.directory.start)
        self._edits: dict[int, tuple[str, AuditedValues]] = {}
        """By errand: the name of the edit that it makes, and which values are told."""
        self._auditing: set[asyncio.Task[None]] = set()
        self._usage = Usage()
        self.ledger = Ledger()
        self._status_sent: dict[int, dict[str, Any]] = {}
        """By seat of the router."""
        self._logs_deleted = False
        self._timer: asyncio.TimerHandle | None = None
        self.identity = _identity(service)
        self.supervision = Supervision(
            service.placement.owners,
            workers,
            service.directory.start,
            routers=service.routers,
            cpu_time=self._cpu_time,
            read_config=self._configurations.begin,
            shards=None if service.cluster is None else HostShards(shards, workers, None if service.join is None else ()),
            has_door=service.door is not None,
            **_times(config),
        )
        self._retires_until = 0.0
        self._member = None if service.join is None else service.join(self._cluster_changed)
        self._unbegun: list[Callable[[], None]] | None = None if self._member is None else []
        """Begins each process that was started before the secret of the hosts is known: they load their modules meanwhile."""
        monitoring = Monitoring(
            self.measured,
            lambda: why_not_ready(self.supervision),
            lambda: problems(self.supervision, self._now()),
            self._now,
        )
        self._http = None if service.metrics is None else HttpDoor(service.metrics, monitoring.page)
        self._dev_reload: DevReload | None = None
        if config.service.dev:
            kept = service.run_directory.path / KEPT_SOURCE
            self._dev_reload = DevReload(kept, lambda: self._on_command(Command("reload"), OURSELVES), self._replaces)
        self._watching: asyncio.Task[None] | None = None
        self._looking_at_backups: asyncio.Task[None] | None = None

    def set_shards(self, target: Iterable[int]) -> None:
        """What this host is to have of its cluster from now on; all of it until this is called. Called before `run`, workers are
        started with that."""
        if effects := self.supervision.set_shards(target):
            self._obey(effects)

    async def run(self) -> Failed | None:
        """None after a stop that was asked for; else why the service could not go on."""
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[Failed | None] = self._loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_stop_signal)
        self._loop.add_signal_handler(signal.SIGHUP, lambda: self._on_command(Command("reload"), OURSELVES))
        self._orphans = Orphans(self._loop, lambda: {child.pid for child in self._children.values()}, os.getpid())
        await self._commands.start()
        if self._http is not None:
            await self._http.start()
        self._obey(self.supervision.start(self._now()))
        self._beat()
        self._keep_looking_at_access()
        self._looking_at_backups = self._loop.create_task(self._keep_looking_at_backups())
        taking_part = None if self._member is None else self._loop.create_task(self._take_part(self._member))
        try:
            return await self._finished
        finally:
            if self._member is not None and taking_part is not None:
                await self._member.leave()
                taking_part.cancel()
            self._commands.close()
            self._audit.close()
            for task in filter(None, (self._watching, self._looking_at_backups)):
                task.cancel()
            if self._http is not None:
                self._http.close()

    # Events

    def _owner(self, shard: int) -> int | None:
        return self.supervision.owner(shard)

    def _elsewhere(self) -> Mapping[int, str]:
        return {} if self._member is None else self._member.elsewhere()

    def _now(self) -> float:
        return time.monotonic()

    def _on_stop_signal(self) -> None:
        """In a cluster, the first time: others take this host's shards before."""
        retires = self._member is not None and not self._retires_until and not self.supervision.stopping
        if not retires or self._member is None or not self._member.hands_over():
            self._stop()
            return
        within_s = min(RETIRE_S_MAX, self.identity.config.service.stop_s / 2)
        log.info("stopping: the other hosts take the shards of this one, within %g s", within_s)
        self._retires_until = self._now() + within_s
        self._member.retire(within_s)
        self._stop_when_retired()

    def _stop_when_retired(self) -> None:
        assert self._member is not None
        if self.supervision.stopping:
            return
        if self._member.hands_over() and self._now() < self._retires_until:
            self._loop.call_later(RETIRE_LOOK_S, self._stop_when_retired)
        else:
            self._stop()

    def _stop(self) -> None:
        if not self.supervision.stopping:
            log.info("stopping: answering what is in flight, then checkpointing")
            self._notifier.stopping()
        self._obey(self.supervision.stop_requested(self._now()))

    def _on_command(self, command: Command, caller: CommandGiver) -> int:
        """Its number."""
        if command.what == "access":
            self._look_at_access()
            number = self._errands.number()
            self._commands.ended(number, Ended(()))
            return number
        if command.what in OBJECT_CALLS:
            return self._begin_errand(command, caller)
        was_idle = not self._replaces()
        number, effects = self.supervision.replace_requested(self._now(), routers=command.what == "restart")
        refused = next((each.failed for each in effects if isinstance(each, ReplacementEnded) and each.number == number), None)
        if refused is not None:
            log.warning("%s refused: %s (%s)", command.what, refused.problem, refused.hint)
        else:
            log.info("%s: processes are replaced one by one while the service goes on", command.what)
        if was_idle and self._replaces():
            self._notifier.reloading(time.monotonic_ns() // 1_000)
        self._obey(effects)
        self._tell_status()
        return number

    def _begin_errand(self, command: Command, caller: CommandGiver) -> int:
        if command.wish is not None and not isinstance(command.wish, EDITS):
            return self._errands.begin(command, self._send_to_worker)
        what = command.what if command.wish is None else command.wish.__struct_config__.tag
        of = f"(objects: {len(command.wish.objects)})" if isinstance(command.wish, LoadMany) else one_line(command.object)
        log.info("%s %s: asked for by an operator", what, of)
        number = self._errands.number()
        task = self._loop.create_task(self._edit(number, command, caller))
        self._auditing.add(task)
        task.add_done_callback(self._auditing.discard)
        return number

    async def _edit(self, number: int, command: Command, caller: CommandGiver) -> None:
        """Begins the errand once the audit log has it."""
        edit, written = self._audit.asked(command, caller)
        try:
            await written
        except OSError as error:
            problem = f"the audit log cannot be written: {error.strerror or error}"
            if not isinstance(command.wish, Delete):
                self._errands.fail(number, Unavailable(f"{problem}; nothing was changed"))
                return
            log.warning("%s; what is deleted all the same: %s, by uid %d", problem, one_line(command.object), caller.uid)
        self._edits[number] = edit, command.values
        self._errands.go(number, command, self._send_to_worker)

    def _errand_ended(self, number: int, ended: Ended) -> None:
        edit, values = self._edits.pop(number, ("", "none"))
        if not edit:
            self._commands.ended(number, ended)
            return
        written = self._audit.ended(edit, ended.error, ended.result, values)
        written.add_done_callback(lambda done: self._edit_told(done, number, ended))

    def _edit_told(self, written: asyncio.Future[None], number: int, ended: Ended) -> None:
        if not written.cancelled() and (error := written.exception()) is not None:
            log.warning("the audit log does not say what came of an edit: %s", error)
        self._commands.ended(number, ended)

    def _replaces(self) -> bool:
        return self.supervision.replacements.running is not None

    def _on_message(self, seat: int, message: FromChild) -> None:
        if isinstance(message, Administered):
            self._errands.answered(message)
            return
        self._note(seat, message, self._now())
        self._obey(self.supervision.child_said(seat, message, self._now()))
        if isinstance(message, Ready | HeldUp | Released):
            self._tell_status()
        if isinstance(message, Ready):
            self._delete_logs_once()

    # The cluster

    async def _take_part(self, member: Member) -> None:
        try:
            self._specs.hosts_secret = await member.prepare()
            unbegun, self._unbegun = self._unbegun or [], None
            for begin in unbegun:
                begin()
        except Exception as error:
            if not isinstance(error, OperatorError):
                log.exception("this host cannot join its cluster")
                error = OperatorError("join the cluster", "this host", repr(error), "report it")
            failed = Failed(error.operation, str(error.place), error.problem, error.hint, fatal=not error.passes)
            self._obey(self.supervision.cannot_go_on(failed, self._now()))
            return
        await member.run()

    def _cluster_changed(self) -> None:
        """This host is to have other shards, or others are elsewhere."""
        assert self._member is not None
        self._obey(
            [
                *self.supervision.elsewhere_is(self._member.homes(), self._member.doors()),
                *self.supervision.set_shards(self._member.target, self._member.ahead),
            ]
        )

    def _tell_cluster(self) -> None:
        """Others may have to hear of what has become of this host."""
        if self._member is not None and self.supervision.shards is not None:
            version = app_version(self.supervision) or ""
            shards = self.supervision.shards
            self._member.is_now(shards.owned, shards.ready, shards.reads, self.supervision.door_endpoint, version)

    # Children

    def _send_to_worker(self, worker: int, message: Administer) -> _Place | None:
        if self.supervision.seats[worker].state is not SeatState.READY:
            return None
        self._children[worker].send(message)
        return self._places[worker]

    def _note(self, seat: int, message: FromChild, now: float) -> None:
        name, occupancy = self.supervision.name(seat), self.supervision.seats[seat]
        if isinstance(message, Loaded):
            self._configurations.app_said(occupancy.generation, message.settings)
        if isinstance(message, Pong):
            if message.number == occupancy.ping_number and occupancy.pinged_at is not None:
                self.ledger.observed("loop_lag_seconds", name, value=now - occupancy.pinged_at)
            self.ledger.told(self._places[seat], name, message.counts, now)
            if self._member is not None:
                self._member.load_is(self.ledger.calls_by_shard(now))
        elif isinstance(message, HeldUp):
            self.ledger.counted("held_up", name)

    def _on_stuck(self, seat: int, stack: str) -> None:
        self._obey(self.supervision.stuck(seat, stack, self._now()))

    def _cpu_time(self, seat: int) -> CpuTime:
        return cpu_time(self._children[seat].pid) if seat in self._children else CpuTime()

    def _on_exit(self, seat: int, returncode: int) -> None:
        del self._children[seat]
        self._orphans.ended()
        place = self._places.pop(seat)
        self.ledger.gone(place)
        self._errands.gone(place)
        running = None if is_router(seat) else take_testimony(place.witness)
        effects = self.supervision.child_exited(seat, describe_exit(returncode), returncode == 0, self._now(), running)
        self._obey(effects)
        self._tell_status()

    def _on_timer(self) -> None:
        self._timer = None
        self._obey(self.supervision.timer(self._now()))

    def _beat(self) -> None:
        """Every ping interval: systemd and the router hear how things are."""
        if self.supervision.all_answer(self._now()):
            self._notifier.watchdog()
        if self._member is not None:
            self.supervision.of_cluster = self._member.problems()
        if not self.supervision.was_ready and not self.supervision.stopping:
            self._notifier.extend_start(_EXTEND_START_S)
        self._tell_status()
        self._loop.call_later(PING_INTERVAL_S, self._beat)

    def _keep_looking_at_access(self) -> None:
        if self._service.access is not None:
            self._look_at_access()
            self._loop.call_later(LOOK_S, self._keep_looking_at_access)

    def _look_at_access(self) -> None:
        access = self._service.access
        if access is not None and (keys := access.look(time.time(), classes(self.supervision))) is not None:
            for seat, child in self._children.items():
                if not self._places[seat].is_door:
                    child.send(AccessChanged(keys))

    async def _keep_looking_at_backups(self) -> None:
        """The disk may hang: it is waited for in a thread. What cannot be read changes nothing, and is told once."""
        path, said = self._service.directory.path, ""
        while True:
            try:
                notes = await self._loop.run_in_executor(None, read_notes, path)
            except (OSError, ValueError) as error:
                if said != str(error):
                    log.warning("how backups went cannot be read: %s (remove %s)", error, path / BACKUPS_NAME)
                said = str(error)
            else:
                said = ""
                self.supervision.backups.seen(notes, self.identity.data, now_ms())
            await asyncio.sleep(BACKUPS_LOOK_S)

    # Effects

    def _obey(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                if (child := self._children.get(effect.seat)) is not None:
                    child.send(effect.message)
            elif isinstance(effect, Spawn):
                self._spawn(effect)
            elif isinstance(effect, Promote):
                self._promote(effect)
            elif isinstance(effect, Kill):
                if (child := self._children.get(effect.seat)) is not None:
                    child.kill()
            elif isinstance(effect, Report):
                log.log(logging.getLevelNamesMapping()[effect.severity.upper()], "%s", effect.text)
            elif isinstance(effect, ServiceReady):
                self._service_ready()
            elif isinstance(effect, ReplacementSaid):
                self._commands.said(effect.number, effect.text)
            elif isinstance(effect, ReplacementEnded):
                self._replacement_ended(effect)
            elif not self._finished.done():
                assert isinstance(effect, Finish)
                self._finished.set_result(effect.failure)
        self._set_timer()
        self._tell_cluster()

    def _set_timer(self) -> None:
        deadline = self.supervision.next_deadline()
        if self._timer is not None:
            if deadline == self._timer.when():
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def _spawn(self, effect: Spawn) -> None:
        service, seat = self._service, effect.seat
        becomes = seat if effect.successor_of is None else effect.successor_of
        place = _Place(seat, self._witness(effect), is_door=becomes == self.supervision.door)
        try:
            with contextlib.ExitStack() as stack:  # The child has it or nobody: what listens must be read.
                opened = service.port_of(is_door=place.is_door).open() if is_router(seat) else []
                listen_fds = tuple(stack.enter_context(each).fileno() for each in opened)
                child = ChildProcess(
                    service.router_command if is_router(seat) else service.worker_command,
                    environment=self._specs.environment(effect.generation),
                    lock_fd=service.directory.lock_fd,
                    kept_fds=listen_fds,
                    loop=self._loop,
                    on_message=lambda message: self._on_message(place.seat, message),
                    on_exit=lambda returncode: self._on_exit(place.seat, returncode),
                    on_stuck=None if is_router(seat) else lambda stack: self._on_stuck(place.seat, stack),
                    outputs=service.outputs,
                    name=self.supervision.name(becomes),
                )
        except OSError as error:
            problem = error.strerror or str(error)
            self._loop.call_soon(lambda: self._obey(self.supervision.spawn_failed(seat, problem, self._now())))
            return
        self._children[seat], self._places[seat] = child, place
        begin = partial(self._begin, child, becomes, effect, place, listen_fds)
        if self._unbegun is None:
            begin()
        else:
            self._unbegun.append(begin)
        log.debug("%s is process %d", self.supervision.name(seat), child.pid)

    def _begin(self, child: ChildProcess, becomes: int, effect: Spawn, place: _Place, listen_fds: tuple[int, ...]) -> None:
        seat, suspicion = effect.seat, self.supervision.suspicion
        if self._children.get(seat) is not child:  # It has ended.
            return
        if is_router(seat):
            name = self.supervision.name(becomes)
            child.begin(self._specs.of_router(becomes, effect.generation, listen_fds, is_door=place.is_door, name=name))
            self._status_sent.pop(seat, None)
            self._tell_status()
        else:
            watched, quarantined = suspicion.is_watched(becomes, self._now()), suspicion.quarantined(self._now())
            child.begin(self._specs.of_worker(becomes, effect, place.witness, watched=watched, quarantined=quarantined))
            if effect.successor_of is None:
                child.send(OpenShards(self.supervision.open_shards(seat)))

    def _promote(self, effect: Promote) -> None:
        self._children[effect.seat] = self._children.pop(effect.successor)
        place = self._places[effect.seat] = self._places.pop(effect.successor)
        place.seat = effect.seat
        if is_router(effect.seat):
            self._status_sent.pop(effect.seat, None)
        log.debug("%s is process %d", self.supervision.name(effect.seat), self._children[effect.seat].pid)

    def _replacement_ended(self, effect: ReplacementEnded) -> None:
        changes = ConfigChanges()
        if effect.failed is None:
            changes = self._configurations.changes(effect.generation)
            self._configured(effect.generation)
        self._commands.ended(effect.number, Ended(effect.replaced, effect.failed, effect.mixed, changes))
        if self.supervision.stopping:
            return
        if not self._replaces():
            self._notifier.ready(status_line(self.supervision, self._now()))
        self._tell_status()
        if (failed := effect.failed) is not None and failed.traceback:
            log.error("reload failed with:\n%s", failed.traceback.rstrip())
        if self._dev_reload is not None:
            self._dev_reload.ended(failed=failed is not None)
        generations = self.supervision.replacements.generations()
        self._configurations.keep_only({*generations, *(each.generation for each in self.supervision.seats.values())})
        needed = {str(generation) for generation in generations}
        self._loop.run_in_executor(None, _remove_all_but, self._service.run_directory.path / KEPT_SOURCE, needed)

    def _configured(self, generation: int) -> None:
        """Its configuration is in effect from now on."""
        self._configurations.is_in_effect(generation)
        config = self._configurations.of(generation).config
        self.supervision.times_are(**_times(config))
        change_levels(config.log.level, config.log.levels)
        for seat in filter(is_router, self._children):
            self._children[seat].send(LevelsChanged(config.log.level, config.log.levels))
        service = msgspec.structs.replace(config.service, listen=self.identity.config.service.listen)
        self.identity = replace(self.identity, config=msgspec.structs.replace(config, service=service))

    def _witness(self, effect: Spawn) -> Path:
        """Of one process: while a worker is replaced there are two."""
        return self._service.run_directory.path / f"witness.{effect.seat}.{effect.incarnation}"

    def _service_ready(self) -> None:
        self._notifier.ready(status_line(self.supervision, self._now()))
        self._tell_status()  # Before anybody hears that it is ready, and asks.
        self._on_ready(self)
        if self._dev_reload is not None:
            self._watching = self._loop.create_task(self._dev_reload.run())
        self._delete_logs_once()

    def _delete_logs_once(self) -> None:
        """When every worker has recovered all that they hold."""
        supervision = self.supervision
        if self._logs_deleted or not supervision.was_ready or not supervision.all_ready or supervision.stopping:
            return
        if not any(occupancy.ready is not None and occupancy.ready.keeps_logs for occupancy in supervision.seats.values()):
            self._logs_deleted = True
            self._loop.run_in_executor(None, self._delete_logs)

    def _delete_logs(self) -> None:
        try:
            self._service.directory.count_start()
            deleted = self._service.directory.delete_logs_of_earlier_starts()
        except OSError as error:  # They cost space, and nothing else: the next start tries again.
            log.warning("cannot count this start or delete logs of earlier ones: %s", error)
        else:
            log.debug("deleted %d logs of earlier starts", deleted)

    # Status

    def measured(self) -> Sums:
        """Every metric there is, as of now."""
        now = self._now()
        self.ledger.counted("scrapes")
        for index in self.supervision.worker_seats:
            self.ledger.counted("held_up", self.supervision.name(index), value=0)  # Also where that has not happened yet.
        pids = {seat: child.pid for seat, child in self._children.items()}
        heard = {seat: told_at for seat, place in self._places.items() if (told_at := self.ledger.heard(place)) is not None}
        of_cluster = {} if self._member is None else self._member.measured()
        return {**self.ledger.sums(), **measured(self.identity, self.supervision, pids, heard, now), **of_cluster}

    def _snapshot(self) -> dict[str, Any]:
        pids = {seat: child.pid for seat, child in self._children.items()}
        now = self._now()
        rates = {seat: rates for seat, place in self._places.items() if (rates := self.ledger.rates(place, now)) is not None}
        access = self._service.access
        waits = (*self._configurations.waits(), *(access.waits if access is not None else ()))
        shown = snapshot(self.identity, self.supervision, pids, self._usage, now, self._commands.path, rates, waits)
        return shown if self._member is None else {**shown, "cluster": self._member.shown()}

    def _status_now(self) -> dict[str, Any]:
        """For whoever asks past the routers: one of them is what they would say of themselves."""
        routers = (self.supervision.seats[seat].statistics for seat in self.supervision.routers)
        status = {**self._snapshot(), "router": next(routers, {})}
        del status["classes"]  # They have a system call of their own.
        return status

    def _tell_status(self) -> None:
        status = self._snapshot()
        for seat in filter(is_router, self.supervision.seats):
            if status != self._status_sent.get(seat) and (router := self._children.get(seat)) is not None:
                self._status_sent[seat] = status
                router.send(StatusChanged(status))
        if self.supervision.was_ready and not self.supervision.stopping:
            self._notifier.status(status_line(self.supervision, self._now()))


class _Times(TypedDict):
    liveness_s: float
    stop_s: float
    replace_s: float
    held_up_s: float


def _identity(service: Service) -> Identity:
    directory, may_use = service.directory, {"cores": service.cores, "memory_bytes": service.memory_bytes}
    data = str(directory.path)
    return Identity(service.version, directory.start, now_ms(), data, service.config, service.placement, may_use)


def _times(config: Config) -> _Times:
    service = config.service
    return {
        "liveness_s": math.inf if service.dev else service.liveness_s,  # A worker may wait for a debugger.
        "stop_s": service.stop_s,
        "replace_s": service.reload_s,
        "held_up_s": math.inf if service.dev else service.held_up_s,
    }


def _remove_all_but(folder: Path, names: set[str]) -> None:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name not in names:
            shutil.rmtree(entry, ignore_errors=True)


def supervise(service: Service, environment: Mapping[str, str], on_ready: Callable[[Supervisor], None]) -> Failed | None:
    """Runs the service until it is asked to stop. Must be called in the main thread."""
    notifier = Notifier(environment, os.getpid())
    raise_limit()
    try:
        return run(Supervisor(service, notifier, on_ready).run())
    finally:
        notifier.close()
