"""The edge of a worker process: `python -m tidegate.shard --control-fd N`, started by the supervisor and by nobody else."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import math
import os
import platform
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import msgspec
import zmq

from tidegate.runtime.child.child import STUCK_FD_VARIABLE, pin, prepare_child
from tidegate.runtime.child.control import SupervisorGone, receive_spec, send_blocking, stream_to_supervisor, wait_for_open
from tidegate.runtime.child.witness import Witness
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import OUTPUT_FLUSH_S, SUSPICION_S
from tidegate.runtime.logs.capture import say_past_locks, speakers_are
from tidegate.runtime.logs.output import Outputs
from tidegate.runtime.logs.tracebacks import app_traceback
from tidegate.runtime.options.reading import Mistakes
from tidegate.runtime.sockets.context import new_context
from tidegate.runtime.sockets.endpoint import prepare_uncopied
from tidegate.runtime.sockets.streams import stream_path
from tidegate.runtime.wire.supervisor_messages import HELD_UP_EXIT, Drained, Failed, Loaded, Ready, WorkerSpec
from tidegate.shard.log.commit_log import LogBroken
from tidegate.shard.loop.cpython import this_frame
from tidegate.shard.loop.loop import new_worker_loop
from tidegate.shard.loop.places import speaker
from tidegate.shard.loop.self_test import Verdict, self_test
from tidegate.shard.objects.methods import AppError, ObjectClass
from tidegate.shard.objects.threads import keep_to_this_thread
from tidegate.shard.store.checkpoints.checkpoint import CheckpointTrouble
from tidegate.shard.store.checkpoints.pace import memtable_bytes_max
from tidegate.shard.store.store import StoreFailed
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.shard.worker.app import load_app, why_not_imported
from tidegate.shard.worker.app_logging import app_may_configure
from tidegate.shard.worker.app_settings import give_settings
from tidegate.shard.worker.debugger import set_breakpoint_hook
from tidegate.shard.worker.forks import Forks, end_children
from tidegate.shard.worker.lookout import Lookout
from tidegate.shard.worker.patience import Patience
from tidegate.shard.worker.source import keep_source
from tidegate.shard.worker.tracing import start_tracing
from tidegate.shard.worker.watch import exit_at_once, name_exits, start_watch
from tidegate.shard.worker.worker import Worker

log = logging.getLogger("tidegate")

_LEFT_AT_THE_END: list[str] = []
"""Folders to be removed."""

SLOWER = "each call gets a task of its own and is slower: in Python %s this is not so: %s"

SWITCH_INTERVAL_S = 0.000_5
"""A helper thread that returns from the disk waits at most this long for the busy loop thread (5 ms by default)."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tidegate.shard", description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True)
    control_fd = parser.parse_args(arguments).control_fd
    cores = os.sched_getaffinity(0)
    try:
        outputs = prepare_child("worker", control_fd)
        forks = Forks(cores, outputs.descriptors())
        spec = receive_spec(control_fd)
    except SupervisorGone:
        return 1
    assert isinstance(spec, WorkerSpec), spec
    outputs.name(f"worker {spec.index}")
    speakers_are(speaker)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    set_breakpoint_hook(Path(spec.run_dir), dev=spec.dev)
    source = keep_source(Path(spec.source), spec.app)
    try:
        with app_may_configure():
            classes = load_app(spec.app, source)
            settings = give_settings(classes, spec.settings)
    except Mistakes as exc:
        send_blocking(control_fd, Failed(exc.operation, str(exc.place), exc.problem, exc.hint))
        return 1
    except (Exception, SystemExit) as exc:
        send_blocking(control_fd, _cannot_load(spec.app, exc))
        return 1
    if source.changed:
        log.warning(
            "%s changed on disk since it was loaded; this worker runs the version of the others, until `tidegate reload`",
            ", ".join(source.changed),
        )
    forks.app_is_loaded()
    verdict = self_test(new_worker_loop())
    if verdict.of_tasks:
        send_blocking(control_fd, _cannot_run(verdict))
        return 1
    send_blocking(control_fd, Loaded(source.version, settings))
    try:
        opened = wait_for_open(control_fd)  # Until then another process may have the shards.
    except SupervisorGone:
        return 1
    if opened.shards is not None:
        spec = msgspec.structs.replace(spec, shards=opened.shards)
    pin(spec.cpu)  # Not before: what has the core may be the worker whose place this one takes.
    if verdict.of_spare_task:
        log.warning(SLOWER, platform.python_version(), "; ".join(verdict.of_spare_task))
    return _serve(spec, classes, source.version, control_fd, outputs, forks, spare_task=not verdict.of_spare_task)


def _look_out(spec: WorkerSpec, worker: Worker, loop: asyncio.AbstractEventLoop, outputs: Outputs) -> Lookout:
    witness = None
    try:
        witness = Witness(Path(spec.witness))
    except OSError as error:
        if spec.watched:
            log.warning("cannot write down whose code runs, in %s: %s", spec.witness, error.strerror)
    if witness is not None:
        name_exits(witness)
        if spec.watched:
            loop.call_later(SUSPICION_S, start_watch(witness))

    def end() -> NoReturn:
        outputs.flush(OUTPUT_FLUSH_S)
        exit_at_once(HELD_UP_EXIT)

    limit_s = math.inf if spec.held_up_s is None else spec.held_up_s
    stuck_fd = int(os.environ.pop(STUCK_FD_VARIABLE, "-1"))
    return Lookout(Patience(limit_s), say_past_locks, None if spec.watched else witness, worker.held_up, end, stuck_fd)


