"""`tidegate serve`: the configuration is put together, the directory and the port are taken, the supervisor runs."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tidegate.runtime.addresses import cluster_of, is_of_this_machine
from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.configuration import (
    FILE_VARIABLE,
    SET_HELP,
    WhereToLook,
    asked_for,
    destination,
    flagged,
    read_app,
    read_configuration,
    setting,
)
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_LASTS, EXIT_OK, fail
from tidegate.runtime.cli.pages import plural
from tidegate.runtime.cli.version import version
from tidegate.runtime.data.access_file import is_open_to_others, read_access
from tidegate.runtime.data.directory import DataDirectory, known_cluster, open_directory
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.extras import how_to_install
from tidegate.runtime.logs.capture import start_log
from tidegate.runtime.logs.output import Outputs
from tidegate.runtime.options.option import Option
from tidegate.runtime.sockets.port import Port, is_at, keep_port, open_port
from tidegate.runtime.supervisor.access_watch import AccessWatch
from tidegate.runtime.supervisor.config import ACCESS_NAME, Config, Configuration, ServiceConfig, merge
from tidegate.runtime.supervisor.cores import read_cores, read_memory_bytes
from tidegate.runtime.supervisor.member import Join
from tidegate.runtime.supervisor.notify import Notifier
from tidegate.runtime.supervisor.operators.http_door import open_listening
from tidegate.runtime.supervisor.operators.status import classes, listen_endpoint
from tidegate.runtime.supervisor.rules.placement import place, routers_for, shards_for
from tidegate.runtime.supervisor.run_directory import open_run_directory
from tidegate.runtime.supervisor.service import Service
from tidegate.runtime.supervisor.start_again import keep_trying, stop_at_once
from tidegate.runtime.supervisor.supervisor import Supervisor, supervise
from tidegate.runtime.wire.supervisor_messages import ClusterPlace, Failed

log = logging.getLogger("tidegate")

_SERVE_EPILOG = """examples:
  tidegate serve counter.py
  tidegate serve counter.py --dev                    and again at each save
  tidegate serve shop.py:Cart,Order
  tidegate serve shop.objects:Cart,Order --workers 4 --data /var/lib/shop
  tidegate serve shop.objects --listen tcp://127.0.0.1:9000 --routers 2
  tidegate serve --config /etc/tidegate/tidegate.toml

