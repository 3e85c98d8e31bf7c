"""The rules of the router: which worker gets a call, how many may wait, and who is answered when.

Rule 1: pure. Replies leave through the function given; what is to be sent to a worker is asked for; `now` is an argument.
Rule 2: every call is answered exactly once: by its worker's reply, or by an error that says whether it may have run.
Rule 3: calls of one client to one object reach the worker in the order sent.
Rule 4: arguments and results stay raw. Options are read only in messages that have a deadline somewhere, are JSON, or have to
wait: a call is answered at its deadline even if its worker is not able to.

Whether a worker is alive is the supervisor's knowledge: it tells by a new topology.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any
from zlib import crc32

import msgspec

from tidegate.router.system import SystemCalls
from tidegate.runtime.errors import (
    LEAVING,
    BadRequest,
    CallError,
    DeadlineExceeded,
    Internal,
    Moved,
    Overloaded,
    ShardLost,
    Unavailable,
)
from tidegate.runtime.ids import SLOT_MASK, slot_of
from tidegate.runtime.limits import (
    BUDGET_BYTES,
    BUDGET_SHARE,
    CALLS_SHARE,
    LARGE_BYTES,
    RETRY_UNREAD_MS,
    ROUTER_CALLS_PER_WORKER_MAX,
)
from tidegate.runtime.shares import Shares
from tidegate.runtime.sockets.inflight import Expiry, InFlight, Unanswered
from tidegate.runtime.sockets.inquiries import Inquiries
from tidegate.runtime.sockets.moving_inflight import HostInFlight, MovingInFlight
from tidegate.runtime.wire.counts import Counts, Histogram, rows
from tidegate.runtime.wire.protocol import (
    ERROR,
    OK,
    REFUSE_CALLS,
    Message,
    Origin,
    Reply,
    Request,
    encode,
    is_too_deep,
    parse_options,
    with_deadline_ms,
    with_due_s,
)
from tidegate.runtime.wire.sessions import give_keys, is_head
from tidegate.runtime.wire.slots import SlotTable
from tidegate.runtime.wire.supervisor_messages import Parked, Topology, Waited

ReplyTo = Callable[[Origin, int | str, int, Any], None]

_DEADLINE = b"deadline_ms"
_REFUSED_ID = "refused"
_CROWDED = Overloaded("the client has too many replies to read", retry_after_ms=RETRY_UNREAD_MS)
_CALL_OVERHEAD_BYTES = 256
"""What a call costs beside its bytes: the request, its entry, its tuple."""


class RouterMachine:
    """Takes messages of clients, replies of workers, topologies and time; answers through `reply`."""

    def __init__(
        self,
        topology: Topology,
        reply: ReplyTo,
        *,
        statistics: Callable[[], dict[str, Any]] | None = None,
        forgotten: Callable[[int, int], object] = lambda worker, calls: None,
        crowded: AbstractSet[bytes] = frozenset(),
        put_off: Callable[[], int] = lambda: 0,
        calls_max: int = ROUTER_CALLS_PER_WORKER_MAX,
        bytes_max: int = BUDGET_BYTES // BUDGET_SHARE,
        is_door: bool = False,
    ) -> None:
        """`statistics` is what the system call `status` tells about this router; the machine's own unless given. `forgotten`
        is told of a worker and how many calls it no longer knew. `crowded` are the clients that have too many replies to take
        before anything else is done for them. `put_off` tells the bytes of messages that wait to be handled. `calls_max` holds
        for each worker, `bytes_max` for all together and for what is put off. `is_door`: what comes has been passed on by another
        host already, and is not passed on again."""
        self._is_door = is_door
        self._reply = reply
        self._statistics = statistics or self.statistics
        self._report_forgotten = forgotten
        self._calls_max = calls_max
        self._shared_from = calls_max // CALLS_SHARE
        """From so many calls of a worker on it is asked how many of them the client has."""
        self._bytes_max = self._room_bytes = bytes_max
        """Bytes of calls that may be taken at least, and when they are used up it is looked again."""
        self._crowded = crowded
        self._put_off = put_off
        self._told_crowded: set[bytes] = set()
        """Those of them of whom nothing is to be started any more, and all workers know that."""
        self._topology = topology
        self._table = SlotTable(topology)
        self._system = SystemCalls(self._table)
        self._too_many_wires: dict[tuple[int, bool], Any] = {}
        self._next_token = 0
        self._draining = False
        self._refused = self._lost = self._stray = self._overdue = self._forgotten = 0
        self._answers = Histogram()
        self._errors: dict[str, int] = {}
        self._early = False
        """Calls wait of which another host has said that it does not have their shards any more."""
        self._parked: dict[int, int] = {}
        """Workers that are about to be replaced, and the newest round of that."""
        self._holds = False
        self._to_say: list[Parked | Waited] = []
        self.timer_is_late = False
        """`next_deadline` may be sooner than it was."""
        self.workers: list[InFlight] = []
        self._inquiries: list[Inquiries] = []
        self._shares: list[Shares] = []
        self._by_slot: list[InFlight] = []
        self.topology_changed(topology, 0.0)

    # Calls of clients

    def handle(self, message: Message, now: float) -> None:
        """What raises here is a fault of ours. Then those requests are left in the message which are neither taken nor answered,
        under their own ids."""
        if len(message.requests) > 1 and is_head(message.requests[0]):
            for refused, problem in give_keys(message):
                self._refuse(message.origin, refused.id, problem)
        origin, requests, request = message.origin, message.requests, None
        # Undecoded arguments keep the whole body in memory, so each call counts for its share of that.
        size = message.size // max(len(requests), 1) + _CALL_OVERHEAD_BYTES
        arrived_s = origin.arrived_s = origin.arrived_s or now
        try:
            if (refusal := self._refusal(origin.client, message.size)) is not None:
                for request in requests:
                    self._refuse_or_answer_system(origin, request, refusal)
                return
            self._room_bytes -= message.size + _CALL_OVERHEAD_BYTES * len(requests)
            if message.size >= LARGE_BYTES and not origin.json:
                self._route_alone(origin, requests, size, now, arrived_s)
                return
            if origin.json or self._draining or is_too_deep(message.body, json=False):
                for request in requests:
                    self._route(origin, request, size, now, arrived_s)
                return
            by_slot, calls_max = self._by_slot, self._shared_from
            if _DEADLINE in message.body:
                calls_max = 0  # Each is taken with a look at its options.
            for request in requests:
                name = request.name
                if not name or not request.cls or "{" in name:
                    self._route(origin, request, size, now, arrived_s)
                    continue
                worker = by_slot[crc32(f"{request.cls}/{name}".encode()) & SLOT_MASK]
                unanswered = worker.unanswered
                if worker.endpoint is None or len(unanswered) >= calls_max:
                    self._take(worker, origin, request, size, now, arrived_s)
                    continue
                # What follows is `worker.add` for MessagePack, written out: calling it costs a third of the whole.
                token = self._next_token
                self._next_token = token + 1
                unanswered[token] = (origin, request.id, size)
                worker.bytes += size
                request.id = token
                worker.rows.append(request)
        except BaseException:
            message.requests = self._left(requests, request)
            raise

    def _refusal(self, client: bytes, size: int) -> Overloaded | None:
        """Why no calls of so many bytes are taken from the client now. No message takes more than a third of what is free, so
        that large ones leave room for small ones."""
        if client in self._crowded:
            return _CROWDED
        if size * 3 <= self._room_bytes:
            return None
        self._room_bytes = self._bytes_max - self.bytes - self._put_off()
        if size * 3 <= self._room_bytes:
            return None
        return Overloaded(f"{self._bytes_max - self._room_bytes} bytes of calls wait for answers in the router")

    def refuse_for_crowded(self) -> list[tuple[int, bytes]]:
        """To be called when replies have been sent, while clients are crowded. What has been started for them will find room;
        nothing more is to be: calls that no worker has seen are refused here, and of the others workers are told: to which, and
        what."""
        clients = self._crowded - self._told_crowded
        if not clients:
            return []
        self._told_crowded |= clients
        told = []
        for worker in self.workers:
            for origin, request_id, _ in worker.take_unsent_of(clients):
                self._refuse(origin, request_id, _CROWDED)
            if worker.process is not None and (tokens := worker.tokens_of(clients)):
                told.append((worker.worker, encode([[_REFUSED_ID, "", "", REFUSE_CALLS, [tokens]]])))
        return told

    def crowded_no_longer(self, client: bytes) -> None:
        self._told_crowded.discard(client)

    def _refuse_or_answer_system(self, origin: Origin, request: Request, refusal: Overloaded) -> None:
        if not request.cls:
            self._answer_system(origin, request)
        else:
            self._refuse(origin, request.id, refusal)

    def _left(self, requests: list[Request], at_hand: Request | None) -> list[Request]:
        """What comes before the request at hand is taken or answered. It may be taken itself."""
        at = next((at for at, request in enumerate(requests) if request is at_hand), 0)
        is_taken = at_hand is not None and any(worker.is_unsent(at_hand) for worker in self.workers)
        return requests[at + is_taken :]

    def _route_alone(self, origin: Origin, requests: list[Request], size: int, now: float, arrived_s: float) -> None:
        """Those of a large message, which is not copied for a look at how deeply it is nested: they share no message with
        others, which a worker that cannot read it could not read either."""
        for worker in self.workers:
            worker.end_batch()
        for request in requests:
            self._route(origin, request, size, now, arrived_s, look=False)
        for worker in self.workers:
            worker.end_batch()

    def _route(self, origin: Origin, request: Request, size: int, now: float, arrived_s: float, *, look: bool = True) -> None:
        """The same for one request that needs a closer look."""
        if not request.cls:
            self._answer_system(origin, request)
        elif self._draining:
            self._refuse(origin, request.id, Unavailable("the service is stopping", details=LEAVING))
        elif not request.name:
            self._refuse(origin, request.id, BadRequest("the name must not be empty"))
        elif look and (is_too_deep(request.args, json=origin.json) or is_too_deep(request.options, json=origin.json)):
            self._refuse(origin, request.id, BadRequest("the arguments or options are nested too deeply"))
        else:
            self._take(self._by_slot[slot_of(request.cls, request.name)], origin, request, size, now, arrived_s)

    def _take(self, worker: InFlight, origin: Origin, request: Request, size: int, now: float, arrived_s: float) -> None:
        """`arrived_s`: from then on its deadline counts."""
        if self._is_door and isinstance(worker, HostInFlight):
            self._refuse(origin, request.id, Moved("this host does not have the object's shard; ask for the topology"))
            return
        unanswered = len(worker.unanswered)
        if unanswered >= self._shared_from and not self._shares[worker.worker].takes(origin.client, unanswered):
            self._refused += 1
            self._count_errors(Overloaded.code, 1)
            self._reply(origin, request.id, ERROR, self._too_many(worker.worker, unanswered < self._calls_max))
            return
        try:
            deadline_ms = parse_options(request.options, json=origin.json).deadline_ms
            if deadline_ms is not None:
                request.options = with_due_s(request.options, arrived_s + deadline_ms / 1_000, json=origin.json)
        except BadRequest as error:
            self._refuse(origin, request.id, error)
            return
        token = self._next_token
        self._next_token += 1
        worker.add(token, request, origin, size)
        if worker.endpoint is None:
            worker.add_wait(token, now)
            self.timer_is_late = True
        if deadline_ms is not None:
            worker.add_deadline(token, arrived_s, deadline_ms)
            self.timer_is_late = True

    def _too_many(self, worker: int, of_this_client: bool) -> Any:
        """Once for all: one message may have a million calls."""
        wire = self._too_many_wires.get((worker, of_this_client))
        if wire is None:
            whose = " of this client" if of_this_client else ""
            wire = Overloaded(f"too many calls{whose} wait for worker {worker}").to_wire()
            self._too_many_wires[worker, of_this_client] = wire
        return wire

    def _count_errors(self, code: str, calls: int) -> None:
        self._errors[code] = self._errors.get(code, 0) + calls

    def _refuse(self, origin: Origin, request_id: int | str, error: CallError) -> None:
        self._refused += 1
        self._count_errors(error.code, 1)
        self._reply(origin, request_id, ERROR, error.to_wire())

    def _answer_system(self, origin: Origin, request: Request) -> None:
        try:
            self._reply(origin, request.id, OK, self._system.answer(request.method, self._statistics))
        except CallError as error:
            self._reply(origin, request.id, ERROR, error.to_wire())

    # Replies of workers

    def replied(self, worker: InFlight, replies: list[Reply], now: float = 0.0) -> None:
        """Without `now` it is not noted how long they have taken."""
        pop: Callable[[Any, None], Unanswered | None] = worker.unanswered.pop
        reply_to = self._reply
        freed = answers = 0
        message: Origin | None = None
        for reply in replies:
            call = pop(reply.id, None)
            if call is None:
                self._take_answer(worker, reply)
                continue
            origin, request_id, size = call
            freed += size
            if origin is not message:
                if message is not None and now:
                    self._answers.observe(now - message.arrived_s, answers)
                message, answers = origin, 0
            answers += 1
            reply_to(origin, request_id, reply.status, reply.result)
        worker.bytes -= freed
        if message is not None and now:
            self._answers.observe(now - message.arrived_s, answers)

    def moving_replied(self, worker: MovingInFlight, replies: list[Reply], now: float) -> None:
        """The same of another host, and of a worker of a cluster. What it has not taken goes to who has the shard now, or waits
        until that is known."""
        replies, refused = worker.sort(replies)
        self.replied(worker, replies, now)
        for (origin, _, size), request in refused:
            if self._draining:
                self._refuse(origin, request.id, Unavailable("the service is stopping", details=LEAVING))
                continue
            home = self._by_slot[slot_of(request.cls, request.name)]
            if home is worker:  # It knew sooner than we.
                assert self._topology.nobody is not None
                home = self.workers[self._topology.nobody]
                self._early = True
            _count_from(request, now, json=origin.json)
            self._take(home, origin, request, size, now, now)

    def _take_answer(self, worker: InFlight, reply: Reply) -> None:
        """To a mark, to a question of ours, or to nothing that is known."""
        if reply.id is not None and (reply.id == _REFUSED_ID or worker.has_read(reply.id)):
            return
        forgotten = self._inquiries[worker.worker].reply(reply)
        if forgotten is None:
            self._stray += 1
        elif forgotten:
            self._forgotten += len(forgotten)
            self._report_forgotten(worker.worker, len(forgotten))
            error = Internal(f"worker {worker.worker} no longer knows of the call", outcome="unknown")
            self._answer_all(forgotten, error)

    def ask_about_old_calls(self) -> list[tuple[int, bytes]]:
        """To be called every few seconds while calls are in flight. Worker and question. Calls to the doors of other hosts are
        not asked for: these know of no call what its worker does."""
        asked = [
            (worker, inquiries.ask(self._next_token))
            for worker, inquiries in enumerate(self._inquiries)
            if not isinstance(self.workers[worker], HostInFlight)
        ]
        return [(worker, question) for worker, question in asked if question is not None]

    # Workers come and go

    def topology_changed(self, topology: Topology, now: float) -> None:
        """Calls in flight to a worker that is down, or another process than before, are answered `shard_lost`; the
        replies that it sent before must have been given to `replied`. Calls that waited for it may go out."""
        table, is_newer = SlotTable(topology), topology.epoch != self._topology.epoch
        self._topology = topology
        while len(self.workers) < len(topology.endpoints):
            index = len(self.workers)
            self.workers.append(self._new_worker(index, topology.nobody))
            self._inquiries.append(Inquiries(self.workers[-1]))
            self._shares.append(Shares(self._calls_max, self.workers[-1].clients))
        endpoints = (*topology.endpoints, *[None] * (len(self.workers) - len(topology.endpoints)))
        for worker, endpoint in zip(self.workers, endpoints, strict=True):
            if worker.process is not None and worker.process != endpoint:
                error = ShardLost(f"worker {worker.worker} was lost with the call in flight")
                self._answer_all(worker.take_lost(now), error)
            if endpoint is not None and worker.process is None:
                waited, longest_s = worker.came_up(endpoint, now)
                if self._parked.pop(worker.worker, None) is not None:
                    self._to_say.append(Waited(worker.worker, waited, longest_s * 1_000))
                if self._holds:
                    worker.park(now)
            worker.set_down(now, is_down=worker.worker in topology.down)
        self.timer_is_late = True
        moved = table.owners != self._table.owners
        self._table = table
        self._tell_topology()
        if moved or (self._early and is_newer) or not self._by_slot:
            self._early = False  # Not because a connection has come up: who refused a call would get it again.
            self._by_slot = [self.workers[worker] for worker in table.worker_by_slot]
            self._reroute_unsent(now)

    def _new_worker(self, index: int, nobody: int | None) -> InFlight:
        if nobody is None or (self._is_door and index <= nobody):  # What a door cannot pass on goes back to who has sent it.
            return InFlight(index)
        return HostInFlight(index) if index > nobody else MovingInFlight(index)

    def _tell_topology(self) -> None:
        """Clients are not sent to a worker that takes no calls, nor to the door of another host, which hears hosts only."""
        first_host = len(self._topology.endpoints) if self._topology.nobody is None else self._topology.nobody
        endpoints = tuple(
            None if self._holds or index in self._parked or index >= first_host else each
            for index, each in enumerate(self._topology.endpoints)
        )
        self._system.topology_changed(SlotTable(msgspec.structs.replace(self._topology, endpoints=endpoints)))

    def park(self, worker: int, round_number: int, now: float) -> None:
        """It is about to be replaced: calls wait for its successor. `take_said` tells when nothing is left with it."""
        if worker < len(self.workers):
            self._parked[worker] = round_number
            self.workers[worker].park(now)
            self.timer_is_late = True
            self._tell_topology()

    def hold(self, now: float, *, on: bool) -> None:
        """Calls wait for all workers, or no longer."""
        self._holds = on
        self.timer_is_late = True
        for worker in self.workers:
            if on:
                worker.park(now)
            elif worker.process is not None and worker.endpoint is None and worker.worker not in self._parked:
                worker.came_up(worker.process, now)
        self._tell_topology()

    def take_said(self) -> list[Parked | Waited]:
        """To be told to the supervisor."""
        for worker, round_number in self._parked.items():
            if round_number and not self.workers[worker].has_sent():
                self._to_say.append(Parked(worker, round_number))
                self._parked[worker] = 0  # Said.
        said, self._to_say = self._to_say, []
        return said

    @property
    def has_to_say(self) -> bool:
        return bool(self._to_say or self._parked)

    def _reroute_unsent(self, now: float) -> None:
        """Shards have changed hands: what waits must wait at the new owner, and its deadline stays."""
        for worker in self.workers:
            worker.count_wait(now)
        for call, request in [taken for worker in self.workers for taken in worker.take_unsent()]:
            self._route(call[0], request, call[2], now, now)

    def status_changed(self, status: dict[str, Any]) -> None:
        self._system.status_changed(status)

    # Time

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to be called; None when nothing waits."""
        deadlines = [deadline for worker in self.workers if (deadline := worker.next_deadline()) is not None]
        return min(deadlines, default=None)

    def handle_timer(self, now: float) -> None:
        for worker in self.workers:
            for (origin, request_id, _), expiry in worker.take_expired(now):
                if expiry is Expiry.SENT:
                    text = f"the deadline passed while worker {worker.worker} had the call"
                    self._overdue += 1
                    self._count_errors(DeadlineExceeded.code, 1)
                    self._reply(origin, request_id, ERROR, DeadlineExceeded(text, outcome="unknown").to_wire())
                elif expiry is Expiry.UNSENT:
                    self._refuse(origin, request_id, DeadlineExceeded("the deadline passed before the worker was there"))
                elif worker.worker == self._topology.nobody:
                    self._refuse(origin, request_id, Unavailable("the object's shard is on its way from one worker to another"))
                else:
                    state = "is down" if worker.is_down else "is still being started"
                    self._refuse(origin, request_id, Unavailable(f"worker {worker.worker} {state}"))

    # The end

    def start_drain(self) -> None:
        """From now on calls are refused as `unavailable`; those already taken go on. Who waits for a worker is refused, too."""
        self._draining = True
        for worker in self.workers:
            if worker.process is None:
                self._refuse_unsent(worker)

    def _refuse_unsent(self, worker: InFlight) -> int:
        unsent = worker.take_unsent()
        self._answer_all([call for call, _ in unsent], Unavailable("the service is stopping", details=LEAVING))
        return len(unsent)

    def give_up(self) -> int:
        """Answers everything that is still unanswered. Returns how many calls that were."""
        given_up = 0
        for worker in self.workers:
            given_up += self._refuse_unsent(worker)
            sent = worker.take_all()
            self._answer_all(sent, ShardLost("the service stopped with the call in flight"))
            given_up += len(sent)
        return given_up

    def _answer_all(self, calls: list[Unanswered], error: CallError) -> None:
        wire = error.to_wire()
        self._lost += len(calls)
        self._count_errors(error.code, len(calls))
        for origin, request_id, _ in calls:
            self._reply(origin, request_id, ERROR, wire)

    # Numbers

    def unanswered(self) -> int:
        return sum(len(worker.unanswered) for worker in self.workers)

    @property
    def bytes(self) -> int:
        """Of calls that are not answered."""
        return sum(worker.bytes for worker in self.workers)

    @property
    def stray_replies(self) -> int:
        """To no call that is known."""
        return self._stray

    def endpoint_of(self, worker: int) -> str | None:
        return self.workers[worker].process if worker < len(self.workers) else None

    def counts(self) -> Counts:
        return {
            "router_calls": [((), self._next_token)],
            "router_errors": [((code,), count) for code, count in self._errors.items()],
            "router_answer_seconds": rows([((), self._answers)]),
            "router_calls_in_flight": [((), self.unanswered())],
            "router_bytes_in_flight": [((), sum(worker.bytes for worker in self.workers))],
        }

    def statistics(self) -> dict[str, Any]:
        return {
            "epoch": self._table.epoch,
            "draining": self._draining,
            "calls": self._next_token,
            "refused": self._refused,
            "lost": self._lost,
            "overdue": self._overdue,
            "forgotten": self._forgotten,
            "stray_replies": self._stray,
            "in_flight": [len(worker.unanswered) for worker in self.workers],
            "in_flight_bytes": [worker.bytes for worker in self.workers],
        }

    def check_invariants(self) -> None:
        for worker in self.workers:
            worker.check_invariants()
            assert worker.process == (self._table.endpoints + (None,) * len(self.workers))[worker.worker]
            assert (worker.endpoint is None) == (worker.process is None or self._holds or worker.worker in self._parked)


def _count_from(request: Request, now: float, *, json: bool) -> None:
    """Its deadline is as many milliseconds from now as are left. (What it is given in may have been shortened before, by what it
    had waited for a worker; when it is over has stayed the same.)"""
    options = parse_options(request.options, json=json)
    if options.deadline_ms is not None:
        assert options.due_s is not None, "it was taken before"
        request.options = with_deadline_ms(request.options, max(0, round((options.due_s - now) * 1_000)), json=json)
