"""Every metric of a service: its name, its kind, its labels, and what it means to an operator. Pure.

Names follow Prometheus' conventions: the prefix, base units (seconds, bytes), `_total` for what only grows. The page of the
metrics in `docs` is compared with this table by a test.

Rule: no label has values that somebody outside decides: classes are those of the app, shards and processes are known, codes and
reasons are ours. Names of objects are never in it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tidegate.runtime.wire.counts import NUMBERS, SIZES, TIMES_S

PREFIX = "tidegate_"


class Kind(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    key: str
    """In the counts of a process."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    by_process: bool = False
    """Each process has its own, with the label `process`. Else it is of the service: processes are added up."""
    bounds: tuple[float, ...] = ()
    """Of the buckets of a histogram."""

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.key}{'_total' if self.kind is Kind.COUNTER else ''}"


def _count(key: str, text: str, *labels: str, by_process: bool = False) -> Metric:
    return Metric(key, Kind.COUNTER, text, labels, by_process)


def _gauge(key: str, text: str, *labels: str, by_process: bool = False) -> Metric:
    return Metric(key, Kind.GAUGE, text, labels, by_process)


def _histogram(key: str, text: str, *labels: str, by_process: bool = False, bounds: tuple[float, ...] = TIMES_S) -> Metric:
    return Metric(key, Kind.HISTOGRAM, text, labels, by_process, bounds)


def _each(*metrics: Metric) -> tuple[Metric, ...]:
    """Of each process."""
    return tuple(Metric(each.key, each.kind, each.help, each.labels, True, each.bounds) for each in metrics)


CALLS = (
    _count("calls", "Calls that were run, and alarms.", "class"),
    _count("shard_calls", "Calls that were run, by shard: one with far more than the others is hot.", "shard"),
    _count(
        "call_errors",
        "Errors that callers were given by workers, by code (docs/protocol.md says what each means). Class (unknown): what was "
        "called is no class of the app.",
        "class",
        "code",
    ),
    _histogram(
        "call_answer_seconds",
        "From the arrival of a call at its worker until its reply may leave: queue, run, and the commit it waits for.",
        "class",
    ),
    _histogram("call_queue_seconds", "From the arrival of a call at its worker until it is started.", "class"),
    _histogram(
        "call_run_seconds",
        "From the start of a call to its end, with all that it awaits. Calls that await nothing but cached storage are measured "
        "many at a time: their number and sum are exact, each is taken for the mean.",
        "class",
    ),
    _histogram(
        "gate_closed_seconds",
        "How long reads from disk, transactions, critical sections and starts kept the input gate of an object closed.",
        "class",
    ),
)

WORKERS = _each(
    _histogram("commit_seconds", "A group commit, from its cut until the replies that waited for it may leave."),
    _histogram("sync_seconds", "To write one commit to the log and sync it (fdatasync): the disk."),
    _histogram("commit_bytes", "Bytes that one commit appends to the log.", bounds=SIZES),
    _histogram("commit_messages", "Replies and other messages that waited for one commit.", bounds=NUMBERS),
    _count("commit_objects", "Objects whose writes were committed, each once for each commit."),
    _count("cache_hits", "Reads of a key that the cache could answer."),
    _count("cache_misses", "Reads of a key that had to ask the store: its memtables, or the disk."),
    _count("reads_apart", "Reads made by a thread beside the loop, because what they want might be on disk only."),
    _count("activations", "Objects that were brought into memory."),
    _count("evictions", "Objects that left memory because nobody used them, or memory was short."),
    _count("resets", "Objects that were reset: by abort, by a failed write, by a section that failed or took too long."),
    _count("alarms", "Alarms that rang, those tried again among them."),
    _count("key_repeats", "Calls with a key that were answered what another one was."),
    _count("checkpoints", "Checkpoints: what is in the log moves into the states, and the log is shortened."),
    _gauge("objects_in_memory", "Objects that are in memory."),
    _gauge("running_calls", "Calls that have begun and wait for something."),
    _gauge("queued_calls", "Calls that wait to be started."),
    _gauge("held_messages", "Replies and other messages behind the output gate: they wait for a commit."),
    _gauge("waiting_objects", "Objects behind whose input gate somebody has waited for more than a second (20 at most)."),
    _gauge("cache_bytes", "Memory of objects and cached data, as it is accounted for."),
    _gauge("kept_answers", "Answers that are kept for calls with a key."),
    _gauge("kept_answers_bytes", "Memory that answers take which are kept for calls with a key."),
    _gauge("abandoned_alarms", "Alarms that were given up because their handlers failed again and again: tidegate alarms."),
    _gauge("stopped_shards", "Shards that are not served because they are damaged, or their files cannot be written."),
    _gauge("sync_waits_seconds", "How long the append that is under way has taken so far."),
    _gauge("log_bytes", "What the commit log takes of the disk."),
    _gauge("log_used_bytes", "Of the commit log, what holds records that are not in a state yet."),
    _gauge("state_bytes", "What the states (LMDB) of all shards take of the disk."),
    _gauge("state_free_bytes", "Of the states, what holds nothing and is used again."),
    _gauge("disk_free_bytes", "What is free on the file system of the data."),
)

