"""The shell of a worker: sockets, disk and control messages around `Host`. No rules.

A turn begins with something readable, a timer or a finished commit, and ends in `_end_turn`: what was written is committed
(if no commit is in flight) and the replies that may leave do, each client's in few messages.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from tidegate.runtime.addresses import without_credentials
from tidegate.runtime.child.draining import Draining
from tidegate.runtime.errors import (
    LEAVING,
    BadRequest,
    CallError,
    Moved,
    OperatorError,
    Overloaded,
    Unauthorized,
    Unavailable,
    UnknownMethod,
)
from tidegate.runtime.limits import BUDGET_SHARE, CLUSTER_STALL_S, FORWARDED_BYTES_MAX, INQUIRY_REST
from tidegate.runtime.sockets.backend import own_door
from tidegate.runtime.sockets.endpoint import Endpoint
from tidegate.runtime.sockets.guard import Guard
from tidegate.runtime.sockets.outbox import Outbox
from tidegate.runtime.sockets.slices import Slices
from tidegate.runtime.wire.access import read_only_methods
from tidegate.runtime.wire.counts import Counts
from tidegate.runtime.wire.protocol import (
    ALARM_CALLS,
    BY_OPERATORS_ONLY,
    DROP_ALARM,
    OBJECT_CALLS,
    OK,
    REFUSE_CALLS,
    UNKNOWN_CALLS,
    Message,
    Origin,
    Request,
    encode,
    own_identity,
)
from tidegate.runtime.wire.sessions import is_head, without_head
from tidegate.runtime.wire.slots import SlotTable, topology_reply
from tidegate.runtime.wire.supervisor_messages import (
    Access,
    AccessChanged,
    Administer,
    Administered,
    Drain,
    FromChild,
    FromSupervisor,
    HeldUp,
    HoldAll,
    Leave,
    OwnShards,
    Park,
    Parked,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Problem,
    QuarantineChanged,
    Quiet,
    Released,
    TopologyChanged,
    WorkerSpec,
)
from tidegate.runtime.wire.wishes import OF_ALL_WORKERS, OF_MANY
from tidegate.shard.host.host import Host
from tidegate.shard.host.settings import HostSettings
from tidegate.shard.host.tracing import Tracing
from tidegate.shard.host.turn import Turn
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.methods import ObjectClass
from tidegate.shard.store.checkpoints.checkpoint import CheckpointTrouble
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.shard.worker.collector import Collector
from tidegate.shard.worker.committer import Committer
from tidegate.shard.worker.operator import Operator
from tidegate.shard.worker.peers import Peers

if TYPE_CHECKING:
    from tidegate.shard.worker.worker_shards import WorkerShards

EVICT_INTERVAL_S = 1.0
EVICT_PAUSE_S = 0.005
_SILENCE_S = 0.02
"""What a client sent before it could know of a drain may still be on its way: none has asked for so long when it ends."""
_SILENCE_S_MAX = 0.5
_DRAIN_CHECKPOINT_S = 4.0
_HELD = Moved("calls wait at the router while a worker is being replaced")
_START_AGAIN_DRAIN_S = 1.0
_STALLED = "do not confirm a commit: calls are refused until they do; see that most of them run and find each other"

_decode_asked = msgspec.msgpack.Decoder(tuple[list[int]]).decode

log = logging.getLogger("tidegate")


def _settings(spec: WorkerSpec, call_bytes_max: int, *, spare_task: bool) -> HostSettings:
    return HostSettings(
        shards_total=spec.shards_total,
        cache_bytes=spec.cache_bytes,
        idle_evict_s=spec.idle_evict_s,
        dev=spec.dev,
        quarantined=spec.quarantined,
        call_bytes_max=call_bytes_max,
        own_clients=own_identity(spec.secret),
        spare_task=spare_task,
        keys=spec.keys,
        offload_processes=spec.offload_processes,
        offload_s=spec.offload_s,
        slow_call_s=spec.slow_call_s,
        worker=spec.index,
        proves=spec.cluster is not None,
    )


def _guard(access: Access, classes: Iterable[ObjectClass]) -> Guard:
    guard = Guard(access.secret, access.keys)
    guard.told_read_only(read_only_methods({each.name: each.describe() for each in classes}))
    return guard


class Worker:
    """Serves calls from `start` on. `ended(exit_code)` is called once, when it has drained or cannot go on."""

    _is_stalled = False
    """The servers that keep the log do not answer, and whoever calls is refused."""

    def __init__(
        self,
        spec: WorkerSpec,
        context: zmq.Context[Any],
        loop: asyncio.AbstractEventLoop,
        classes: Iterable[ObjectClass],
        open_store: Callable[[Callable[[CheckpointTrouble], None]], WorkerStore],
        send_control: Callable[[FromChild], None],
        ended: Callable[[int, int], None],
        *,
        spare_task: bool = True,
        tracing: Tracing | None = None,
    ) -> None:
        """`spare_task`: see `HostSettings`."""
        self._index, self._cluster = spec.index, spec.cluster
        self._data_dir = Path(spec.data_dir)
        self._name = f"worker {spec.index}"
        self._loop = loop
        self._send_control = send_control
        self._ended: Callable[[int, int], None] | None = ended
        self.store = open_store(self._on_trouble)
        self._own = own_identity(spec.secret)
        share_bytes = spec.budget_bytes // BUDGET_SHARE
        outbox = Outbox(share_bytes, lambda client: self._host.waiting.has_room(client), self._own)
        slices = Slices(share_bytes, others=lambda: self._host.book.waiting_bytes)
        classes = tuple(classes)
        self._guard = None if spec.access is None else _guard(spec.access, classes)
        self._endpoint = self._new_endpoint(context, outbox, slices)
        identity = b"%sworker-%d.%d" % (self._own, spec.index, spec.incarnation)
        self._peers = Peers(context, loop, identity, self._peers_answered, send_control, spec.hosts_secret)
        self._first_seqs = {shard: store.seq for shard, store in self.store.shards.items()}
        self._turn = Turn(loop, self._end_turn, time.monotonic)  # The loop's own clock stands still while it goes round.
        self._host = Host(
            loop,
            classes,
            self.store.shards,
            _settings(spec, share_bytes, spare_task=spare_task),
            reply=self._endpoint.reply, reply_rows=self._endpoint.reply_rows,
            turn=self._turn,
            send=self._peers.send,
            system=self._answer_system,
            stopped=self.store.stopped,
            readers=outbox,
            tracing=tracing,
            monotonic_us=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000,  # A suspended machine ages, too.
        )  # fmt: skip
        self.store.on_damage = self._on_damage
        for error in self.store.damage_found:
            self._on_damage(error)
        self._collector = Collector()
        self._committer = Committer(loop, self._host, self.store, self._turn.end, self._on_broken, self._stop_shard)
        self._shards = None if spec.cluster is None else self._new_shards()
        self._table: SlotTable | None = None
        self._inquire_after_s = -math.inf
        self._evicting: asyncio.TimerHandle | None = None
        self._refusal: CallError | None = None
        """What whoever calls is told once the worker is about to end."""
        self._draining: Draining | None = None
        self._said_quiet = self._may_leave = False
        self._park: Park | None = None  # To be answered as soon as nobody waits for this worker.

    def _new_shards(self) -> WorkerShards:
        """Where they come and go."""
        from tidegate.shard.worker.worker_shards import WorkerShards  # Here, because a service without a cluster needs none.

        host, store = self._host, self.store
        return WorkerShards(self._loop, host, store, self._data_dir, self._index, self._send_control, self._on_broken)

    def _new_endpoint(self, context: zmq.Context[Any], outbox: Outbox, slices: Slices) -> Endpoint:
        handle = self._handle if self._cluster is None else self._handle_in_cluster
        end_turn = self._end_turn
        return Endpoint(
            context, handle, end_turn, message_bytes_max=FORWARDED_BYTES_MAX, outbox=outbox, slices=slices, guard=self._guard
        )

    def bind(self, endpoint: str) -> str:
        """The door of the service's own processes first: it asks for no key."""
        if (own := own_door(endpoint)) != endpoint:
            self._endpoint.bind(own, always=True)
        return self._endpoint.bind(endpoint)

    def bind_stream(self, path: str) -> str | None:
        """The same for streams of clients on this host. None: clients need an access key, which streams do not ask for. Raises
        OSError."""
        if self._guard is not None:
            return None
        self._endpoint.bind_stream(path)
        return path

    def parts(self) -> tuple[object, ...]:
        """Who calls whom through what they were given."""
        return self, self._host, self._endpoint, self._peers, self._committer

    def start(self) -> None:
        self._collector.start()
        self._endpoint.start(self._loop)
        self._host.alarms.start()
        for dropped in self.store.recovery.dropped:
            log.info("%s ends in a record that was not written to its end: it was never confirmed, and is dropped", dropped)
        for damage in self.store.stopped.values():
            log.error("%s", damage)
        if self.store.read_only is not None:
            log.error("%s; until there is room everything is read and nothing is written", self.store.read_only)
            self._loop.create_task(self._leave_when_there_is_room(), context=NEUTRAL)
            return
        self.store.upkeep.start(self._loop)
        if self.store.unwritable and self._shards is None:  # Which asks for it again itself.
            self._loop.create_task(self._leave_when_the_disk_works(), context=NEUTRAL)
        if self._shards is not None:
            self._shards.start()

    def held_up(self, held_up: HeldUp) -> None:
        """Code of an object was interrupted; it is still being unwound."""
        self._loop.call_soon(self._send_control, held_up, context=NEUTRAL)

    def close(self) -> None:
        if self._evicting is not None:
            self._evicting.cancel()
        if self._shards is not None:
            self._shards.close()
        self._peers.close()
        self._endpoint.close()

    # Turns

    def _handle(self, message: Message) -> None:
        if self._refusal is not None and not message.origin.client.startswith(self._own):
            self._refuse(message, self._refusal)
            return
        self._turn.begin()
        self._host.handle(message)

    def _handle_in_cluster(self, message: Message) -> None:
        """Where shards come and go, the log is kept by others, and nothing can be answered without them."""
        if self._host.moving.going:
            self._refuse_of_gone(message)
            if not message.requests:
                return
        waits_s = self._committer.waits_s
        if self._is_stalled != (waits_s >= CLUSTER_STALL_S):
            self._is_stalled = not self._is_stalled
            log.warning("the servers that keep the log %s", _STALLED if self._is_stalled else "confirm again: calls are taken")
        if self._is_stalled and any(request.cls for request in message.requests):
            self._refuse(message, Unavailable(f"the servers that keep the log have not confirmed anything for {waits_s:.0f} s"))
        else:
            self._handle(message)

    def _refuse_of_gone(self, message: Message) -> None:
        """Those of its requests that are not to be begun here any more."""
        assert self._shards is not None
        is_own = message.origin.client.startswith(self._own)
        left = []
        for request in message.requests:
            if (shard := self._shards.refuses(request, is_own=is_own)) is None:
                left.append(request)
            else:
                self._host.counting.error(request.cls, Moved.code)
                self._endpoint.reply_error(message.origin, request.id, self._host.moving.refusal(shard))
        message.requests = left if len(left) > 1 or (left and not is_head(left[0])) else []

    def _refuse(self, message: Message, refusal: CallError) -> None:
        if len(message.requests) > 1 and is_head(message.requests[0]):
            without_head(message)
        for request in message.requests:
            self._host.counting.error(request.cls, refusal.code)
            self._endpoint.reply_error(message.origin, request.id, refusal)

    def _end_turn(self) -> None:
        endpoint, committer = self._endpoint, self._committer
        if endpoint.has_replies() and committer.will_wait:
            endpoint.flush()  # What waits for no write does not wait for the disk either.
        committer.commit_if_due()
        endpoint.flush()
        table = self._host.table
        self._collector.end_turn(table.added)
        if table.over_budget():
            self._evict()
        elif self._evicting is None and not table.is_empty:
            self._evicting = self._loop.call_later(EVICT_INTERVAL_S, self._evict_on_time, context=NEUTRAL)
        if self._shards is not None:
            self._shards.turn_ended()
        if self._draining is not None:
            self._look_what_is_left(self._draining)

    def _evict_on_time(self) -> None:
        self._evicting = None
        self._evict()
        self._collector.check_growth(self._accounted_bytes)

    @property
    def _accounted_bytes(self) -> int:
        return self._host.table.budget.used_bytes + self.store.memtable_bytes

    def _evict(self) -> None:
        again_s = self._host.table.evict_idle(self._turn.clock())  # By which it is known who was used when.
        if again_s is None:
            self._collector.nothing_in_memory(self._accounted_bytes)
        elif self._evicting is None:
            wait_s = again_s - self._turn.clock()
            delay_s = max(EVICT_INTERVAL_S, wait_s) if wait_s > 0 else EVICT_PAUSE_S  # Or more are due at once.
            self._evicting = self._loop.call_later(delay_s, self._evict_on_time, context=NEUTRAL)

    def _answer_system(self, request: Request, origin: Origin) -> None:
        result: Any = None
        if request.method == "ping":
            result = "pong"
        elif request.method in OBJECT_CALLS:
            self._endpoint.reply_error(origin, request.id, Unauthorized(BY_OPERATORS_ONLY))
            return
        elif request.method == UNKNOWN_CALLS:
            self._answer_inquiry(request, origin)
            return
        elif request.method == REFUSE_CALLS:
            if (asked := self._asked_for(request, origin)) is None:
                return
            result = self._host.waiting.refuse_of(origin.client, set(asked))
        elif request.method == "topology" and self._table is not None:
            result = topology_reply(self._table)
        else:
            error = UnknownMethod(f"a worker has no system call {request.method!r}; ask the router")
            self._endpoint.reply_error(origin, request.id, error)
            return
        self._endpoint.reply(origin, request.id, OK, result)

    def _administer(self, asked: Administer) -> None:
        """What an operator wants, who is known to the supervisor."""
        class_name, _, name = asked.object.partition("/")
        if asked.wish is not None:
            number, say = asked.number, self._send_control

            def answered(error: dict[str, Any] | None, result: dict[str, Any] | None) -> None:
                say(Administered(number, error, result))

            if isinstance(asked.wish, OF_ALL_WORKERS):
                self._host.listing.begin(asked.wish, answered)
            elif isinstance(asked.wish, OF_MANY):
                self._host.wishes.begin_many(asked.wish, asked.timeout_s, answered)
            else:
                self._host.wishes.begin(asked.wish, class_name, name, asked.timeout_s, answered)
            return
        operator, request = Operator(asked.number, self._send_control), Request(asked.number, "", asked.object, asked.method)
        self._turn.begin()
        if asked.method in ALARM_CALLS:
            given_up = self._host.alarms.given_up
            (given_up.drop if asked.method == DROP_ALARM else given_up.run)(request, operator)
            return
        if not self._host.activator.release(class_name, name):
            operator.fail(BadRequest(f"{asked.object} is not in quarantine; `tidegate objects blocked` lists those that are"))
            return
        self._send_control(Released(class_name, name))
        operator.answer(OK, None)

    def _answer_inquiry(self, request: Request, origin: Origin) -> None:
        """All calls are looked at. With many that takes a while, and whoever likes may ask."""
        if self._loop.time() < self._inquire_after_s:
            self._endpoint.reply_error(origin, request.id, Overloaded("the worker has just looked through its calls"))
            return
        if (asked := self._asked_for(request, origin)) is None:
            return
        began_s = time.monotonic()
        known = self._host.book.known_to(origin.client)
        self._inquire_after_s = self._loop.time() + INQUIRY_REST * (time.monotonic() - began_s)
        self._endpoint.reply(origin, request.id, OK, msgspec.Raw(encode([token for token in asked if token not in known])))

    def _asked_for(self, request: Request, origin: Origin) -> list[int] | None:
        """Calls of whoever asks. None: it could not be read, and the answer says so."""
        try:
            return _decode_asked(request.args)[0]
        except msgspec.MsgspecError as exc:
            self._endpoint.reply_error(origin, request.id, BadRequest(f"{request.method}: {exc}"))
            return None

    # The supervisor speaks

    def on_control(self, message: FromSupervisor) -> None:
        if isinstance(message, TopologyChanged):
            self._table = SlotTable(message.topology)
            self._peers.topology_changed(message.topology)
        elif isinstance(message, Ping):
            self._endpoint.look_for_room()
            self._send_control(self.pong(message.number))
        elif isinstance(message, Drain):
            self._start_drain(message.timeout_s, moving=message.moving)
        elif isinstance(message, Prepare):
            self._loop.create_task(self._prepare(), context=NEUTRAL)
        elif isinstance(message, Park) and message.worker != self._index:
            self._peers.park(message)
        elif isinstance(message, Park):
            self._park = message
            self._end_turn()
        elif isinstance(message, HoldAll):
            if message.on and self._refusal is None:
                self._refusal = _HELD
            elif not message.on and self._refusal is _HELD:
                self._refusal = None
        elif isinstance(message, Administer):
            self._administer(message)
        elif isinstance(message, AccessChanged):
            if self._guard is not None:
                self._guard.allow(message.keys)
        elif isinstance(message, QuarantineChanged):
            self._host.activator.quarantine(message.objects)
        elif isinstance(message, OwnShards):
            if self._shards is not None and self._draining is None:
                self._shards.told(message)
        elif isinstance(message, Leave):
            self._may_leave = True
            self._end_turn()

    def pong(self, number: int) -> Pong:
        statistics = self.statistics()
        return Pong(number, statistics, self._counts(statistics))

    def _counts(self, statistics: dict[str, Any]) -> Counts:
        host, space, stores = self._host, statistics["space"], self.store.shards
        plain = {
            "cache_hits": host.table.budget.hits,
            "cache_misses": host.table.budget.misses,
            "commit_objects": host.objects_committed,
            "activations": host.table.added,
            "key_repeats": host.keyed.repeats,
            "reads_apart": statistics["reads"]["reads_apart"],
            "checkpoints": statistics["checkpoint"]["checkpoints"],
            "alarms": statistics["alarms_rung"],
            "objects_in_memory": statistics["activations"],
            "running_calls": statistics["tasks"],
            "waiting_objects": len(statistics["waiting_objects"]),
            "kept_answers": statistics["answers"],
            "kept_answers_bytes": statistics["answers_bytes"],
            "abandoned_alarms": statistics["alarms_abandoned"],
            "stopped_shards": len(self.store.stopped),
            "sync_waits_seconds": statistics["sync_waits_ms"] / 1_000,
            "log_used_bytes": statistics["log"]["used_bytes"],
            **self.store.log.counts(),
            **{name: space[name] for name in ("log_bytes", "state_bytes", "state_free_bytes", "disk_free_bytes")},
            **{name: statistics[name] for name in ("evictions", "resets", "queued_calls", "held_messages", "cache_bytes")},
        }
        by_shard = {
            "shard_commits": {
                shard: store.seq - self._first_seqs.setdefault(shard, store.seq) for shard, store in stores.items()
            },
            "shard_state_bytes": space["shard_bytes"],
            "shard_memtable_bytes": {shard: store.memtable_bytes for shard, store in stores.items()},
        }
        return {
            **host.counting.counts(),
            **self._committer.counts(),
            **self._endpoint.counts(),
            **{name: [((), value)] for name, value in plain.items()},
            **{name: [((str(shard),), value) for shard, value in values.items()] for name, values in by_shard.items()},
        }

    def statistics(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self._host.statistics()),
            **dataclasses.asdict(self._endpoint.statistics()),
            **dataclasses.asdict(self._committer.statistics()),
            "problems": self._problems(),
            "space": self.store.space()._asdict(),
            "log": self.store.log.statistics()._asdict(),
            "checkpoint": self.store.checkpointer.statistics()._asdict(),
            "reads": self.store.read_statistics()._asdict(),
        }

    def _problems(self) -> list[Problem]:
        found = [
            Problem(f"shard {each.shard} is stopped: {each.problem}", f"{self._name}, {each.place}", each.hint)
            for each in self.store.stopped.values()
        ]
        if (error := self.store.read_only) is not None:
            found.append(Problem(f"nothing can be written: {error.problem}", f"{self._name}, {error.place}", error.hint))
        elif (error := self.store.checkpointer.without_room) is not None:
            what = f"there is no room for what is written, only for deletes: {error.problem}"
            found.append(Problem(what, f"{self._name}, {error.place}", error.hint))
        elif (error := self.store.disk_is_full) is not None:
            what = f"the disk is full, and what is written has room in the log for the time being only: {error.problem}"
            found.append(Problem(what, f"{self._name}, {error.place}", error.hint))
        for shard, error in self._committer.without_room.items():
            if shard in self.store.stopped:
                continue
            what = f"there is no room for what is written in shard {shard}, and so its reads are refused, too: {error.problem}"
            found.append(Problem(what, f"{self._name}, {error.place}", error.hint))
        if (slow_s := self._committer.slow_s) > 0 and self._cluster is not None:
            what = f"a commit has taken {slow_s:.0f} s: the servers that keep the log do not answer; calls wait or are refused"
            hint = "see that most of them run and find each other; nothing is lost, and it goes on by itself"
            found.append(Problem(what, f"{self._name}, {', '.join(without_credentials(self._cluster.servers))}", hint))
        elif slow_s > 0:
            what = f"the disk is slow: a commit has taken {slow_s:.0f} s; what writes waits for it, and nothing is lost"
            hint = "see what else the disk does, and whether the kernel complains of it (`iostat -x`, `dmesg`)"
            found.append(Problem(what, f"{self._name}, {self._data_dir}", hint))
        return found

    # Trouble

    def _on_trouble(self, trouble: CheckpointTrouble) -> None:
        log.error("%s", trouble.error)
        if trouble.fatal:
            self._end(1, 0)

    def _on_damage(self, error: ShardDamaged) -> None:
        """Perhaps in the middle of a call, which must not go on."""
        self._host.stopped.found(error)
        self._loop.call_soon(self._stop_shard, error, context=NEUTRAL)

    def _stop_shard(self, error: ShardDamaged) -> None:
        if self.store.stop(error):
            log.error("%s", error)
            self._host.stopped.stop(error.shard)
            if self._shards is not None:
                self._shards.lost(error.shard)

    def _on_broken(self, error: OperatorError) -> None:
        """The log is unusable and everybody who waited has been told. Only a new process can find out what is durable."""
        log.error("%s; this worker ends and recovers what is durable", error)
        self._refusal = Unavailable("the worker restarts because its log is broken")
        self._endpoint.flush()
        self._end(1, 0)

    async def _leave_when_there_is_room(self) -> None:
        await self.store.wait_for_room()
        self._start_again("there is room again: this worker starts again, to take writes")

    async def _leave_when_the_disk_works(self) -> None:
        await self.store.wait_for_disk(self._data_dir)
        self._start_again("the disk works again: this worker starts again, to serve all of its shards")

    def _start_again(self, why: str) -> None:
        """Only a new process recovers. This one answers before what it has begun."""
        log.warning(why)
        if self._draining is None:
            self._refusal = Unavailable(why)
            self._said_quiet = self._may_leave = True
            self._draining = Draining(self._loop, _START_AGAIN_DRAIN_S, lambda: self._end(1, 0))
            self._end_turn()

    # The end

    async def _prepare(self) -> None:
        await self._checkpoint()
        self._send_control(Prepared())

    def _start_drain(self, timeout_s: float, *, moving: bool) -> None:
        if self._draining is None:
            if moving:
                self._refusal = Moved("the worker is being replaced", details=LEAVING)
            else:
                self._refusal = Unavailable("the service is stopping", details=LEAVING)
            silence = _SILENCE_S, _SILENCE_S_MAX
            self._draining = Draining(self._loop, timeout_s, self._drained, silence_s=silence[0], silence_s_max=silence[1])
            self._host.alarms.stop()
            if self._shards is not None:
                self._shards.end()
            self._end_turn()

    @property
    def _unanswered(self) -> int:
        return self._host.unanswered + self._peers.unanswered

    def _look_what_is_left(self, draining: Draining) -> None:
        everything_is_durable = self._host.output_gate.everything_is_durable
        busy = self._unanswered > 0 or self._endpoint.is_behind
        busy = busy or not everything_is_durable or self._endpoint.statistics().kept_bytes > 0
        if not busy and not self._said_quiet:
            self._said_quiet = True
            self._send_control(Quiet())
            self._loop.create_task(self._checkpoint(), context=NEUTRAL)  # Most of it is done while the others finish.
        if not busy and self._park is not None:
            self._send_control(Parked(self._park.worker, self._park.round))
            self._park = None
        draining.turn_ended(left=busy or not self._may_leave, heard=self._endpoint.messages_in)

    def _peers_answered(self) -> None:
        """What that has woken runs in turns of its own; what nobody waited for any longer wakes nothing."""
        if self._draining is not None:
            self._turn.end_soon()

    def _drained(self) -> None:
        """All is done and the others need this worker no more, or the time is over."""
        self._end_turn()
        self._loop.create_task(self._finish(self._unanswered), context=NEUTRAL)

    async def _finish(self, unanswered: int) -> None:
        await self._host.web.close()
        self._host.offload.close()
        await self._checkpoint()
        self._end(0, unanswered)

    async def _checkpoint(self) -> None:
        """A checkpoint spares the next start the recovery; without it nothing is lost, the log has everything."""
        try:
            async with asyncio.timeout(_DRAIN_CHECKPOINT_S):
                await self.store.checkpointer.finish()
        except (OperatorError, TimeoutError) as exc:
            log.warning(
                "no checkpoint before the stop (%s); the next start recovers from the log", str(exc) or "it took too long"
            )

    def _end(self, exit_code: int, unanswered: int) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(exit_code, unanswered)
