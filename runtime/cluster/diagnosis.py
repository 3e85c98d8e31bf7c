"""What is wrong with the servers, streams and clocks of a cluster, concluded from what they say of themselves; each with the next
step.

Rule: pure. Who asks is `doctor`. What nobody told is no fault: it is `unchecked`, with how to find it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from tidegate.shard.replicated.refusals import ACCOUNT_FULL, next_step

FULL_SHARE = 0.8
"""Of what may be stored: beyond, there is little time left to do something about it."""
CLOCKS_APART_S = 0.5
"""Clocks that are kept in step by NTP are some milliseconds apart."""
PIECE_BYTES_MIN = 64 << 10
"""A `max_payload` below makes many messages, each with its sync, of commits that are nothing unusual."""
_SYNC_HINT = "set `sync_interval: always` in its jetstream block, and restart it; one server after the other"


class Symptom(msgspec.Struct, frozen=True):
    """Something that is not as it has to be, or could not be looked at."""

    what: str
    where: str
    next: str


class Findings(msgspec.Struct):
    problems: list[Symptom] = []
    unchecked: list[Symptom] = []
    fine: list[str] = []
    """What was looked at and is as it has to be, in words."""

    def add(self, more: Findings) -> None:
        self.problems += more.problems
        self.unchecked += more.unchecked
        self.fine += more.fine


class JetStreamConfig(msgspec.Struct, frozen=True):
    """As `/varz` has it."""

    max_storage: int = 0
    sync_always: bool = False
    sync_interval: int = 0
    """In nanoseconds."""


class JetStreamStats(msgspec.Struct, frozen=True):
    storage: int = 0


class JetStreamTold(msgspec.Struct, frozen=True):
    config: JetStreamConfig | None = None
    """None: it is off."""
    stats: JetStreamStats | None = None


class Varz(msgspec.Struct, frozen=True):
    """What the monitoring port of a server tells, as far as it is looked at."""

    server_id: str
    jetstream: JetStreamTold = JetStreamTold()


class ServerInfo(msgspec.Struct, frozen=True):
    """What a server says to whoever connects."""

    server_id: str
    version: str
    max_payload: int


class ServerSeen(NamedTuple):
    """A server that lets the hosts in."""

    where: str
    info: ServerInfo
    varz: Varz | None
    why_not: str
    """Why there is none: what was tried, and what came of it."""


class Replica(msgspec.Struct, frozen=True):
    name: str
    current: bool = False
    offline: bool = False
    lag: int = 0


class ReplicasSeen(msgspec.Struct, frozen=True):
    leader: str = ""
    replicas: tuple[Replica, ...] = ()
    """The others."""


class StreamState(msgspec.Struct, frozen=True):
    bytes: int = 0
    messages: int = 0


class StreamTold(msgspec.Struct, frozen=True):
    config: dict[str, object]
    state: StreamState = StreamState()
    cluster: ReplicasSeen = ReplicasSeen()


class AccountLimits(msgspec.Struct, frozen=True):
    max_storage: int = -1
    max_streams: int = -1
    max_bytes_required: bool = False
    storage_max_stream_bytes: int = -1


class AccountSeen(msgspec.Struct, frozen=True):
    """What the account of the hosts has stored, replicas counted, and may store."""

    storage: int = 0
    streams: int = 0
    limits: AccountLimits = AccountLimits()


def of_servers(servers: Sequence[ServerSeen]) -> Findings:
    """Whether they sync before they confirm, have room, and take messages of the same size."""
    found = Findings()
    syncing = 0
    for server in servers:
        told = server.varz.jetstream if server.varz is not None else None
        if told is None:
            what = f"whether it syncs before it confirms, and how much it may store: {server.why_not}"
            hint = (
                "give it `http: 127.0.0.1:8222` or the like, and name that with --monitor; or look whether its configuration "
                "has `sync_interval: always` in the jetstream block, without which a power cut takes what was confirmed"
            )
            found.unchecked.append(Symptom(what, server.where, hint))
        elif told.config is None:
            found.problems.append(Symptom("has no JetStream", server.where, "give it a jetstream block, with a store_dir"))
        elif not told.config.sync_always:
            every = f"every {told.config.sync_interval / 1e9:g} s" if told.config.sync_interval else "now and then"
            what = f"syncs {every}, and not before it confirms: a power cut takes what was confirmed"
            found.problems.append(Symptom(what, server.where, _SYNC_HINT))
        else:
            syncing += 1
        if told is not None and told.config is not None and told.stats is not None:
            found.problems += _filling(
                server.where, told.stats.storage, told.config.max_storage, "give it a larger max_file_store"
            )
    if syncing:
        found.fine.append(f"{syncing} of {len(servers)} servers sync before they confirm")
    found.problems += _of_payloads(servers)
    versions = sorted({server.info.version for server in servers})
    if servers:
        found.fine.append(f"{len(servers)} servers answer, of version {', '.join(versions)}")
    return found


def _of_payloads(servers: Sequence[ServerSeen]) -> list[Symptom]:
    sizes = {server.info.max_payload for server in servers}
    if len(sizes) > 1:
        said = ", ".join(f"{server.where.removeprefix('server ')}: {server.info.max_payload:,}" for server in servers)
        what = f"max_payload differs ({said}): a host that goes on with another server may send what that one does not take"
        return [Symptom(what, "servers", "set max_payload to the same size on every server")]
    if sizes and min(sizes) < PIECE_BYTES_MIN:
        what = f"max_payload is {min(sizes):,} bytes: a group commit takes many messages, and as many syncs"
        return [Symptom(what, "servers", "leave max_payload at its default of 1 MiB, on every server")]
    return []


def _filling(where: str, stored: int, room: int, hint: str) -> list[Symptom]:
    """`room` of 0 or less: there is no limit."""
    if room <= 0 or stored < FULL_SHARE * room:
        return []
    what = f"{math.floor(100 * stored / room)} % of what may be stored is stored ({_size(stored)} of {_size(room)})"
    return [Symptom(f"{what}; calls are refused when it is full", where, hint)]


def of_stream(name: str, seen: StreamTold, replicas: int) -> list[Symptom]:
    """Whether all replicas are there and have everything, and whether there is room."""
    where = f"stream {name}"
    found: list[Symptom] = []
    has = seen.config.get("num_replicas")
    if has != replicas:  # Of the stream of a shard the settings are looked at too: `wrong_settings`.
        hint = f"nats stream edit {name} --replicas={replicas}"
        found.append(Symptom(f"it has {has} replica(s) instead of {replicas}: the loss of a server loses it", where, hint))
    if not seen.cluster.leader:
        found.append(Symptom("it has no leader: nothing can be stored", where, "see that enough servers of the cluster run"))
    for replica in seen.cluster.replicas:
        if replica.offline or not replica.current:
            behind = f"is {replica.lag:,} messages behind" if replica.lag else "does not have everything yet"
            state = "is not there" if replica.offline else behind
            hint = "see that this server runs and hears the others; another loss now stops the shards"
            found.append(Symptom(f"its replica on {replica.name} {state}", where, hint))
    most = seen.config.get("max_bytes")
    if isinstance(most, int):
        found += _filling(where, seen.state.bytes, most, f"nats stream edit {name} --max-bytes=…")
    return found


def of_account(account: AccountSeen) -> list[Symptom]:
    where = "the account of the hosts"
    found = _filling(where, account.storage, account.limits.max_storage, next_step(ACCOUNT_FULL, "", ""))
    most = account.limits.max_streams
    if 0 < most <= account.streams:
        what = f"it has {account.streams} of {most} streams: no snapshot, no new cluster and no check of the fence finds room"
        found.append(Symptom(what, where, next_step(10027, "", "")))
    if account.limits.max_bytes_required:
        what = "it wants max_bytes of every stream: none can be made, of no cluster and for no snapshot"
        found.append(Symptom(what, where, next_step(10113, "", "")))
    if account.limits.storage_max_stream_bytes > 0:
        what = (
            f"none of its streams may be larger than {_size(account.limits.storage_max_stream_bytes)}: one without a bound, as a"
        )
        found.append(Symptom(f"{what} shard needs it, cannot be made", where, next_step(10122, "", "")))
    return found


def of_clocks(ahead_s: Mapping[str, float]) -> Findings:
    """By host: how far its clock is ahead of whoever asks."""
    if len(ahead_s) < 2:
        return Findings()
    latest, earliest = max(ahead_s, key=lambda name: ahead_s[name]), min(ahead_s, key=lambda name: ahead_s[name])
    apart_s = ahead_s[latest] - ahead_s[earliest]
    if apart_s < CLOCKS_APART_S:
        return Findings(fine=[f"clocks of {len(ahead_s)} hosts are less than {CLOCKS_APART_S:g} s apart"])
    what = (
        f"its clock is {apart_s:,.1f} s ahead of that of {earliest}: alarms ring by the clock of the host that has the shard, "
        "and so too early or too late when it moves (who owns a shard depends on no clock)"
    )
    return Findings([Symptom(what, f"host {latest}", "let chrony or systemd-timesyncd keep the clocks of all hosts")])


def _size(size: int) -> str:
    return f"{size / (1 << 30):,.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):,.1f} MiB"
