"""`tidegate repair`: save what is good of a damaged shard."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Annotated, Any

import lmdb
import msgspec

from tidegate.runtime.cli.arguments import add_command, read_as
from tidegate.runtime.cli.commands.check import add_data
from tidegate.runtime.cli.exits import EXIT_OK, fail_usage
from tidegate.runtime.cli.pages import plural
from tidegate.runtime.data.directory import open_idle_directory
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import SHARDS_MAX
from tidegate.shard.offline.repair import Repair, missing_in_logs, salvage_of, take_from_logs

_EPILOG = """Says what would be saved and what is lost, by name as far as that can be read. Changes nothing without --yes;
with it the damaged file is kept beside the new one. The service must be stopped. Look at `tidegate check` first.

examples:
  tidegate repair /var/lib/shop --shard 3           what would be done
  tidegate repair /var/lib/shop --shard 3 --yes     do it
"""
LOSSES_SHOWN = 100

Number = Annotated[int, msgspec.Meta(ge=0, lt=SHARDS_MAX)]


def add(commands: Any) -> None:
    repair = add_command(commands, "repair", _EPILOG, run)
    add_data(repair)
    repair.add_argument("--shard", metavar="N", type=read_as(Number), required=True, help="the number of the shard")
    repair.add_argument("--yes", action="store_true", help="do it")
    repair.add_argument("--json", action="store_true", help="print what is saved and lost as JSON")


def run(options: argparse.Namespace) -> int:
    with open_idle_directory(options.data) as directory:
        if options.shard >= directory.shards:
            return fail_usage(f"repair: {options.data} has shards 0 to {directory.shards - 1}, not {options.shard}")
        try:
            salvage = salvage_of(directory.path, options.shard)
        except PermissionError:
            raise
        except OSError as error:
            raise _failed(options, str(error), "it cannot be read now; check the disk and the kernel's log") from error
        try:
            repair = salvage.plan()
            aside = salvage.write(repair.applied_seq) if options.yes and repair.damages else None
        except PermissionError:
            raise
        except (OSError, lmdb.Error) as error:
            raise _failed(
                options, str(error), "nothing was changed; there must be room for a second file beside the damaged one"
            ) from error
        finally:
            salvage.close()
        try:
            missing = _missing(options, directory.path, repair)
        except PermissionError:
            raise
        except (OSError, lmdb.Error) as error:
            raise _failed(
                options,
                str(error),
                _what_is_left(options, aside, "make room" if options.yes else "check the disk and the kernel's log"),
            ) from error
        except OperatorError as error:
            if aside is None:  # It says all.
                raise
            problem = f"{error.operation} {error.place}: {error.problem}"
            raise _failed(options, problem, _what_is_left(options, aside, error.hint)) from error
    if options.json:
        print(json.dumps(_as_json(options, repair, aside, missing), indent=2))
    else:
        print("\n".join(_page(options, repair, aside, missing)))
    return EXIT_OK


def _failed(options: argparse.Namespace, problem: str, hint: str) -> OperatorError:
    return OperatorError("repair", f"shard {options.shard} in {options.data}", problem, hint)


def _what_is_left(options: argparse.Namespace, aside: Path | None, step: str) -> str:
    """To be done, where the logs could not be read, or what they have could not be taken; `step` comes first."""
    if not options.yes:
        return f"nothing was changed; {step}"
    done = "" if aside is None else f"what is good is in a new data file, the damaged one is kept as {aside}; "
    return f"{done}what the logs have beside it is not taken yet, or not all of it: {step}, and give the command again"


def _missing(options: argparse.Namespace, data: Path, repair: Repair) -> list[str]:
    """In the logs. While the data file is damaged nobody knows."""
    if not repair.damages:
        missing = missing_in_logs(data, options.shard)
        return take_from_logs(data, options.shard) if missing and options.yes else missing
    return take_from_logs(data, options.shard) if options.yes else []


def _as_json(options: argparse.Namespace, repair: Repair, aside: Path | None, missing: list[str]) -> dict[str, Any]:
    numbers = repair._asdict() | {"damages": [str(damage) for damage in repair.damages]}
    damaged_file = None if aside is None else str(aside)
    of_logs = {"missing_in_logs": missing, "done": options.yes}
    return {"data": str(options.data), "shard": options.shard, **numbers, "damaged_file": damaged_file, **of_logs}


def _page(options: argparse.Namespace, repair: Repair, aside: Path | None, missing: list[str]) -> list[str]:
    in_logs = [f"missing in the logs: {each}" for each in missing[:LOSSES_SHOWN]]
    if not repair.damages and missing:
        saved = "its data file is whole; with it goes on what the logs have beside what is missing there"
        return [f"shard {options.shard} in {options.data}: {saved}", *in_logs, _what_was_done(options, "done")]
    if not repair.damages:
        return [f"shard {options.shard} in {options.data}: its data file is whole, {plural(repair.rows, 'row')}; nothing to do"]
    lines = [f"damaged: {damage}" for damage in repair.damages[:LOSSES_SHOWN]]
    lines += [f"lost: {loss}" for loss in repair.losses[:LOSSES_SHOWN]]
    if (more := len(repair.losses) - LOSSES_SHOWN) > 0:
        lines.append(f"lost: {more} more; see --json")
    if repair.found_again:
        lines.append(f"found again: {plural(repair.found_again, 'row')} in pages to which nothing points any longer")
    if repair.bits_flipped_back:
        lines.append(f"mended: {plural(repair.bits_flipped_back, 'row')} in which one bit had been flipped")
    lost = "" if repair.lost_rows is None else f", {repair.lost_rows} lost"
    lines.append(f"saved: {plural(repair.rows, 'row')}{lost}; the logs have what came after commit {repair.applied_seq}")
    return [*lines, *in_logs, _what_was_done(options, "done" if aside is None else f"done; the damaged file is kept as {aside}")]


def _what_was_done(options: argparse.Namespace, done: str) -> str:
    return done if options.yes else f"nothing was changed; to do it: tidegate repair {options.data} --shard {options.shard} --yes"
