"""The command line: what was asked, one line when it failed, an exit code.

0: done. 1: it failed; one line on stderr names the operation, the place and the next step. 2: the command line is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tidegate.runtime.child.child import set_up_logging
from tidegate.runtime.child.output import hold_standard_descriptors, take_streams
from tidegate.runtime.cli.arguments import Parser, add_client_options, add_connect, parse_arguments, whole_number, whole_numbers
from tidegate.runtime.cli.pages import alarm_target, newest_abandoned, plural, render_alarms, render_status
from tidegate.runtime.errors import CallError, OperatorError, Unavailable, one_line
from tidegate.runtime.limits import CONNECT_TIMEOUT_S
from tidegate.runtime.sockets.port import open_port
from tidegate.runtime.supervisor.config import DATA_DEFAULT, LISTEN_DEFAULT, Config, merge, parse_toml
from tidegate.runtime.supervisor.cores import read_cores, read_memory_bytes
from tidegate.runtime.supervisor.directory import is_text, open_directory, open_run_directory
from tidegate.runtime.supervisor.placement import place, routers_for, shards_for
from tidegate.runtime.supervisor.status import classes, listen_endpoint
from tidegate.runtime.supervisor.supervisor import Service, Supervisor, supervise
from tidegate.runtime.wire.protocol import DROP_ALARM, RUN_ALARM
from tidegate.runtime.wire.supervisor_messages import Failed, split_app

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
"""Objects that wait, in the page of `status`."""
_NOBODY_HINT = "start a service: tidegate serve APP, or name another endpoint with --connect"


def main(arguments: Sequence[str] | None = None) -> int:
    hold_standard_descriptors()
    _show_any_text()
    try:
        return _run(arguments)
    except OperatorError as error:
        return _fail(str(error))
    except BrokenPipeError:  # The reader of our output has seen enough.
        _give_up_stdout()
        return EXIT_FAILED
    except OSError as error:
        if error.filename is not None:
            raise
        _give_up_stdout()
        problem = error.strerror or str(error)
        return _fail(str(OperatorError("write the result to", "stdout", problem, "it was not shown in full; write it elsewhere")))
    except KeyboardInterrupt:
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    finally:
        if sys.stdout is not None:  # As it is where it was closed.
            sys.stdout.flush()


def _give_up_stdout() -> None:
    """Python would complain once more at the exit, of what is left to be written."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _show_any_text() -> None:
    """Also where the terminal knows few characters: the others appear as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(text: str) -> int:
    with contextlib.suppress(OSError):  # The exit code says it, too.
        print(f"tidegate: {text}", file=sys.stderr, flush=True)
    return EXIT_FAILED


# The grammar

_EPILOG = """examples:
  tidegate serve counter.py                          serve the objects of counter.py from this directory
  tidegate call Counter alice get_unique_number      call a method, print its result as JSON
  tidegate status                                    how the service is
  tidegate alarms                                    alarms that were given up
"""

_SERVE_EPILOG = """examples:
  tidegate serve counter.py
  tidegate serve shop.py:Cart,Order
  tidegate serve shop.objects:Cart,Order --workers 4 --data /var/lib/shop
  tidegate serve shop.objects --listen tcp://127.0.0.1:9000 --routers 2
  tidegate serve --config /etc/tidegate/tidegate.toml

Listens on the socket that systemd passes, if it does (LISTEN_FDS), instead of --listen.
Stops on SIGTERM or Ctrl-C: answers what is in flight, writes checkpoints, exits 0.
"""

_CALL_EPILOG = """examples:
  tidegate call Counter alice get_unique_number
  tidegate call Bank main transfer '"alice"' '"bob"' 10
  tidegate call Bank main transfer source='"alice"' target='"bob"' amount=10
"""

_ALARMS_EPILOG = """An alarm is given up when its handler has raised seven times, or its process has died four times while it ran.

examples:
  tidegate alarms                     list them, the newest first
  tidegate alarms run Order 4711      set it again, for now
  tidegate alarms drop Order 4711     forget it
"""
ALARM_ACTIONS = {"drop": DROP_ALARM, "run": RUN_ALARM}
ALARM_LISTED_S = 6.0
"""The list may be so old."""

_BENCH_EPILOG = """Takes durable unique numbers from new objects of a running service, checks that each comes once and none is
missing, and prints rates, latencies and CPU time. The objects, named with random prefixes, stay in the data.

examples:
  tidegate serve counter.py & tidegate bench
  tidegate bench --class Order --concurrency 64 --route router
