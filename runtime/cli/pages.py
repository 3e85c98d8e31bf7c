"""What `status`, `top` and `alarms` show, made of the status of a service. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from tidegate.runtime.client.answers import ProcessStatus, ServiceStatus
from tidegate.runtime.errors import one_line
from tidegate.runtime.options.words import shown

WAITING_SHOWN = 20
_HOT_SHOWN = 5

# status


def render_status(status: ServiceStatus, now_ms: int) -> str:
    """A page to read; `--json` has everything."""
    lines = [*_problems(status), *head(status, now_ms), f"data {status.data}: {plural(status.shards, 'shard')}{_space(status)}"]
    if abandoned := abandoned_count(status):
        lines.append(f"alarms: {abandoned} abandoned, because their handlers failed again and again; see `tidegate alarms`")
    lines += _backups(status, now_ms)
    lines += [
        one_line(f"{each.option} = {shown(each.after)} is set, {shown(each.before)} in effect: it takes {each.takes}")
        for each in status.config_waits
    ]
    return "\n".join([*lines, "", *processes(status), *classes(status), *_objects(status, now_ms)])


def _backups(status: ServiceStatus, now_ms: int) -> list[str]:
    """Those that succeeded. Others are problems."""
    good = sorted((each for each in status.backups if each.good_ms), key=lambda each: -each.good_ms)
    ages = (duration(max(0, now_ms - each.good_ms) // 1_000) for each in good)
    return [one_line(f"backup to {each.place}: {age} ago ({each.backup})") for each, age in zip(good, ages, strict=True)]


def head(status: ServiceStatus, now_ms: int) -> list[str]:
    uptime = duration(max(0, now_ms - status.started_at_ms) // 1_000)
    wrong = f", {plural(len(status.problems), 'problem')}" if status.problems else ""
    lines = [
        f"{status.state}{wrong} on {status.listen} for {uptime} (Tidegate {status.version}, start {status.start})",
        f"app {status.app}{_version(status)}: {', '.join(status.class_names) or 'no classes'}",
    ]
    if status.rates:
        lines.append(_pace(status.rates))
    return [one_line(line) for line in lines]


def _pace(rates: dict[str, Any]) -> str:
    """Of the last seconds."""
    calls, errors = f"{rates.get('calls_per_s', 0):,.0f} calls/s", f"{rates.get('errors_per_s', 0):,.0f} errors/s"
    if (half := rates.get("answer_p50_ms")) is None:
        return f"{calls}, {errors}"
    return f"{calls}, {errors}; answered in {half:g} ms (p50), {rates.get('answer_p99_ms') or half:g} ms (p99)"


def _problems(status: ServiceStatus, shown_max: int | None = None) -> list[str]:
    lines = []
    for each in status.problems[:shown_max]:
        lines += [one_line(f"PROBLEM {each.where}: {each.what}"), one_line(f"  next: {each.next}")]
    return [*lines, ""] if lines else []


def _objects(status: ServiceStatus, now_ms: int) -> list[str]:
    """Those that stand out."""
    return [*_hottest(status), *_waiting(status, now_ms), *_long_calls(status, now_ms), *_piles(status)]


def _waiting(status: ServiceStatus, now_ms: int) -> list[str]:
    """Objects behind whose gates somebody has waited for more than a second."""
    found = [each for process in status.processes for each in process.statistics.get("waiting_objects", [])]
    if not found:
        return []
    rows: list[tuple[str, ...]] = [("object", "waits for", "events", "its gate is closed by", "which waits for")]
    for each in sorted(found, key=lambda each: int(each["since_ms"]))[:WAITING_SHOWN]:
        waited = f"{max(0, now_ms - each['since_ms']) / 1_000:.1f} s"
        rows.append((each["object"], waited, str(each["waiting"]), each["closed_by"], each["waits_for"]))
    return ["", *table(rows)]


def _long_calls(status: ServiceStatus, now_ms: int) -> list[str]:
    """Calls that have run for very long and are not answered."""
    found = [each for process in status.processes for each in process.statistics.get("long_calls", [])]
    if not found:
        return []
    rows: list[tuple[str, ...]] = [("call without an answer", "runs for", "of its object", "waits for")]
    for each in sorted(found, key=lambda each: int(each["since_ms"]))[:WAITING_SHOWN]:
        for_s = f"{max(0, now_ms - each['since_ms']) / 1_000:,.0f} s"
        rows.append((f"{each['object']} {each['method']}", for_s, str(each["calls"]), each["waits_for"]))
    return ["", *table(rows)]


def hot_objects(status: ServiceStatus) -> list[dict[str, Any]]:
    """Those that are called most, of all workers: first those that are now, then those that were in the last minute."""
    found = {
        (each["class_name"], each["name"]): {"minute_per_s": 0.0, **each}  # Before an upgrade a service does not tell that.
        for process in status.processes
        for which in ("hot_objects", "hot_objects_minute")
        for each in process.statistics.get(which, [])
    }
    return sorted(found.values(), key=_by_rate)


def _by_rate(each: dict[str, Any]) -> tuple[float, float, str, str]:
    return -each["calls_per_s"], -each["minute_per_s"], each["class_name"], each["name"]


def _hottest(status: ServiceStatus) -> list[str]:
    found = hot_objects(status)[:_HOT_SHOWN]
    return ["", *render_hot(found)] if found else []


def render_hot(found: Sequence[dict[str, Any]]) -> list[str]:
    rows: list[tuple[str, ...]] = [("called most", "calls/s, about", "in the last minute")]
    for each in found:
        rows.append((f"{each['class_name']}/{each['name']}", _number(each["calls_per_s"]), _number(each["minute_per_s"], ",.1f")))
    return table(rows, {1, 2})


def _piles(status: ServiceStatus) -> list[str]:
    """Objects that have very much of something."""
    found = [each for process in status.processes for each in process.statistics.get("piles", [])]
    if not found:
        return []
    rows: list[tuple[str, ...]] = [("object piles up", "tasks", "timers, callbacks", "cached", "of its own, about")]
    for each in found[:WAITING_SHOWN]:
        counts = f"{each['tasks']:,}", f"{each['callbacks']:,}"
        rows.append((each["object"], *counts, mebibytes(each["cached_bytes"]), mebibytes(each["kept_bytes"])))
    return ["", *table(rows)]


def _space(status: ServiceStatus) -> str:
    """What log and states take of the disk, and what is left."""
    found = [process.statistics["space"] for process in status.processes if "space" in process.statistics]
    if not found:
        return ""
    logs, states, free = (mebibytes(sum(each[name] for each in found)) for name in ("log_bytes", "state_bytes", "reserve_bytes"))
    left = mebibytes(min(each["disk_free_bytes"] for each in found))
    return f", states {states}, logs {logs}, kept back {free}; {left} free on the disk"


def mebibytes(size: int) -> str:
    """As the limits are given, and the memory of processes."""
    return f"{size / (1 << 20):,.1f} MiB"


def _version(status: ServiceStatus) -> str:
    """Of the source that all workers run, as it was when the service started."""
    return f" (version {version})" if (version := status.app_version) else ""


def _text(value: object, unit: str = "") -> str:
    return "-" if value is None else f"{value}{unit}"


def _number(value: float | None, form: str = ",.0f") -> str:
    return "" if value is None else f"{value:{form}}"


class Column(NamedTuple):
    """Of the table of processes."""

    name: str
    cell: Callable[[ProcessStatus], str]
    rank: int
    """Where not all have room those of the greatest number are left out."""
    is_number: bool = True


def _state(process: ProcessStatus) -> str:
    if process.silent_s is not None:
        return f"last answer {process.silent_s:.0f} s ago"
    return _text(process.state) + (" FLAPPING" if process.flapping else "")


def _rate(name: str, form: str = ",.0f") -> Callable[[ProcessStatus], str]:
    return lambda process: _number(process.rates.get(name), form)


def _statistic(name: str) -> Callable[[ProcessStatus], str]:
    return lambda process: _number(process.statistics.get(name))


COLUMNS = (
    Column("process", lambda process: process.name, 0, is_number=False),
    Column("state", _state, 0, is_number=False),
    Column("app version", lambda process: process.app_version, 3, is_number=False),
    Column("pid", lambda process: _text(process.pid), 7),
    Column("core", lambda process: _text(process.core), 8),
    Column("calls/s", _rate("calls_per_s"), 1),
    Column("errors/s", _rate("errors_per_s"), 5),
    Column("p50 ms", _rate("answer_p50_ms", "g"), 4),
    Column("p99 ms", _rate("answer_p99_ms", "g"), 2),
    Column("objects", _statistic("activations"), 3),
    Column("running", _statistic("tasks"), 6),
    Column("queued", _statistic("queued_calls"), 2),
    Column("held", _statistic("held_messages"), 6),
    Column("memory", lambda process: _text(process.rss_mib, " MiB"), 3),
    Column("cpu", lambda process: _text(process.cpu_percent, " %"), 2),
    Column("restarts", lambda process: _text(None if process.state is None else process.restarts), 5),
    Column("last problem", lambda process: process.last_problem, 9, is_number=False),
)


def processes(status: ServiceStatus, width: int | None = None) -> list[str]:
    """Their table. `width`: so many characters there are, and columns that have no room are left out."""
    versions = {process.app_version for process in status.processes if process.app_version}
    shown = [each for each in COLUMNS if each.name != "app version" or len(versions) > 1]
    while True:
        rows = [tuple(column.name for column in shown)]
        rows += [tuple(column.cell(process) for column in shown) for process in status.processes]
        lines = table(rows, {at for at, column in enumerate(shown) if column.is_number})
        if width is None or max(map(len, lines)) <= width or len(shown) <= 2:
            return lines
        worst = max(column.rank for column in shown)
        shown = [column for column in shown if column.rank != worst or worst == 0]
        if worst == 0:
            return lines


def classes(status: ServiceStatus, shown_max: int | None = None) -> list[str]:
    """What is called of each class, the busiest first. Nothing where nothing is."""
    busy = [(name, rates) for name, rates in status.class_rates.items() if rates.get("calls_per_s") or rates.get("errors_per_s")]
    if not busy:
        return []
    busy.sort(key=lambda each: -each[1].get("calls_per_s", 0))
    rows: list[tuple[str, ...]] = [("class", "calls/s", "errors/s", "p50 ms", "p99 ms")]
    for name, rates in busy[:shown_max]:
        paces = (_number(rates.get(key)) for key in ("calls_per_s", "errors_per_s"))
        rows.append((name, *paces, *(_number(rates.get(key), "g") for key in ("answer_p50_ms", "answer_p99_ms"))))
    return ["", *table(rows, {1, 2, 3, 4})]


def duration(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count][:2]
    return " ".join(shown) or "0 s"


def plural(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


# top

_TOP_PROBLEMS = 4
_TOP_CLASSES = 8


def render_top(status: ServiceStatus, now_ms: int, lost: str, width: int, height: int) -> list[tuple[str, bool]]:
    """Lines that fit in a terminal of that size, and whether each says that something is wrong. `lost`: why nobody answers any
    longer; then `status` is the last that was heard."""
    wrong = [one_line(f"NO ANSWER: {lost}"), "what was heard last:", ""] if lost else []
    wrong += _problems(status, _TOP_PROBLEMS)
    if (more := len(status.problems) - _TOP_PROBLEMS) > 0:
        wrong[-1:] = [f"and {plural(more, 'problem')} more: tidegate status", ""]
    wrong = [part for line in wrong for part in textwrap.wrap(line, width, subsequent_indent="  ") or [""]]
    lines = [*head(status, now_ms), "", *processes(status, width), *classes(status, _TOP_CLASSES)]
    lines += _objects(status, now_ms)
    shown = [(line, True) for line in wrong] + [(line, "last answer" in line or "FLAPPING" in line) for line in lines]
    return [(line if len(line) <= width else f"{line[: width - 1]}…", is_wrong) for line, is_wrong in shown[: max(1, height)]]


# alarms


def table(rows: Sequence[tuple[str, ...]], numbers: Collection[int] = ()) -> list[str]:
    """Names of objects and texts of errors hold whatever their makers like. `numbers`: columns that end in one line."""
    rows = [tuple(map(one_line, row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: tuple[str, ...]) -> str:
        cells = zip(row, widths, range(len(row)), strict=True)
        return "  ".join(cell.rjust(width) if at in numbers else cell.ljust(width) for cell, width, at in cells).rstrip()

    return [line(row) for row in rows]


def render_alarms(status: ServiceStatus) -> str:
    """Newest first. A worker tells the last few only; all of them are in the log."""
    newest, count = newest_abandoned(status), abandoned_count(status)
    if not newest:
        return "no alarm was abandoned"
    rows: list[tuple[str, ...]] = [("object", "was due", "abandoned", "error")]
    for alarm in newest:
        times = (f"{alarm[key][:19]}Z" for key in ("scheduled_for", "abandoned_at"))
        error = alarm["error"].splitlines()[-1:] or [""]
        rows.append((alarm_target(alarm), *times, error[0][:120]))
    more = [f"and {count - len(newest)} more"] if count > len(newest) else []
    return "\n".join([*table(rows), *more])


def alarm_target(alarm: dict[str, Any]) -> str:
    return f"{alarm['class_name']}/{alarm['name']}"


def newest_abandoned(status: ServiceStatus) -> list[dict[str, Any]]:
    found = [alarm for process in status.processes for alarm in process.statistics.get("newest_abandoned", [])]
    return sorted(found, key=lambda alarm: str(alarm["abandoned_at"]), reverse=True)


def abandoned_count(status: ServiceStatus) -> int:
    return sum(process.statistics.get("alarms_abandoned", 0) for process in status.processes)


# objects


def render_quarantine(status: ServiceStatus) -> str:
    if not status.quarantined_objects:
        return "no object is in quarantine"
    rows: list[tuple[str, ...]] = [("object", "for", "held up or ended its worker", "the last time in", "because")]
    for each in sorted(status.quarantined_objects, key=lambda each: -each.for_s):
        rows.append((each.object, f"{each.for_s:.0f} s", plural(each.offences, "time"), each.code, one_line(each.why)))
    return "\n".join(table(rows))