def _cannot_load(app: str, error: BaseException) -> Failed:
    if isinstance(error, AppError):
        several = len(error.problems) > 1
        problem = "\n  ".join([f"{len(error.problems)} problems", *error.problems]) if several else str(error)
        return Failed("load", app, problem, "correct the app and try again")
    return Failed("load", app, why_not_imported(error), "correct the app and try again", traceback=app_traceback(error))


def _cannot_run(verdict: Verdict) -> Failed:
    problem = f"code of objects would not be run as promised, for this is not so: {'; '.join(verdict.of_tasks)}"
    return Failed("start", f"Python {platform.python_version()}", problem, "use another version of it and of uvloop", fatal=True)


def _serve(
    spec: WorkerSpec,
    classes: list[ObjectClass],
    app_version: str,
    control_fd: int,
    outputs: Outputs,
    forks: Forks,
    *,
    spare_task: bool,
) -> int:
    loop = new_worker_loop()
    keep_to_this_thread()
    control = stream_to_supervisor(control_fd, loop)
    prepare_uncopied()
    context = new_context()
    exit_codes: list[int] = []
    tracing = start_tracing(os.environ)

    def ended(exit_code: int, unanswered: int) -> None:
        if exit_code == 0:
            control.send(worker.pong(0))  # Its last counts.
            control.send(Drained(unanswered))
        exit_codes.append(exit_code)
        loop.stop()

    try:
        open_store = partial(_open_store, spec)
        worker = Worker(spec, context, loop, classes, open_store, control.send, ended, spare_task=spare_task, tracing=tracing)
    except OperatorError as exc:
        passes = isinstance(exc, (StoreFailed, LogBroken)) or exc.passes  # Perhaps: the disk failed.
        failed = Failed(exc.operation, str(exc.place), exc.problem, exc.hint, fatal=not passes)
        send_blocking(control_fd, failed)
        return 1
    endpoint = _bind(worker, spec)
    stream = _bind_stream(worker, endpoint)
    control.start(worker.on_control, partial(os._exit, 1))  # Nobody is left to report to.
    loop.call_soon(forks.worker_runs, worker, Path(spec.data_dir), Path(spec.run_dir))
    worker.start()
    lookout = _look_out(spec, worker, loop, outputs)
    described = {object_class.name: object_class.describe() for object_class in classes}
    store = worker.store
    control.send(Ready(endpoint, described, store.recovery.records, app_version, store.keeps_logs, stream))
    lookout.start(this_frame())
    loop.run_forever()
    lookout.close()
    if tracing is not None:
        tracing.close()
    worker.close()
    control.flush_blocking()
    context.term()  # Waits until the last replies have left, two seconds at most.
    for folder in _LEFT_AT_THE_END:
        shutil.rmtree(folder, ignore_errors=True)
    end_children()
    logging.shutdown()
    outputs.flush(OUTPUT_FLUSH_S)
    os._exit(exit_codes[0])  # User threads and executors must not keep a worker alive that is done.


def _open_store(spec: WorkerSpec, trouble: Callable[[CheckpointTrouble], None]) -> WorkerStore:
    data_dir, memtable_bytes = Path(spec.data_dir), memtable_bytes_max(spec.cache_bytes)
    if spec.cluster is None:
        store = WorkerStore.open(data_dir, spec.start, spec.index, spec.shards, trouble, memtable_bytes)
        store.check_belonging(data_dir, spec.shards_total)
        return store
    from tidegate.shard.replicated.snapshot import SnapshotPolicy
    from tidegate.shard.replicated.worker_log import WorkerLog  # Here, because a service without a cluster needs no NATS.

    words = f"worker {spec.index} of {platform.node()}, process {os.getpid()}"
    policy = SnapshotPolicy(spec.cluster.snapshot_bytes, spec.cluster.snapshot_s)
    shared_log = WorkerLog(spec.cluster.servers, spec.cluster.name, words, policy)
    return WorkerStore.open_shared(data_dir, spec.index, spec.shards, trouble, memtable_bytes, shared_log)


def _bind(worker: Worker, spec: WorkerSpec) -> str:
    """The endpoint. On a disk without room for a socket's name it is in a folder of its own elsewhere."""
    for left in Path(spec.run_dir).glob(f"{spec.index}.*"):  # By an earlier process of this seat: on a full disk it makes room.
        left.unlink(missing_ok=True)
    # The random part keeps a client apart that reaches another machine's service through a tunnel, and finds a socket of the
    # same path on its own machine: it would talk to the wrong service.
    name = f"{spec.index}.{spec.incarnation}.{secrets.token_hex(4)}"
    try:
        return worker.bind(f"ipc://{spec.run_dir}/{name}")
    except zmq.ZMQError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
    elsewhere = tempfile.mkdtemp(prefix="tidegate-")
    _LEFT_AT_THE_END.append(elsewhere)
    return worker.bind(f"ipc://{elsewhere}/{name}")


def _bind_stream(worker: Worker, endpoint: str) -> str | None:
    """The path, beside the endpoint's. Without it clients are served all the same."""
    try:
        return worker.bind_stream(stream_path(endpoint))
    except OSError as error:
        log.warning("listen for streams at %s: %s; clients on this host come in by ZeroMQ", stream_path(endpoint), error)
        return None


if __name__ == "__main__":
    sys.exit(main())
