"""`tidegate restore`: a data directory out of a backup."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.commands.backup import add_data_option
from tidegate.runtime.cli.commands.check import progress
from tidegate.runtime.cli.commands.export import add_out, write
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK, fail
from tidegate.runtime.cli.pages import mebibytes, plural
from tidegate.runtime.ids import ObjectId, check_object_id
from tidegate.runtime.supervisor.successor import Successor
from tidegate.shard.backup.one_object import read_object
from tidegate.shard.backup.places import open_depot
from tidegate.shard.backup.reading import Lineage, Lineages, read_lineages
from tidegate.shard.backup.restore import Restored, build, find_moment, shown, span_of, times_of

_EPILOG = """Makes the new directory beside DATA, reads everything back, and puts it in place in one step. Data that is there
is replaced only with --yes, and kept as DATA.before-TIME; no service may be running on it. TIME is like
2026-11-29T12:30:00Z, or without the Z in the time of this machine; without --at it is the newest that there is.

One object goes past DATA: --object writes it to --out as it was, and `tidegate objects import` takes it into a service.

examples:
  tidegate restore /mnt/backups/shop --list               which times can be restored
  tidegate restore /mnt/backups/shop --data /var/lib/shop-test
  tidegate restore /mnt/backups/shop --data /var/lib/shop --at 2026-11-29T12:30:00Z --yes
  tidegate restore /mnt/backups/shop --object Counter/alice --out alice.jsonl
"""


def add(commands: Any) -> None:
    restore = add_command(commands, "restore", _EPILOG, run)
    restore.add_argument("source", metavar="SOURCE", help="what was given to `tidegate backup`")
    add_data_option(restore)
    restore.add_argument("--at", metavar="TIME", type=_moment, help="as it was then")
    what = "write this object to --out instead, to be imported into a service that runs; DATA is left alone"
    restore.add_argument("--object", metavar="CLASS/NAME", type=_object, help=what)
    add_out(restore)
    restore.add_argument("--list", action="store_true", help="say which backups there are, and restore nothing")
    restore.add_argument("--yes", action="store_true", help="replace the data that is there")
    restore.add_argument("--json", action="store_true", help="print what was done as JSON")


def _object(text: str) -> ObjectId:
    class_name, slash, name = text.partition("/")
    if not slash or (problem := check_object_id(class_name, name)):
        raise argparse.ArgumentTypeError(f"must be CLASS/NAME, not {text!r}{f': {problem}' if slash else ''}")
    return ObjectId(class_name, name)


def _moment(text: str) -> int:
    """Unix time in milliseconds."""
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a time like 2026-11-29T12:30:00Z, not {text!r}") from None


def run(options: argparse.Namespace) -> int:
    depot = open_depot(options.source)
    lineages = read_lineages(depot)
    if options.list:
        return _list(options, lineages)
    moment = find_moment(lineages, options.at, options.source)
    if options.object is not None:
        records = read_object(depot, moment, options.object, progress())
        if not records:
            return fail(f"restore {options.object}: it is not in the backup, as of then (see --list for other times)")
        write(records, options.out, options.format)
        return EXIT_OK
    with Successor(options.data) as successor:
        if successor.replaces and not options.yes:
            what = f"it would be kept beside as {options.data}.before-TIME; add --yes"
            return fail(f"restore into {options.data}: there is data in it ({what}, or choose another with --data)")
        restored = build(depot, moment, successor.path, successor.starts_before, progress())
        access = moment.lineage.manifests[-1].access
        aside = successor.take_place(restored.shards, restored.starts, access)
    if options.json:
        print(json.dumps(_as_json(options, restored, aside), indent=2))
    else:
        print("\n".join(_page(options, restored, aside)))
    return EXIT_OK


def _list(options: argparse.Namespace, lineages: Lineages) -> int:
    if options.json:
        damaged = {name: str(error) for name, error in lineages.damaged.items()}
        good = [_lineage_as_json(lineage) for lineage in lineages.good]
        print(json.dumps({"source": options.source, "lineages": good, "damaged": damaged}, indent=2))
    else:
        for lineage in lineages.good:
            first = lineage.manifests[0]
            size = mebibytes(sum(piece.bytes for manifest in lineage.manifests for piece in (*manifest.rows, *manifest.records)))
            spans = f"{plural(len(lineage.manifests), 'backup')}, {plural(first.shards, 'shard')}, {size}"
            print(f"{lineage.name}: {times_of(lineage)} ({spans})")
        for error in lineages.damaged.values():
            print(f"PROBLEM {error}")
        if not lineages.good and not lineages.damaged:
            return fail(f"list {options.source}: there is no complete backup (name what was given to `tidegate backup`)")
    return EXIT_OK if lineages.good and not lineages.damaged else EXIT_FAILED


def _lineage_as_json(lineage: Lineage) -> dict[str, Any]:
    last, (from_ms, until_ms) = lineage.manifests[-1], span_of(lineage)
    sizes = [sum(piece.bytes for piece in (*manifest.rows, *manifest.records)) for manifest in lineage.manifests]
    return {
        "lineage": lineage.name, "from_ms": min(from_ms, until_ms), "until_ms": until_ms, "backups": len(lineage.manifests),
        "shards": last.shards, "bytes": sum(sizes), "tidegate": last.tidegate,
    }  # fmt: skip


def _as_json(options: argparse.Namespace, restored: Restored, aside: Path | None) -> dict[str, Any]:
    counts = restored.counts._asdict()
    kept = None if aside is None else str(aside)
    return {"data": str(options.data), "source": options.source, **restored._asdict(), "counts": counts, "kept": kept}


def _page(options: argparse.Namespace, restored: Restored, aside: Path | None) -> list[str]:
    counts = restored.counts
    what = f"{plural(counts.objects, 'object')}, {plural(counts.rows, 'row')}, {plural(counts.alarms, 'alarm')}"
    until = f", the newest commit of {shown(restored.until_ms)}" if restored.until_ms else ""
    lines = [f"{options.data}: restored from {restored.lineage}: {what}{until}; everything was read back"]
    if aside is not None:
        lines.append(f"what was there before is kept as {aside}")
    return lines
