"""What is wrong with a service now, and what to do about each of it: first of all that `tidegate status` shows.

Rule: pure. A problem is listed for as long as it lasts; what is over is history, and in the log. The supervisor's own are found
here, in its own state; workers and routers tell theirs in the statistics of their pongs, under `problems`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from tidegate.runtime.errors import one_line
from tidegate.runtime.supervisor.rules.seats import Occupancy, SeatState, is_next, is_router
from tidegate.runtime.supervisor.rules.supervision import Supervision
from tidegate.runtime.wire.supervisor_messages import Problem

_LOOK_AT_THE_LOG = "look at the log of the service"


def problems(supervision: Supervision, now: float) -> tuple[Problem, ...]:
    """Each once; those of processes that do not serve come first."""
    found = [
        *_of_seats(supervision),
        *_of_silence(supervision, now),
        *_of_replacements(supervision),
        *_of_objects(supervision, now),
        *_told(supervision),
        *supervision.of_cluster,
        *supervision.backups.problems,
    ]
    return tuple(dict.fromkeys(found))


def _of_seats(supervision: Supervision) -> Iterator[Problem]:
    for seat, occupancy in supervision.seats.items():
        name = supervision.name(seat)
        if is_next(seat) or supervision.replacements.replaces(seat):
            continue
        if occupancy.flapping:
            what = f"fails again and again, {occupancy.policy.failures} times so far{_because(occupancy)}"
            yield Problem(what, name, f"mend the cause; {_LOOK_AT_THE_LOG}")
        elif occupancy.state in (SeatState.EMPTY, SeatState.STARTING) and supervision.was_ready and not supervision.stopping:
            yield Problem(f"is {occupancy.state.value}{_because(occupancy)}", name, "wait: it is started again by itself")


def _of_silence(supervision: Supervision, now: float) -> Iterator[Problem]:
    for seat, occupancy in supervision.seats.items():
        if (silent_s := occupancy.silent_s(now)) is not None and not is_next(seat):
            what = f"does not answer, its last answer came {silent_s:.0f} s ago{_for_calls(seat)}"
            yield Problem(what, supervision.name(seat), _until_killed(supervision.liveness_s))


def _for_calls(seat: int) -> str:
    return "; clients go to the other routers, or straight to the workers" if is_router(seat) else "; calls to its objects wait"


def _until_killed(liveness_s: float) -> str:
    if math.isinf(liveness_s):
        return "if it stands at a breakpoint, let it go on; else kill it: it is started again by itself"
    return f"wait: {liveness_s:g} s after a ping that it has not answered it is killed and started again ([service] liveness_s)"


def _of_replacements(supervision: Supervision) -> Iterator[Problem]:
    replacements = supervision.replacements
    if replacements.running is not None:
        return
    if (failed := replacements.failed) is not None:
        now = "workers run different versions of the app" if replacements.mixed else "the version before goes on"
        problem = "; ".join(filter(None, map(str.strip, failed.problem.splitlines())))  # Several mistakes have a line each.
        what = one_line(f"the last reload failed: {problem}")
        yield Problem(f"{what}; {now}", one_line(f"{failed.operation} {failed.place}"), f"{failed.hint}; then: tidegate reload")


def _because(occupancy: Occupancy) -> str:
    return f": {one_line(occupancy.last_problem)}" if occupancy.last_problem else ""


def _of_objects(supervision: Supervision, now: float) -> Iterator[Problem]:
    for each in supervision.suspicion.quarantined(now):
        offences = f"its code has held up or ended its worker {each.offences} times, the last time in {one_line(each.code)}"
        release = "correct its code; then `tidegate objects release CLASS NAME`, or wait; others are served"
        yield Problem(f"in quarantine: {offences}", one_line(f"{each.class_name}/{each.name}"), release)


def _told(supervision: Supervision) -> Iterator[Problem]:
    for seat, occupancy in supervision.seats.items():
        try:
            yield from msgspec.convert(occupancy.statistics.get("problems", ()), tuple[Problem, ...])
        except msgspec.ValidationError:  # What a process says of itself must not take the status from everybody.
            yield Problem("tells of a problem in a form that cannot be read", supervision.name(seat), _LOOK_AT_THE_LOG)