SHARDS = (
    _gauge("shard_state_bytes", "What the state (LMDB) of a shard takes of the disk.", "shard"),
    _gauge("shard_memtable_bytes", "What a shard has in memory, and in the log, that is not in its state yet.", "shard"),
    _count("shard_commits", "Commits that have changed a shard.", "shard"),
)

ENDPOINTS = _each(
    _count("messages_received", "Messages that came in; one may have many calls."),
    _count("messages_sent", "Messages that went out; one may have many replies."),
    _count(
        "drops",
        "What was dropped, by reason: malformed (no message of the protocol, nobody to answer), undeliverable (replies to a "
        "client that has gone or does not read), foreign_peer (connections that did not speak ZMTP 3, or were no stream of "
        "Tidegate's), unfinished (connections with a message that did not end), stray_reply and unreadable_reply (of workers, at "
        "the router).",
        "reason",
    ),
    _count(
        "access_refused",
        "Connections that were turned away, by reason: no_key (the client has no access key, or left), other_service (it has the "
        "public key of another service), unknown_key (its key is not on the list), flood (too many or too talkative before "
        "they were greeted). All 0 where no keys are asked for.",
        "reason",
    ),
    _count("access_refused_calls", "Calls that were refused because the access key of the client does not allow them."),
    _count("connections_accepted", "Connections that were accepted."),
    _gauge("connections", "Connections that are open: clients, and the service's own processes."),
    _gauge("stream_connections", "Of these, unix streams of Python clients on this host."),
    _gauge("connections_refused", "1 while nobody else is let in, because few file descriptors are left."),
    _gauge("untaken_reply_bytes", "Replies that clients have not taken yet."),
)

ROUTERS = _each(
    _count("router_calls", "Calls that a router has taken."),
    _count("router_errors", "Errors that callers were given by a router itself, by code.", "code"),
    _histogram("router_answer_seconds", "From the arrival of a call at a router until its worker has answered."),
    _gauge("router_calls_in_flight", "Calls that a router has taken and that are not answered yet."),
    _gauge("router_bytes_in_flight", "Memory that those calls take."),
)

PROCESSES = _each(
    _gauge("process_up", "1 while the process serves."),
    _count("process_restarts", "How often the process was started again since the start of the service."),
    _gauge("process_last_answer_seconds", "How long ago it answered a ping, one of which comes every 2 s: a hung process grows."),
    _histogram("loop_lag_seconds", "How late its event loop was: from a ping of the supervisor to the answer."),
    _count("held_up", "Times that code of an object held up its worker and was interrupted."),
    _gauge("process_resident_memory_bytes", "Memory of the process."),
    _count("process_cpu_seconds", "Processor time of the process that is there now."),
    _gauge("process_open_fds", "File descriptors that are open."),
    _gauge("process_max_fds", "How many it may have."),
    _gauge("process_start_time_seconds", "When it was started, in Unix time."),
)

SERVICE = (
    _gauge("info", "Always 1: which version of Tidegate serves which app.", "version", "app", "app_version", "python"),
    _gauge("ready", "1 while calls are served: what /readyz answers."),
    _gauge("problems", "What is wrong now; tidegate status says what, where, and what to do."),
    _gauge("backup_time_seconds", "When the newest backup that succeeded had ended, in Unix time; 0 while none is known."),
    _gauge("quarantined_objects", "Objects of which nothing runs for a while: their code held up or ended its worker."),
    _count("scrapes", "How often the metrics were asked for."),
)

CLUSTER = (
    _gauge("cluster_hosts", "Hosts of the cluster, by state: here, drains, waits (gets no shards yet), lost.", "state"),
    _gauge("cluster_host_weight", "By which this host gets shards, and load: the cores that its workers have."),
    _gauge("cluster_shards_owned", "Shards that this host serves."),
    _gauge("cluster_shards_wanted", "Shards that this host is to have."),
    _gauge("cluster_shards_moving", "Shards of the cluster that are served by another host than should, or by nobody."),
    _gauge("cluster_shards_unserved", "Shards of the cluster that nobody serves, as far as this host hears."),
    _gauge("cluster_placement_revision", "Which version of the placement this host goes by; it grows."),
    _gauge("cluster_placement_age_seconds", "How long ago this host has read the placement, which it does each second."),
    _gauge("cluster_apart", "1 while this host hears nothing of the others: tidegate status says why."),
    *_each(
        _count("cluster_publishes", "Messages sent to the logs of shards, those that were sent again among them."),
        _count("cluster_in_doubt", "Of these, those of which the answer, or none, did not say whether they are stored."),
        _count("cluster_claims", "Shards that a worker has claimed."),
        _count("cluster_shut_outs", "Shards that another host has claimed while a worker had them, or claimed them."),
        _count("cluster_replayed_bytes", "Bytes of records that were read because a state lacked them."),
        _count("cluster_reconnects", "How often a worker has connected to a NATS server anew."),
        _gauge(
            "cluster_snapshot_age_seconds",
            "How old the oldest is of the newest snapshots of the shards that a worker serves; of a shard without one, for how "
            "long that is known.",
        ),
    ),
)
"""With `--cluster` only."""

_GROUPS = (CALLS, WORKERS, SHARDS, ENDPOINTS, ROUTERS, PROCESSES, SERVICE, CLUSTER)
CATALOGUE = {metric.key: metric for group in _GROUPS for metric in group}
