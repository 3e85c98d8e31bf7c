"""`tidegate restore`: a data directory out of a backup."""

from __future__ import annotations

import argparse
import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from tidegate.runtime.cli.above_data import above_of_root
from tidegate.runtime.cli.arguments import a_path, add_command, endpoint
from tidegate.runtime.cli.as_owner import DataOwner
from tidegate.runtime.cli.asking import report_call_error
from tidegate.runtime.cli.commands.backup import add_data_option, folder_of_root
from tidegate.runtime.cli.commands.check import progress
from tidegate.runtime.cli.commands.export import add_out, write
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK, as_json, fail, fail_usage
from tidegate.runtime.cli.importing import Importer
from tidegate.runtime.cli.pages import mebibytes, plural
from tidegate.runtime.cli.roots_part import Part
from tidegate.runtime.data.successor import Successor
from tidegate.runtime.errors import CallError, OperatorError
from tidegate.runtime.ids import ObjectId, check_object_id
from tidegate.runtime.wire.object_records import Record, whole_objects
from tidegate.shard.backup.one_object import read_object
from tidegate.shard.backup.places import open_depot, place_of
from tidegate.shard.backup.reading import Lineage, Lineages, read_lineages
from tidegate.shard.backup.restore import Restored, build, find_moment, shown, span_of, times_of

_EPILOG = """Makes the new directory beside DATA, reads everything back, and puts it in place in one step. Data that is there
is replaced only with --yes, and kept as DATA.before-TIME; no service may be running on it. TIME is like
2026-11-29T12:30:00Z, or without the Z in the time of this machine, or 5m, 2h, 1d ago; without --at it is the newest that
there is.

One object goes past DATA: --object writes it to --out as it was, or puts it --into a service that runs, under its gate
and into its audit log; one that is there is replaced only with --yes.

examples:
  tidegate restore /mnt/backups/shop --list               which times can be restored
  tidegate restore /mnt/backups/shop --data /var/lib/shop-test
  tidegate restore /mnt/backups/shop --data /var/lib/shop --at 2026-11-29T12:30:00Z --yes
  tidegate restore /mnt/backups/shop --data /var/lib/shop-test --at 5m
  tidegate restore /mnt/backups/shop --object Counter/alice --out alice.jsonl
  tidegate restore /mnt/backups/shop --object Counter/alice --at 2h --into tcp://127.0.0.1:7711 --yes
"""


_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
INTO_S = 30.0
"""What cannot be begun in this time is not done."""


def add(commands: Any) -> None:
    restore = add_command(commands, "restore", _EPILOG, run)
    restore.add_argument("source", metavar="SOURCE", type=a_path, help="what was given to `tidegate backup`")
    add_data_option(restore)
    of_data = restore.get_default("works_on")
    restore.set_defaults(works_on=lambda options: None if options.list or options.object else of_data(options), parts=_parts)
    restore.add_argument("--at", metavar="TIME", type=_moment, help="as it was then, or so long ago: 90s, 5m, 2h, 1d")
    what = "write this object to --out instead, or put it --into a service that runs; DATA is left alone"
    restore.add_argument("--object", metavar="CLASS/NAME", type=_object, help=what)
    add_out(restore)
    what = "with --object: put it into the service that listens there, on this machine"
    restore.add_argument("--into", metavar="ENDPOINT", type=endpoint, help=what)
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
        if ago := _AGO.fullmatch(text):
            return int((time.time() - float(ago[1]) * _SECONDS[ago[2]]) * 1000)
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        what = "must be a time like 2026-11-29T12:30:00Z, or 5m for five minutes ago"
        raise argparse.ArgumentTypeError(f"{what}, not {text!r}") from None


def _parts(options: argparse.Namespace, owner: DataOwner) -> dict[str, Part]:
    source = {} if "://" in options.source else folder_of_root(owner, Path(place_of(options.source)), may_put=False)
    return {**source, **above_of_root(owner, options.data)}


def run(options: argparse.Namespace) -> int:
    if options.into is not None and options.object is None:
        return fail_usage("restore: --into is for one object: name it with --object (a whole directory: --data)")
    depot = options.of_root.get("depot") or open_depot(options.source)
    lineages = read_lineages(depot)
    if options.list:
        return _list(options, lineages)
    moment = find_moment(lineages, options.at, options.source)
    if options.object is not None:
        records = read_object(depot, moment, options.object, progress())
        if not records:
            raise OperatorError("restore", options.object, "it is not in the backup, as of then", "see --list for other times")
        if options.into is not None:
            return _put_into(options, records)
        write(records, options.out, options.format)
        return EXIT_OK
    with Successor(options.data, options.of_root.get("above")) as successor:
        if successor.replaces and not options.yes:
            hint = f"it would be kept as {successor.kept_as}; add --yes, or choose another with --data"
            raise OperatorError("restore into", options.data, "there is data in it", hint)
        restored = build(depot, moment, successor.path, successor.starts_before, progress())
        access = moment.lineage.manifests[-1].access
        aside = successor.take_place(restored.shards, restored.starts, access)
    if options.json:
        print(json.dumps(_as_json(options, restored, aside), indent=2))
    else:
        print("\n".join(_page(options, restored, aside)))
    return EXIT_OK


def _put_into(options: argparse.Namespace, records: list[Record]) -> int:
    asked = argparse.Namespace(
        connect=options.into, timeout=INTO_S, key_file=None, file=options.source, replace=options.yes, no_alarm=False
    )
    importer = Importer(asked, replacing="--yes")
    try:
        importer.run((head.object, head, pairs) for head, pairs in whole_objects(records))
    except CallError as error:
        if error.details.get("conflict"):
            problem = "it exists there; nothing was changed"
            raise OperatorError("restore", options.object, problem, "add --yes to replace it") from None
        return report_call_error(f"restore {options.object}", error, as_json=options.json)
    told = {"object": str(options.object), "into": options.into, "keys": importer.keys}
    print(json.dumps(told) if options.json else f"{options.object}: {plural(importer.keys, 'key')} restored into {options.into}")
    return EXIT_OK


def _list(options: argparse.Namespace, lineages: Lineages) -> int:
    none: OperatorError | None = None
    if not lineages.good and not lineages.damaged:
        hint = "name what was given to `tidegate backup`"
        none = OperatorError("list", options.source, "there is no complete backup", hint)
    if options.json:
        damaged = {name: str(error) for name, error in lineages.damaged.items()}
        good = [_lineage_as_json(lineage) for lineage in lineages.good]
        told = {"source": options.source, "lineages": good, "damaged": damaged}
        print(json.dumps(told if none is None else told | as_json(none), indent=2))
    else:
        for lineage in lineages.good:
            first = lineage.manifests[0]
            size = mebibytes(sum(piece.bytes for manifest in lineage.manifests for piece in (*manifest.rows, *manifest.records)))
            spans = f"{plural(len(lineage.manifests), 'backup')}, {plural(first.shards, 'shard')}, {size}"
            print(f"{lineage.name}: {times_of(lineage)} ({spans})")
        for error in lineages.damaged.values():
            print(f"PROBLEM {error}")
    if none is not None:
        return fail(str(none))
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
