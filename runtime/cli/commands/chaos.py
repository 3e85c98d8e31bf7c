"""`tidegate chaos`: a service of its own is hurt while callers verify what it answers."""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tidegate.runtime.chaos.faults.catalogue import FAULTS, FaultKind
from tidegate.runtime.cli.arguments import Count, Seconds, add_command, read_as
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import ROUTERS_MAX

EVERYWHERE = "kill,freeze,drop,restart"
"""Faults that need neither root nor a compiler."""
_EPILOG = """Starts a service of its own, in a folder of its own, and callers of four kinds that write down every call and every
answer, while faults strike: which, when and whom is the seed's. Every answer is checked: those of one object must be explained by
some order of its calls; over all accounts no money is made or lost; every call is answered; in the end, and after another stop
and start, all is there. Exit code 0: every promise was kept; 1: not: the folder with the stories of what was wrong is named.

faults:
{faults}

examples:
  tidegate chaos                                          a minute of kills, freezes, dropped connections and restarts
  tidegate chaos --faults kill --times 1000 --every 0.5   a thousand kills
  tidegate chaos --faults power,fill --fs xfs             power cuts and full disks, on XFS in a file (root)
  tidegate chaos --faults all --fs ext4 --duration 8h     everything, over night
  tidegate chaos --faults none --rate 2000 --duration 1h  no faults: does what it takes stay flat?
"""


def add(commands: Any) -> None:
    width = max(map(len, FAULTS)) + 2
    listed = "\n".join(f"  {name:<{width}}{fault.says}{_needs(fault)}" for name, fault in FAULTS.items())
    chaos = add_command(commands, "chaos", _EPILOG.format(faults=listed), run)
    option = chaos.add_argument
    option("--faults", metavar="LIST", default=EVERYWHERE, help="from the list below, or all, or none (default: %(default)s)")
    option(
        "--seed",
        metavar="N",
        type=read_as(Annotated[int, msgspec.Meta(ge=0)]),
        help="which faults, and which calls (default: any)",
    )
    option("--duration", metavar="TIME", type=_duration, help="90s, 30m, 8h (default: 60s; with --times: until they are over)")
    option("--times", metavar="N", type=read_as(Count), help="end after so many faults that had an effect")
    option(
        "--every", metavar="SECONDS", type=read_as(Seconds, " of seconds"), default=1.0, help="mean time between two (default: 1)"
    )
    option(
        "--clients", metavar="N", type=read_as(Annotated[int, msgspec.Meta(ge=1, le=64)]), default=8, help="callers (default: 8)"
    )
    option("--rate", metavar="N", type=read_as(Annotated[int, msgspec.Meta(ge=0, le=10**6)]), default=1_000,
           help="calls a second of all of them; 0: as many as are answered (default: 1000)")  # fmt: skip
    option("--timeout", metavar="SECONDS", type=read_as(Seconds, " of seconds"), default=30.0, help="of each call (default: 30)")
    keys = chaos.add_mutually_exclusive_group()
    keys.add_argument("--keys", action="store_true", default=False, help="calls have keys and are sent again until answered")
    keys.add_argument("--no-keys", dest="keys", action="store_false", help="each is sent once (default)")
    option("--no-errors", action="store_true", help="every error that a caller sees counts as broken; so it is with --keys")
    option("--workers", metavar="N", type=read_as(Annotated[int, msgspec.Meta(ge=1, le=64)]), default=2, help="(default: 2)")
    option(
        "--routers", metavar="N", type=read_as(Annotated[int, msgspec.Meta(ge=1, le=ROUTERS_MAX)]), default=1, help="(default: 1)"
    )
    option("--fs", choices=("ext4", "xfs", "btrfs"), help="a disk of its own, in a file, with this file system (root)")
    option("--size", metavar="MIB", type=read_as(Annotated[int, msgspec.Meta(ge=320)]), default=600, help="of it (default: 600)")
    option(
        "--data",
        metavar="DIR",
        help="a folder for it, which is made and kept (default: a temporary one, removed if all was kept)",
    )
    option("--json", action="store_true", help="print the report as JSON, and no progress")


def _needs(fault: FaultKind) -> str:
    return " (needs --fs)" if fault.needs_disk else " (needs a C compiler)" if fault.needs_syncs else ""


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"must be a time like 90s, 30m or 8h, not {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3_600}[match[2]]


def run(options: argparse.Namespace) -> int:
    from tidegate.runtime.chaos.campaign import Campaign, Plan  # Here, because `serve` needs none of it.
    from tidegate.runtime.chaos.stage.disk import keep_mounts_private

    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    duration_s = options.duration or (float("inf") if options.times else 60.0)
    plan = Plan(
        faults=_faults(options),
        seed=seed,
        duration_s=duration_s,
        times=options.times or 0,
        every_s=options.every,
        callers=options.clients,
        rate=options.rate,
        timeout_s=options.timeout,
        keys=options.keys,
        errors="none" if options.keys or options.no_errors else "of faults",
        workers=options.workers,
        routers=options.routers,
        fs=options.fs or "",
        size_mib=options.size,
    )
    if options.fs:
        keep_mounts_private()
    folder = _folder(options.data)
    say = _stay_silent if options.json else _say
    say(f"chaos with seed {seed}, in {folder}")
    campaign = Campaign(plan, folder, say)
    signal.signal(signal.SIGINT, lambda *_: campaign.interrupt())
    signal.signal(signal.SIGTERM, lambda *_: campaign.interrupt())
    try:
        report = campaign.run()
    except OperatorError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if report.passed and options.data is None:
        shutil.rmtree(folder, ignore_errors=True)
        report.kept = ""
    print(json.dumps(msgspec.to_builtins(report), indent=2) if options.json else report.page())
    return EXIT_OK if report.passed else EXIT_FAILED


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _stay_silent(line: str) -> None:
    pass


def _faults(options: argparse.Namespace) -> tuple[str, ...]:
    """What can be struck here. Raises OperatorError."""
    from tidegate.runtime.chaos.stage.disk import check_disk
    from tidegate.runtime.chaos.stage.syncs import check_compiler

    every = [name for name, fault in FAULTS.items() if options.fs or not fault.needs_disk]
    names = {"all": every, "none": []}.get(options.faults) or [
        name for name in options.faults.split(",") if name not in ("", "none")
    ]
    if unknown := [name for name in names if name not in FAULTS]:
        raise OperatorError(
            "run", f"fault {unknown[0]}", "there is none of that name", f"choose from {', '.join(FAULTS)}, all, none"
        )
    if lacking := [name for name in names if FAULTS[name].needs_disk and not options.fs]:
        raise OperatorError("run", f"fault {lacking[0]}", "it needs a disk of its own", "name its file system with --fs, as root")
    if options.fs:
        check_disk(options.fs)
    if any(FAULTS[name].needs_syncs for name in names):
        check_compiler()
    return tuple(names)


def _folder(data: str | None) -> Path:
    """Raises OperatorError."""
    if data is None:
        return Path(tempfile.mkdtemp(prefix="tidegate-chaos-"))
    folder, hint = Path(data).absolute(), "name a folder that is not there yet with --data"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not os.listdir(folder)
    except FileExistsError:
        raise OperatorError("use", folder, os.strerror(errno.ENOTDIR), hint) from None
    except OSError as error:
        raise OperatorError("use", folder, error.strerror or str(error), hint) from error
    if not is_empty:
        raise OperatorError("use", folder, "it is not empty", hint)
    return folder