"""


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("tidegate", description="Durable objects for Python.", epilog=_EPILOG, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"tidegate {version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run a service", epilog=_SERVE_EPILOG, formatter_class=raw)
    serve.add_argument("app", nargs="?", metavar="APP", help="a file or module, or some of its classes: app.py:Class,Class")
    serve.add_argument("--config", metavar="FILE", help="a TOML file; options given here go before it")
    serve.add_argument("--data", metavar="DIR", help=f"data directory (default: $STATE_DIRECTORY, else ./{DATA_DEFAULT})")
    serve.add_argument("--listen", metavar="ENDPOINT", help=f"where clients connect (default: {LISTEN_DEFAULT})")
    serve.add_argument("--workers", metavar="N|auto", type=_count, help="worker processes (default: auto, one for each core)")
    routers = "router processes that share the TCP port (default: 1; auto: one for each 16 cores)"
    serve.add_argument("--routers", metavar="N|auto", type=_count, help=routers)
    serve.add_argument("--log-level", dest="level", metavar="LEVEL", help="debug, info, warning or error (default: info)")
    serve.add_argument("--dev", action="store_true", default=None, help="errors carry tracebacks to the caller")
    serve.set_defaults(run=_serve)

    call = commands.add_parser("call", help="call a method of an object", epilog=_CALL_EPILOG, formatter_class=raw)
    call.add_argument("class_name", metavar="CLASS")
    call.add_argument("name", metavar="NAME")
    call.add_argument("method", metavar="METHOD")
    call.add_argument("arguments", nargs="*", metavar="JSON", help="an argument, or name=JSON for one passed by keyword")
    add_client_options(call)
    call.add_argument("--json", action="store_true", help="print errors as JSON too, on stdout")
    call.set_defaults(run=_call)

    status = commands.add_parser("status", help="show how a service is")
    add_client_options(status)
    status.add_argument("--json", action="store_true", help="print everything known as JSON")
    status.set_defaults(run=_status)

    told = "list, drop or run again alarms that were given up because their handlers failed"
    alarms = commands.add_parser("alarms", help=told, description=told, epilog=_ALARMS_EPILOG, formatter_class=raw)
    alarms.add_argument("action", nargs="?", choices=("list", *ALARM_ACTIONS), default="list", help="default: list")
    alarms.add_argument("class_name", metavar="CLASS", nargs="?", help="with drop and run: whose alarm")
    alarms.add_argument("name", metavar="NAME", nargs="?")
    add_client_options(alarms)
    alarms.add_argument("--json", action="store_true", help="print the list, or the error, as JSON")
    alarms.set_defaults(run=_alarms)
    _add_bench(commands.add_parser("bench", help="measure a running service", epilog=_BENCH_EPILOG, formatter_class=raw))
    return parser


def _add_bench(bench: argparse.ArgumentParser) -> None:
    add_connect(bench)
    bench.add_argument("--class", dest="class_name", metavar="CLASS", help="a class with get_unique_number() (default: Counter)")
    bench.add_argument("--concurrency", metavar="N,…", type=whole_numbers, help="calls in flight (default: 1,64,256,1024)")
    requests = "calls for each of them (default: enough for a second or two)"
    bench.add_argument("--requests", metavar="N", type=whole_number, help=requests)
    bench.add_argument("--objects", metavar="N", type=whole_number, help="new objects that are called (default: 1000)")
    bench.add_argument("--route", choices=("router", "direct", "both"), help="through the router or straight to the workers")
    bench.add_argument("--load", choices=("client", "lean"), default="client", help="the Python client, or raw sockets")
    bench.add_argument("--json", action="store_true", help="print the result as JSON, and no progress")
    bench.set_defaults(run=_bench)


def _count(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def version() -> str:
    try:
        return importlib.metadata.version("tidegate")
    except importlib.metadata.PackageNotFoundError:  # Run from a source tree that was never installed.
        return "unknown"


# serve


def _serve(options: argparse.Namespace) -> int:
    config = read_config(options, os.environ)
    outputs = take_streams()
    set_up_logging("supervisor", outputs, config.log.level)
    # Who writes to a terminal that has `tostop` set, and is not in its foreground, would be stopped.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    cores = read_cores()
    workers = config.service.workers if isinstance(config.service.workers, int) else None
    with contextlib.ExitStack() as stack:
        directory = open_directory(Path(config.service.data), shards_for(cores, workers))
        stack.callback(directory.close)
        placement = place(cores, directory.shards, workers)
        run_directory = open_run_directory(directory.path, os.environ.get("RUNTIME_DIRECTORY"))
        stack.callback(run_directory.close)
        routers = config.service.routers
        if not isinstance(routers, int):
            routers = routers_for(cores, config.service.listen)
        # Not before the directory is open: until then routers of an earlier service, whose supervisor died, may listen there.
        port = open_port(config.service.listen, routers, os.environ, os.getpid())
        if port is None:
            _check_path_is_free(config.service.listen)
        else:
            stack.callback(port.close)
            config = merge(config, {"service": {"listen": port.endpoint}}, "listen")
        memory = read_memory_bytes()
        service = Service(
            config, directory, run_directory, placement, version(), memory, routers=routers, port=port, outputs=outputs
        )
        failure = supervise(service, os.environ, _banner)
    return EXIT_OK if failure is None else _fail(describe_failure(failure))


def _check_path_is_free(endpoint: str) -> None:
    """A second bind of a unix socket's path takes it away from the first, silently."""
    if not endpoint.startswith("ipc://"):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(_unix_address(endpoint))
        except OSError:  # Nobody there, or a path that the router will complain about.
            return
    raise OperatorError("listen", endpoint, "another process listens there", "stop it, or choose another with --listen")