Listens on the socket that systemd passes, if it does (LISTEN_FDS), instead of --listen.
Stops on SIGTERM or Ctrl-C: answers what is in flight, writes checkpoints, exits 0.
With --keep-trying a start that fails for a reason that can pass (a full disk, a port in use) is tried again,
for ever; one that fails for another reason (a wrong configuration, an app that cannot be loaded) exits 78.
"""


def add(commands: Any) -> None:
    serve = add_command(commands, "serve", _SERVE_EPILOG, run)
    file = f"A TOML file (or ${FILE_VARIABLE}); `tidegate config check` looks at it. Variables and flags go before it."
    serve.add_argument("--config", metavar="FILE", help=file)
    for option in flagged():
        _add_option(serve, option)
    serve.add_argument("--set", metavar="KEY=VALUE", type=setting, action="append", help=SET_HELP)
    again = "For a service manager: a start that fails is tried again, after a growing pause, if what is wrong may pass."
    serve.add_argument("--keep-trying", action="store_true", help=again)


def _add_option(serve: argparse.ArgumentParser, option: Option) -> None:
    """As `runtime/supervisor/config.py` has it. What is given is checked there too, with what comes from a file."""
    assert option.flag is not None
    flag, _, value = option.flag.partition(" ")
    default = f" (default: {option.default})" if option.default else ""
    text = f"{option.description}{default}".replace("%", "%%")
    if not flag.startswith("-"):
        serve.add_argument(destination(option), nargs="?", metavar=flag, help=text)
    elif value:
        serve.add_argument(flag, dest=destination(option), metavar=value, help=text)
    else:
        serve.add_argument(flag, dest=destination(option), action="store_true", default=None, help=text)


def run(options: argparse.Namespace) -> int:
    try:
        asked = asked_for(options, dict(os.environ))
        configuration = _read(asked)
    except OperatorError as error:
        if not options.keep_trying:
            raise
        fail(str(error))
        return EXIT_LASTS
    outputs = start_log("supervisor", configuration.config.log.settings())
    for note in configuration.notes:
        log.warning("%s", note)
    # Who writes to a terminal that has `tostop` set, and is not in its foreground, would be stopped.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    stop_at_once()
    if not options.keep_trying:
        failure = _serve(configuration, asked, outputs)
    else:
        with contextlib.closing(Notifier(os.environ, os.getpid())) as notifier:
            failure = keep_trying(lambda: _serve(configuration, asked, outputs), notifier, time.sleep)
    if failure is None:
        return EXIT_OK
    fail(describe_failure(failure))
    return EXIT_LASTS if options.keep_trying else EXIT_FAILED


def _read(asked: WhereToLook) -> Configuration:
    """Raises OperatorError."""
    configuration = read_configuration(asked)
    read_app(configuration.config.service.app)  # There has to be one.
    return configuration


def _serve(configuration: Configuration, asked: WhereToLook, outputs: Outputs | None) -> Failed | None:
    """From the start to the stop of a service. None after a stop that was asked for; else why it could not be started."""
    try:
        return _supervise(configuration, asked, outputs)
    except OperatorError as error:
        return Failed(error.operation, str(error.place), error.problem, error.hint, fatal=not error.passes)
    except OSError as error:  # Of the run directory, which may be on a disk that is full.
        place = os.fsdecode(error.filename) if error.filename is not None else configuration.config.service.data
        hint = "see that this user may write there, and that there is room"
        return Failed("start", place, error.strerror or str(error), hint, fatal=isinstance(error, PermissionError))


def _supervise(configuration: Configuration, asked: WhereToLook, outputs: Outputs | None) -> Failed | None:
    """Raises OperatorError, OSError."""
    config = configuration.config
    access = _access(config)
    cores = read_cores()
    workers = config.service.workers if isinstance(config.service.workers, int) else None
    with contextlib.ExitStack() as stack:
        cluster = _cluster_place(config.service) if config.service.cluster else None
        directory = _open_directory(config, shards_for(cores, workers), cluster)
        stack.callback(directory.close)
        placement = place(cores, directory.shards, workers)
        run_directory = open_run_directory(directory.path, os.environ.get("RUNTIME_DIRECTORY"))
        stack.callback(run_directory.close)
        routers = config.service.routers
        if not isinstance(routers, int):
            routers = routers_for(cores, config.service.listen)
        # Not before the directory is open: until then routers of an earlier service, whose supervisor died, may listen there.
        port = open_port(config.service.listen, routers, os.environ, os.getpid())
        stack.callback(port.close)
        by_systemd = os.environ.get("LISTEN_PID") == str(os.getpid())
        if by_systemd and ("service", "listen") in configuration.origins and not is_at(config.service.listen, port.endpoint):
            hint = "to change that of the socket unit, give `tidegate install-service` again"
            text = "listens on %s, which systemd has opened, and not on %s of the configuration: %s"
            log.warning(text, port.endpoint, config.service.listen, hint)
        config = merge(config, {"service": {"listen": port.endpoint}}, "listen")
        _check_listen(config, access)
        metrics = None
        if config.metrics.listen:
            metrics = stack.enter_context(open_listening(config.metrics.listen))
        memory = read_memory_bytes()
        joined = None if cluster is None else join_hosts(config, cluster, directory, cores.usable, stack)
        service = Service(
            config,
            directory,
            run_directory,
            placement,
            version(),
            memory,
            port,
            cores=cores.granted,
            routers=routers,
            metrics=metrics,
            access=access,
            outputs=outputs,
            configuration=configuration,
            read_again=lambda: _read(asked),
            cluster=cluster,
            join=None if joined is None else joined.join,
            door=None if joined is None else joined.door,
        )
        return supervise(service, os.environ, _banner)


class Joined(NamedTuple):
    """What a host is given when it has become one of a cluster's."""

    join: Join
    door: Port


