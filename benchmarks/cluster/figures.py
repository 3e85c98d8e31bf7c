"""Everything that is measured of a cluster, in one run, and shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import msgspec

from tidegate.benchmarks.cluster.calls import CallFigures, Sizes, UniqueFigures, measure_calls
from tidegate.benchmarks.cluster.losses import LossFigures, measure_losses
from tidegate.benchmarks.cluster.publishes import LogFigures, Publisher, measure_log
from tidegate.benchmarks.processes import scratch_folder
from tidegate.runtime.cluster.nats_servers import NatsServers


class ClusterResult(msgspec.Struct):
    """Of what was asked for."""

    log: LogFigures | None = None
    call: CallFigures | None = None
    unique: UniqueFigures | None = None
    losses: LossFigures | None = None


def measure(options: argparse.Namespace, say: Callable[[str], object]) -> ClusterResult:
    """Raises BenchmarkFailed."""
    found = ClusterResult()
    sizes = (
        Sizes(rounds=1, calls=25, at_once=16, requests=200, objects=20)
        if options.smoke
        else Sizes(rounds=options.rounds, calls=500, at_once=1_024, requests=40_000)
    )
    kills, moves, appends = (1, 1, 50) if options.smoke else (options.kills, options.moves, options.appends)
    with scratch_folder(options.folder) as folder:
        if {"log", "calls"} & {*options.parts}:
            with NatsServers(folder / "nats") as servers, Publisher(servers.urls) as publisher:
                if "log" in options.parts:
                    say("the log beside bare publishes")
                    found.log = measure_log(servers.urls, publisher, appends, options.record_bytes)
                if "calls" in options.parts:
                    say("calls beside bare publishes, and beside the local log")
                    found.call, found.unique = measure_calls(folder, servers.urls, publisher, sizes, patient=not options.smoke)
        if "losses" in options.parts:
            (inner := folder / "losses").mkdir()
            found.losses = measure_losses(inner, kills, moves, say)
    return found


def show(found: ClusterResult) -> None:
    lines: list[str] = []
    if (log := found.log) is not None:
        lines.append(f"{log.appends} group commits of {log.record_bytes} bytes, one at a time, three replicas on this machine")
        for name, times in (("bare fenced publish", log.bare), ("JetStreamLog.append", log.log)):
            lines.append(f"  {name}: p50 {times.p50_us:,} µs, p99 {times.p99_us:,} µs, worst {times.worst_us:,} µs")
        lines.append(f"  {log.ratio:.2f} times the bare publish (p50)")
    if (call := found.call) is not None:
        lines += [
            f"{call.calls} durable calls, one at a time (p50)",
            f"  over the cluster {call.call_p50_us:,} µs, {call.ratio:.2f} times a bare fenced publish ({call.bare_p50_us:,} µs)",
            f"  over the local log {call.local_p50_us:,} µs",
        ]
    if (unique := found.unique) is not None:
        lines += [
            f"unique, {unique.at_once:,} at once",
            f"  over the cluster {unique.cluster:,.0f}/s, {unique.ratio:.2f} times the local log ({unique.local:,.0f}/s)",
            f"  with a shard for each worker {unique.few:,.0f}/s, {unique.few_ratio:.2f} times",
            f"  one publish for each call, and no objects: {unique.naive:,.0f}/s",
        ]
    if (losses := found.losses) is not None:
        kills, moves, quorum = losses.kills, losses.moves, losses.quorum
        lines += [
            f"host killed, {kills.times} times: its objects answer elsewhere after {kills.median_s:.2f} s (median), "
            f"{kills.worst_s:.2f} s (worst)",
            f"shard moved under load, {moves.times} times: {moves.errors} errors in {moves.calls:,} calls, longest call "
            f"{moves.median_ms:,.0f} ms (median), {moves.worst_ms:,.0f} ms (worst)",
            f"majority lost: refused after {quorum.refused_after_s:.1f} s, {quorum.confirmed} confirmed meanwhile; confirmed "
            f"again {quorum.recovered_after_s:.1f} s after it was back",
            f"  {quorum.reason}",
        ]
    sys.stdout.write("\n".join(lines) + "\n")
