"""`tidegate migrate`: a data directory becomes a cluster, or a cluster a data directory."""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.runtime.addresses import cluster_of, cluster_shown
from tidegate.runtime.cli.above_data import above_of_root
from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.commands.check import add_data, progress
from tidegate.runtime.cli.commands.cluster import cluster_named, with_nats
from tidegate.runtime.cli.exits import EXIT_OK, fail_usage
from tidegate.runtime.cli.pages import mebibytes, plural
from tidegate.runtime.data.directory import open_idle_directory
from tidegate.runtime.data.folder_above import FolderAbove
from tidegate.runtime.data.successor import Successor
from tidegate.runtime.errors import OperatorError

if TYPE_CHECKING:  # Loaded where it is needed, since it needs NATS.
    from typing import Any

    from tidegate.shard.migration.claimed import ClusterLogs
    from tidegate.shard.migration.into_cluster import Migrated

_EPILOG = """--to: everything that a start of the stopped service would find (objects, alarms, answers to keys) goes into a new
cluster of as many shards. Each shard is read back, as a host would read it, and compared; only then can hosts join.
DATA is only read. Killed, it is given again: what is there already is not put there twice.

--from: while no host of the cluster runs, what its logs have becomes a data directory for a service without a cluster, read
twice and compared. The cluster stays as it is.

Not in a cluster: DATA/access.json (copy it to every host), backups. The two that there are then, DATA and the cluster,
know nothing of each other: serve one of them only.

examples:
  tidegate migrate /var/lib/shop --to nats://a:4222,nats://b:4222,nats://c:4222/shop
  tidegate migrate /var/lib/shop --from nats://a:4222,nats://b:4222,nats://c:4222/shop --yes
  tidegate migrate --undo nats://a:4222,nats://b:4222,nats://c:4222/shop
"""
_OPERATION = "migrate"


def add(commands: Any) -> None:
    command = add_command(commands, "migrate", _EPILOG, with_nats(run))
    add_data(command)
    command.set_defaults(
        works_on=lambda options: None if options.undo else options.data,
        parts=lambda options, owner: above_of_root(owner, options.data),
    )
    where = command.add_mutually_exclusive_group(required=True)
    for flag, dest, what in (
        ("--to", "to", "put DATA into this cluster, which is new; as in: serve --cluster"),
        ("--from", "source", "make DATA of this cluster, whose hosts are stopped"),
        ("--undo", "undo", "remove from the servers what a --to that did not end has left there"),
    ):
        where.add_argument(flag, dest=dest, metavar="SERVERS", type=cluster_named, help=what)
    what = "with --from: replace the data that is there, which is kept as DATA.before-TIME"
    command.add_argument("--yes", action="store_true", help=what)
    command.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(options: argparse.Namespace) -> int:
    text = options.to or options.source or options.undo
    if not text:
        return fail_usage("migrate: name the cluster: nats://a:4222,nats://b:4222,nats://c:4222/NAME")
    from tidegate.shard.migration.claimed import ClusterLogs

    place = ClusterLogs(*cluster_of(text))
    shown = str(cluster_shown(text))
    if options.undo:
        return _undo(options, place)
    return _into(options, place, shown) if options.to else _out_of(options, place, shown)


def _into(options: argparse.Namespace, place: ClusterLogs, shown: str) -> int:
    from tidegate.shard.migration.into_cluster import put_into_cluster

    data: Path = options.data.absolute()
    with open_idle_directory(data) as directory:
        above = options.of_root.get("above") or FolderAbove(data)
        aside = Path(above.make())
        try:
            done = put_into_cluster(
                data, directory.shards, place, f"{data} on {platform.node()}", aside / "read-back", progress()
            )
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            with contextlib.suppress(OSError):  # Where only root may, and that is what is left to do.
                above.remove(aside.name)
    lines = [f"{data}: {_counts(done)} are in the cluster {place.name}; everything was read back"]
    lines.append(f"next: start its hosts, each with an empty data directory: tidegate serve APP --cluster {shown} --data EMPTY")
    if (data / "access.json").exists():
        lines.append(f"next: copy {data / 'access.json'} to each host, into its data directory")
    lines.append(f"{data} is as it was: serve it no longer, for it knows nothing of what the cluster does from now on")
    _tell(options, data, place, done, lines)
    return EXIT_OK


def _out_of(options: argparse.Namespace, place: ClusterLogs, shown: str) -> int:
    from tidegate.shard.migration.out_of_cluster import take_out_of_cluster

    shards = _shards_of_stopped(place)
    with Successor(options.data, options.of_root.get("above")) as successor:
        if successor.replaces and not options.yes:
            hint = f"it would be kept as {successor.kept_as}; add --yes, or name another"
            raise OperatorError("migrate into", options.data, "there is data in it", hint)
        starts = successor.starts_before
        done = take_out_of_cluster(place, shards, successor.path, starts, progress())
        _shards_of_stopped(place)  # One that was started meanwhile has claimed what was read.
        kept = successor.take_place(shards, starts)
    lines = [f"{options.data}: {_counts(done)} of the cluster {place.name}; everything was read twice"]
    if kept is not None:
        lines.append(f"what was there before is kept as {kept}")
    lines.append(f"next: tidegate serve APP --data {options.data}; start no host of {shown} any more")
    _tell(options, options.data, place, done, lines, kept=None if kept is None else str(kept))
    return EXIT_OK


def _shards_of_stopped(place: ClusterLogs) -> int:
    """How many the cluster has. Raises OperatorError while it has hosts."""
    from tidegate.runtime.cluster.operating import hosts_there

    shards, hosts = hosts_there(place.servers, place.name)
    if hosts:
        hint = "stop them first: what they do meanwhile would be lost"
        raise OperatorError(_OPERATION, f"the cluster {place.name}", f"it has hosts that run: {', '.join(hosts)}", hint)
    return shards


def _undo(options: argparse.Namespace, place: ClusterLogs) -> int:
    from tidegate.shard.replicated.filling import undo

    removed = undo(place.servers, place.name)
    if options.json:
        print(json.dumps({"cluster": place.name, "removed": removed}))
    else:
        there = f"cluster {place.name}"
        print(f"{there}: what was left of a migration is removed" if removed else f"{there}: there is none of that name")
    return EXIT_OK


def _counts(done: Migrated) -> str:
    counts = done.counts
    what = f"{plural(done.shards, 'shard')}, {plural(counts.objects, 'object')}, {plural(counts.rows, 'row')}"
    return f"{what}, {plural(counts.alarms, 'alarm')}, {mebibytes(done.bytes)}"


def _tell(
    options: argparse.Namespace, data: Path, place: ClusterLogs, done: Migrated, lines: list[str], **more: str | None
) -> None:
    if not options.json:
        print("\n".join(lines))
        return
    told = {**done._asdict(), "counts": done.counts._asdict(), **more}
    print(json.dumps({"data": str(data), "cluster": place.name, **told}, indent=2))
