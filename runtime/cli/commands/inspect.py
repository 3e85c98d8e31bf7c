"""`tidegate inspect`: what one object does now, what keeps its gate closed, who waits for whom, what went wrong with it."""

from __future__ import annotations

import argparse
import datetime
from typing import Any

from tidegate.runtime.cli.pages import plural, table
from tidegate.runtime.cli.wishing import Result, add_wish, add_wish_options, carry_out, tell
from tidegate.runtime.wire.wishes import Inspect

_EPILOG = """Nothing of the object runs for it, and a closed gate is no obstacle. Errors and slow calls are those since its worker
was started, the newest first. "at" is the line of the app's own code where a task waits.

examples:
  tidegate inspect Counter alice
  tidegate inspect Counter alice --json
"""


def add(commands: Any) -> None:
    add_wish_options(add_wish(commands, "inspect", "", _EPILOG, run))


def run(options: argparse.Namespace) -> int:
    result = carry_out(options, Inspect())
    return tell(options, result, _page(result))


def _page(found: Result) -> str:
    lines = [
        f"{found['object']}: {_state(found)}, shard {found['shard']}{'' if found['in_app'] else ', the app has no such class'}"
    ]
    if found["quarantine"]:
        each = found["quarantine"]
        lines.append(f"in quarantine for {each['for_s']:g} s, because of {each['because_of']} (tidegate objects release)")
    if found["alarm"]:
        lines.append(f"its alarm is due {found['alarm']}")
    if found["abandoned_alarm"]:
        lines.append(f"an alarm of it was abandoned {found['abandoned_alarm']['at']}: {found['abandoned_alarm']['error']}")
    if "gate" in found:
        lines += _in_memory(found)
    if found["errors"]:
        rows = [("when", "where", "what went wrong, or was slow")]
        rows += [(_time(each["time_ms"]), each["code"], each["what"]) for each in found["errors"]]
        lines += ["", *table(rows)]
    return "\n".join(lines)


def _state(found: Result) -> str:
    stored = "" if found["stored"] else ", nothing of it is stored"
    used = f", used {found['used_s_ago']:g} s ago" if "used_s_ago" in found else ""
    return f"{found['state']}{used}{stored}"


def _in_memory(found: Result) -> list[str]:
    gate, cached = found["gate"], found["cached"]
    if gate["open"]:
        says = "its gate is open"
    else:
        by = gate["closed_by"] or "the events before"
        for_s = "" if gate["closed_for_s"] is None else f" for {gate['closed_for_s']:g} s"
        says = f"its gate is closed{for_s} by {by}" + (f", which waits for {gate['waits_for']}" if gate["waits_for"] else "")
    lines = [says, f"{plural(cached['keys'], 'key')} in its cache, {found['undurable_keys']} not durable yet"]
    called = found["calls_per_s"]
    if called["now"] or called["minute"]:
        lines.append(f"called about {called['now']:,g} times a second now, {called['minute']:,g} in the last minute")
    if found["running"]:
        rows = [("running", "for", "called by", "at", "waits for")]
        for each in found["running"]:
            for_s = "" if each["for_s"] is None else f"{each['for_s']:g} s"
            row = (each["method"] or "a task", for_s, each["called_by"] or "", each["at"], each["waits_for"] or "")
            rows.append(row)
        lines += ["", *table(rows), *_more(found["running_count"] - len(found["running"]))]
    if found["queue"]:
        queued = [("waits at the gate", "for", "called by")]
        for each in found["queue"]:
            waits = "" if each["waits_s"] is None else f"{each['waits_s']:g} s"
            queued.append((each["method"] or each.get("what", "an event"), waits, each["called_by"] or ""))
        lines += ["", *table(queued), *_more(found["queue_count"] - len(found["queue"]))]
    return lines


def _more(count: int) -> list[str]:
    return [f"and {count} more"] if count > 0 else []


def _time(time_ms: int) -> str:
    return datetime.datetime.fromtimestamp(time_ms / 1_000, datetime.UTC).isoformat(timespec="seconds")
