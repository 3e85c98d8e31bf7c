"""What `tidegate status` shows: one plain snapshot of the whole service, put together by the supervisor.

Only numbers that mean something later are in it (a time of start, not an uptime), so that an idle service, whose snapshot
does not change, sends none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psutil

from tidegate.runtime.limits import USAGE_S_MIN
from tidegate.runtime.metrics.rates import SERVICE, Rate, Rates, merged
from tidegate.runtime.supervisor.config import Config
from tidegate.runtime.supervisor.rules.placement import Placement
from tidegate.runtime.supervisor.rules.problems import problems
from tidegate.runtime.supervisor.rules.seats import Occupancy, is_router
from tidegate.runtime.supervisor.rules.supervision import Supervision
from tidegate.runtime.wire.commands import ConfigChange
from tidegate.runtime.wire.supervisor_messages import Problem

NO_RATES: Mapping[int, Rates] = {}


@dataclass(frozen=True)
class Identity:
    """What does not change while the service runs."""

    version: str
    start: int
    started_at_ms: int
    """Unix time."""
    data: str
    config: Config
    placement: Placement
    may_use: Mapping[str, float] = field(default_factory=dict)
    """Cores and memory of the machine, or what its control group leaves it."""


@dataclass
class _Look:
    process: psutil.Process
    at: float
    used_s: float
    percent: int | None = None


class Usage:
    """Memory and processor time of the processes, as the kernel counts them."""

    def __init__(self) -> None:
        self._looks: dict[int, _Look] = {}

    def of(self, pid: int | None, now: float) -> dict[str, int | None]:
        """Empty for a process that is gone. `cpu_percent` is of one core, over `USAGE_S_MIN` or more before the newest look; None
        until that is over: what a process uses at its start, and a tick of the kernel's clock, are much of a short time."""
        if pid is None:
            return {}
        try:
            look = self._looks.get(pid)
            process = psutil.Process(pid) if look is None else look.process
            with process.oneshot():
                times = process.cpu_times()
                used_s = times.user + times.system
                if look is None:
                    look = self._looks[pid] = _Look(process, now, used_s)
                elif (elapsed_s := now - look.at) >= USAGE_S_MIN:
                    look.percent = round((used_s - look.used_s) / elapsed_s * 100)
                    look.at, look.used_s = now, used_s
                return {"rss_mib": round(process.memory_info().rss / (1 << 20)), "cpu_percent": look.percent}
        except psutil.Error:
            self._looks.pop(pid, None)
            return {}

    def forget_all_but(self, pids: set[int]) -> None:
        self._looks = {pid: look for pid, look in self._looks.items() if pid in pids}


def snapshot(
    identity: Identity,
    supervision: Supervision,
    pids: dict[int, int],
    usage: Usage,
    now: float,
    commands: str = "",
    rates: Mapping[int, Rates] = NO_RATES,
    config_waits: Sequence[ConfigChange] = (),
) -> dict[str, Any]:
    """`pids` and `rates` by seat. `commands` is where commands of operators come in. `config_waits`: what is set, not in effect.
    `classes` is what the system call of that name answers; each router adds numbers of its own."""
    usage.forget_all_but({os.getpid(), *pids.values()})
    seats = supervision.seats
    routers = [
        {"name": supervision.name(s), **_occupancy(seats[s], pids.get(s), usage, now, rates.get(s))}
        for s in supervision.all_routers
    ]
    workers = []
    for place in identity.placement.workers:
        occupancy = _occupancy(seats[place.index], pids.get(place.index), usage, now, rates.get(place.index))
        shards = list(supervision.shards_of(place.index))
        workers.append({"name": supervision.name(place.index), "core": place.cpu, "shards": shards, **occupancy})
    known = classes(supervision)
    service = identity.config.service
    wrong = problems(supervision, now)
    of_workers = merged(each for seat, each in rates.items() if not is_router(seat))
    return {
        "version": identity.version,
        "problems": [msgspec.to_builtins(problem) for problem in wrong],
        "state": state(supervision, wrong),
        "replacement": supervision.replacements.progress,
        "commands": commands,
        "app": service.app,
        "app_version": app_version(supervision),
        "data": identity.data,
        "listen": listen_endpoint(supervision) or service.listen,
        "start": identity.start,
        "started_at_ms": identity.started_at_ms,
        "may_use": dict(identity.may_use),
        "epoch": supervision.epoch,
        "backups": [msgspec.to_builtins(each) for each in supervision.backups.notes],
        "config_waits": [msgspec.to_builtins(each) for each in config_waits],
        "shards": len(identity.placement.owners),
        "class_names": list(known),
        "rates": of_workers.pop(SERVICE, Rate()).shown(),
        "class_rates": {name: rate.shown() for name, rate in sorted(of_workers.items())},
        "processes": [{"name": "supervisor", "pid": os.getpid(), **usage.of(os.getpid(), now)}, *routers, *workers],
        "quarantined_objects": [
            {
                "object": f"{each.class_name}/{each.name}",
                "offences": each.offences,
                "code": each.code,
                "for_s": each.for_s,
                "why": each.why,
            }
            for each in supervision.suspicion.quarantined(now)
        ],
        "classes": known,
    }