def _unix_address(endpoint: str) -> str:
    path = endpoint.removeprefix("ipc://")
    return f"\0{path[1:]}" if path.startswith("@") else path  # ZeroMQ writes an abstract name so.


def describe_failure(failure: Failed) -> str:
    text = f"{failure.operation} {failure.place}: {failure.problem} ({failure.hint})"
    return f"{text}\n{failure.traceback.rstrip()}" if failure.traceback else text


def read_config(options: argparse.Namespace, environment: Mapping[str, str]) -> Config:
    """Defaults, file, command line; paths made absolute. Raises OperatorError."""
    config = Config()
    if options.config is not None:
        try:
            text = Path(options.config).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError("read", options.config, _reason(error), "correct --config") from error
        config = merge(config, parse_toml(text, options.config), options.config)
    service = {name: getattr(options, name) for name in ("app", "data", "listen", "workers", "routers", "dev")}
    given = {name: value for name, value in service.items() if value is not None}
    log = {"level": options.level} if options.level is not None else {}
    config = merge(config, {"service": given, "log": log}, "command line")
    data = config.service.data or environment.get("STATE_DIRECTORY", "").split(":")[0] or DATA_DEFAULT
    final = {"app": _app(config.service.app), "data": os.path.abspath(data)}
    return merge(config, {"service": final}, "command line")


def _app(app: str) -> str:
    if not app:
        raise OperatorError("serve", "APP", "no app given", "name a file: tidegate serve app.py")
    target, names = split_app(app)
    hint = "name the Python file that defines your objects: tidegate serve app.py, or some of its classes: app.py:Counter"
    if wrong := [name for name in names if not name.isidentifier()]:
        raise OperatorError("serve", app, f"{wrong[0]!r} is no name of a class", hint)
    chosen = f":{','.join(names)}" if names else ""
    if not target.endswith(".py") and "/" not in target:
        if not all(part.isidentifier() for part in target.split(".")):
            raise OperatorError("serve", app, "neither a file nor a module", hint)
        return target + chosen
    if not os.path.isfile(target):
        problem = "is a directory, not a file" if os.path.isdir(target) else "no such file"
        raise OperatorError("serve", target, problem, "name the Python file that defines your objects")
    if not target.endswith(".py"):
        raise OperatorError("serve", target, "not a Python file", hint)
    if not is_text(path := os.path.abspath(target)):
        raise OperatorError("serve", path, "its path is not UTF-8", "rename it; if it is UTF-8, set LC_ALL=C.UTF-8")
    return path + chosen


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8 text"


def _banner(supervisor: Supervisor) -> None:
    identity, supervision = supervisor.identity, supervisor.supervision
    names = classes(supervision)
    workers, shards = len(identity.placement.workers), len(identity.placement.owners)
    routers = f"{plural(len(supervision.routers), 'router')}, " if len(supervision.routers) > 1 else ""
    print(
        f"Tidegate {identity.version} is ready on {listen_endpoint(supervision)}\n"
        f"  {plural(len(names), 'class', 'classes')}: {', '.join(names)}\n"
        f"  {routers}{plural(workers, 'worker')}, {plural(shards, 'shard')}, data in {identity.data}",
        flush=True,
    )


# call