def join_hosts(
    config: Config, cluster: ClusterPlace, directory: DataDirectory, cores: int, stack: contextlib.ExitStack
) -> Joined:
    """Its door is open when this returns. Raises OperatorError."""
    from tidegate.runtime.cluster.membership import Membership  # Here, because others need no NATS.
    from tidegate.runtime.cluster.records import Beat

    name = config.service.host_name or platform.node() or directory.host
    door = keep_port(config.service.advertise)
    stack.callback(door.close)
    door.endpoint = f"{config.service.advertise.rpartition(':')[0]}:{door.endpoint.rpartition(':')[2]}"
    workers = config.service.workers if isinstance(config.service.workers, int) else cores
    me = Beat(directory.host, secrets.token_hex(8), 0, 0, name, "", config.service.listen, min(cores, workers))

    def join(changed: Callable[[], object]) -> Membership:
        return Membership(cluster.servers, cluster.name, me, directory.shards, changed, directory.check_cluster)

    return Joined(join, door)


def _cluster_place(service: ServiceConfig) -> ClusterPlace:
    return ClusterPlace(*cluster_of(service.cluster), service.snapshot_mib << 20, service.snapshot_s)


def _open_directory(config: Config, shards_if_new: int, cluster: ClusterPlace | None) -> DataDirectory:
    """Raises OperatorError. One that knows its cluster opens before the servers are asked: they may need seconds to find each
    other, and processes are started meanwhile."""
    path = Path(config.service.data)
    if cluster is None:
        return open_directory(path, shards_if_new)
    try:
        from tidegate.shard.replicated.founding import find_or_found  # Here, because others need no NATS.
    except ModuleNotFoundError as error:
        hint = f"install it: {how_to_install('tidegate[cluster]')}"
        raise OperatorError("use the cluster", cluster.name, f"there is no {error.name}", hint) from error
    if (known := known_cluster(path)) is not None:
        return open_directory(path, known.shards, known.id)
    founding = find_or_found(cluster.servers, cluster.name, shards_if_new)
    return open_directory(path, founding.shards, founding.id)


def _access(config: Config) -> AccessWatch | None:
    """Raises OperatorError."""
    path = Path(config.service.access or os.path.join(config.service.data, ACCESS_NAME))
    now_s = time.time()
    access = read_access(path)
    if access is None and config.service.access:
        raise OperatorError(
            "read", path, "there is no such list of access keys", f"make one: tidegate keys new NAME --access {path}"
        )
    return None if access is None else AccessWatch(path, access, now_s)


def _check_listen(config: Config, access: AccessWatch | None) -> None:
    """Raises OperatorError where anybody might call from elsewhere, unless that was asked for."""
    listen = config.service.listen
    if access is not None:
        if problem := is_open_to_others(access.path):
            log.warning("access: %s", problem)
        log.info("access: clients need a key; %d are valid (tidegate keys list)", len(access.now.keys))
    elif is_of_this_machine(listen):
        pass
    elif config.service.insecure:
        log.warning("listen %s: clients need no access key (insecure): whoever reaches this may call everything", listen)
    else:
        problem = "other machines can connect there, and there are no access keys"
        hint = "make one: tidegate keys new NAME; or listen on tcp://127.0.0.1:7711; or say --insecure"
        raise OperatorError("listen", listen, problem, hint)


def describe_failure(failure: Failed) -> str:
    text = f"{failure.operation} {failure.place}: {failure.problem} ({failure.hint})"
    return f"{text}\n{failure.traceback.rstrip()}" if failure.traceback else text


def _banner(supervisor: Supervisor) -> None:
    identity, supervision = supervisor.identity, supervisor.supervision
    names = classes(supervision)
    workers, shards = len(identity.placement.workers), len(identity.placement.owners)
    routers = f"{plural(len(supervision.routers), 'router')}, " if len(supervision.routers) > 1 else ""
    print(
        f"Tidegate {identity.version} is ready on {listen_endpoint(supervision)}\n"
        f"  {plural(len(names), 'class', 'classes')}: {', '.join(names)}\n"
        f"  {routers}{plural(workers, 'worker')}, {plural(shards, 'shard')}, data in {identity.data}\n",
        end="",  # With the last line: it is written at once.
        flush=True,
    )
