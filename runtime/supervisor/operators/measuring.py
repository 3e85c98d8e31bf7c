"""What the supervisor itself knows of a service, in the form in which processes tell what they have counted: who is there and
what each uses, whether calls are served, what is wrong."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

import psutil

from tidegate.runtime.metrics.ledger import Sums
from tidegate.runtime.supervisor.operators.status import Identity, app_version
from tidegate.runtime.supervisor.rules.problems import problems
from tidegate.runtime.supervisor.rules.seats import SeatState, is_next, is_router
from tidegate.runtime.supervisor.rules.supervision import Supervision

SUPERVISOR = "supervisor"


def why_not_ready(supervision: Supervision) -> str | None:
    """Why no calls are served; None: they are. One worker that is started again keeps nobody from the objects of the others, and
    calls to its own wait."""
    if supervision.stopping:
        return "the service is stopping"
    if not supervision.was_ready:
        return "the service is starting: not every worker has recovered yet"
    ready = [seat for seat, each in supervision.seats.items() if each.state is SeatState.READY and not is_next(seat)]
    if not any(is_router(seat) for seat in ready):
        return "no router serves"
    return None if any(not is_router(seat) for seat in ready) else "no worker serves"


def measured(
    identity: Identity, supervision: Supervision, pids: Mapping[int, int], heard: Mapping[int, float], now: float
) -> Sums:
    """`pids` by seat; `heard`: when the process there has told something."""
    wrong = problems(supervision, now)
    info = identity.version, identity.config.service.app, app_version(supervision), platform.python_version()
    sums: Sums = {
        "info": {info: 1},
        "ready": {(): int(why_not_ready(supervision) is None)},
        "problems": {(): len(wrong)},
        "backup_time_seconds": {(): supervision.backups.newest_ms / 1_000},
        "quarantined_objects": {(): len(supervision.suspicion.quarantined(now))},
    }
    for seat, occupancy in supervision.seats.items():
        at = (supervision.name(seat),)
        sums.setdefault("process_up", {})[at] = int(occupancy.state is SeatState.READY)
        if not is_next(seat):
            sums.setdefault("process_restarts", {})[at] = max(0, occupancy.incarnation - 1)
        if occupancy.state is SeatState.READY:
            since = heard.get(seat, now if occupancy.pinged_at is None else occupancy.pinged_at)
            sums.setdefault("process_last_answer_seconds", {})[at] = now - since
        _add_usage(sums, supervision.name(seat), pids.get(seat))
    sums["process_up"][SUPERVISOR,] = 1
    _add_usage(sums, SUPERVISOR, os.getpid())
    return sums


def _add_usage(sums: Sums, name: str, pid: int | None) -> None:
    if pid is None:
        return
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            found = {
                "process_resident_memory_bytes": process.memory_info().rss,
                "process_cpu_seconds": times.user + times.system,
                "process_open_fds": process.num_fds(),
                "process_max_fds": process.rlimit(psutil.RLIMIT_NOFILE)[0],
                "process_start_time_seconds": process.create_time(),
            }
    except psutil.Error:  # It has just ended.
        return
    for key, value in found.items():
        sums.setdefault(key, {})[name,] = value