def _call(options: argparse.Namespace) -> int:
    target = f"{options.class_name}/{options.name}"
    try:
        positional, keywords = parse_arguments(options.arguments)
    except ValueError as error:
        print(f"tidegate: call {target} {options.method}: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        result = _ask(options, options.class_name, options.name, options.method, positional, keywords)
    except OperatorError:
        raise
    except Exception as error:  # A built-in exception that the method raised comes back as itself, with the reply as its cause.
        reply = error if isinstance(error, CallError) else error.__cause__
        if not isinstance(reply, CallError):
            raise
        return _report_call_error(f"call {target} {options.method}", reply, as_json=options.json)
    try:
        text = msgspec.json.encode(result).decode()
    except (TypeError, ValueError, OverflowError) as error:
        return _fail(f"call {target} {options.method}: executed, but JSON cannot show its result: {error}")
    print(text)
    return EXIT_OK


def _report_call_error(operation: str, error: CallError, *, as_json: bool) -> int:
    if as_json:
        print(msgspec.json.encode({"error": error.to_wire()}).decode())
    fate = {"not_executed": "not executed", "executed": "executed", "unknown": "may have been executed"}[error.outcome]
    kind = f"{error.details['type']}: " if error.details.get("type") else ""
    code = _fail(one_line(f"{operation}: {error.code}: {kind}{error.message} ({fate})"))
    if trace := error.details.get("traceback"):  # Only from a service in --dev.
        print(trace, file=sys.stderr)
    return code


def _ask(
    options: argparse.Namespace, class_name: str, name: str, method: str, positional: list[Any], keywords: dict[str, Any]
) -> Any:
    from tidegate.runtime.client.synchronous import connect_sync  # Here, because `serve` needs no client.

    _check_somebody_listens(options.connect, options.timeout)
    with connect_sync(options.connect, timeout=options.timeout, direct=False) as client:
        return client.call(class_name, name, method, tuple(positional), keywords)


def _check_somebody_listens(endpoint: str, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """ZeroMQ connects in the background and for ever; a person wants to know at once."""
    timeout_s = min(timeout_s, CONNECT_TIMEOUT_S)
    try:
        if endpoint.startswith("ipc://"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(timeout_s)
                probe.connect(_unix_address(endpoint))
        else:
            host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except (ConnectionRefusedError, FileNotFoundError):
        raise OperatorError("connect", endpoint, "nothing is listening there", _NOBODY_HINT) from None
    except TimeoutError:
        raise OperatorError("connect", endpoint, f"nobody answered within {timeout_s:g} s", _NOBODY_HINT) from None
    except UnicodeError:
        raise OperatorError("connect", endpoint, "no name of a host", "correct --connect") from None
    except OSError as error:
        raise OperatorError("connect", endpoint, error.strerror or str(error), "correct --connect") from None


# bench


def _bench(options: argparse.Namespace) -> int:
    """By another process: what serves need not know what measures."""
    _check_somebody_listens(options.connect)
    command = [sys.executable, "-P", "-m", "tidegate.benchmarks", "unique", "--connect", options.connect, "--load", options.load]
    for name, value in (("class", options.class_name), ("concurrency", options.concurrency), ("requests", options.requests),
                        ("objects", options.objects), ("route", options.route)):  # fmt: skip
        command += [f"--{name}", value] if value is not None else []
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.call([*command, *(["--json"] if options.json else [])], env={**os.environ, "PYTHONPATH": paths})


# status


def _status_of(options: argparse.Namespace) -> dict[str, Any]:
    try:
        status: dict[str, Any] = _ask(options, "", "", "status", [], {})
    except CallError as error:
        problem = f"{error.code}: {error.message}"
        hint = _NOBODY_HINT if isinstance(error, Unavailable) else "look at the log of the service"
        raise OperatorError("status", options.connect, problem, hint) from error
    if "state" not in status:  # The router was asked before it had heard from the supervisor.
        raise OperatorError("status", options.connect, "the service is just starting", "ask again in a moment")
    return status


def _status(options: argparse.Namespace) -> int:
    status = _status_of(options)
    print(json.dumps(status, indent=2) if options.json else render_status(status, time.time_ns() // 1_000_000))
    return EXIT_OK


def _alarms(options: argparse.Namespace) -> int:
    if options.action in ALARM_ACTIONS:
        return _alarm_action(options)
    if options.class_name is not None:
        return _fail_usage("alarms list: takes no object; it lists them all")
    status = _status_of(options)
    print(json.dumps(newest_abandoned(status), indent=2) if options.json else render_alarms(status))
    return EXIT_OK


def _alarm_action(options: argparse.Namespace) -> int:
    operation = f"alarms {options.action}"
    if options.name is None:
        return _fail_usage(f"{operation}: name the object: tidegate {operation} CLASS NAME")
    target = f"{options.class_name}/{options.name}"
    try:
        _ask(options, "", target, ALARM_ACTIONS[options.action], [], {})
    except CallError as error:
        return _report_call_error(f"{operation} {target}", error, as_json=options.json)
    give_up_at = time.monotonic() + ALARM_LISTED_S
    while target in map(alarm_target, newest_abandoned(_status_of(options))) and time.monotonic() < give_up_at:
        time.sleep(0.1)
    print(f"{target}: its alarm " + ("is dropped" if options.action == "drop" else "rings again now"))
    return EXIT_OK


def _fail_usage(text: str) -> int:
    print(f"tidegate: {text}", file=sys.stderr)
    return EXIT_USAGE