def state(supervision: Supervision, wrong: Sequence[Problem]) -> str:
    if supervision.stopping:
        return "stopping"
    return "serving" if supervision.all_serve and not wrong else "degraded"


def status_line(supervision: Supervision, now: float) -> str:
    """For systemd: what is served where and by whom; what is wrong goes before."""
    wrong = problems(supervision, now)
    listen = listen_endpoint(supervision) or "no endpoint"
    routers, workers = len(supervision.routers), len(supervision.worker_seats)
    by = f"{routers} routers and {workers} workers" if routers > 1 else f"{workers} workers"
    count = len(classes(supervision))
    served = f"{count} {'class' if count == 1 else 'classes'} on {listen} with {by}"
    if not wrong:
        return f"{state(supervision, wrong)} {served}"
    more = f" (1 of {len(wrong)} problems)" if len(wrong) > 1 else ""
    return f"{state(supervision, wrong)}: {wrong[0].where}: {wrong[0].what}{more}; {served}"


def _occupancy(occupancy: Occupancy, pid: int | None, usage: Usage, now: float, rates: Rates | None) -> dict[str, Any]:
    return {
        "state": occupancy.state.value,
        "pid": pid,
        "restarts": max(0, occupancy.incarnation - 1),
        "flapping": occupancy.flapping,
        "silent_s": None if (silent_s := occupancy.silent_s(now)) is None else round(silent_s, 1),
        "last_problem": occupancy.last_problem,
        "endpoint": occupancy.ready.endpoint if occupancy.ready else None,
        "app_version": occupancy.ready.app_version if occupancy.ready else "",
        **usage.of(pid, now),
        "rates": {} if rates is None else rates[SERVICE].shown(),
        "statistics": occupancy.statistics,
    }


def app_version(supervision: Supervision) -> str:
    """Of the app's source; empty while no worker has loaded it."""
    versions = (each.ready.app_version for each in supervision.seats.values() if each.ready)
    return next(filter(None, versions), "")


def listen_endpoint(supervision: Supervision) -> str | None:
    """Where the routers really listen, as one would write it; None while all are down."""
    for seat in supervision.routers:
        if (ready := supervision.seats[seat].ready) is not None:
            return ready.endpoint.replace("[::ffff:127.0.0.1]", "127.0.0.1")
    return None


def classes(supervision: Supervision) -> dict[str, Any]:
    """The object classes of the app: every worker has the same."""
    for seat, occupancy in supervision.seats.items():
        if not is_router(seat) and occupancy.ready is not None:
            return dict(occupancy.ready.classes)
    return {}


def now_ms() -> int:
    return time.time_ns() // 1_000_000
