"""What `status` and `alarms` print, made of the status of a service. Pure."""

from __future__ import annotations

from typing import Any

from tidegate.runtime.client.answers import ProcessStatus, ServiceStatus
from tidegate.runtime.errors import one_line

WAITING_SHOWN = 20

# status


def render_status(status: ServiceStatus, now_ms: int) -> str:
    """A page to read; `--json` has everything."""
    uptime = _duration(max(0, now_ms - status.started_at_ms) // 1_000)
    wrong = f", {plural(len(status.problems), 'problem')}" if status.problems else ""
    lines = [
        *_problems(status),
        f"{status.state}{wrong} on {status.listen} for {uptime} (Tidegate {status.version}, start {status.start})",
        f"app {status.app}{_version(status)}: {', '.join(status.class_names) or 'no classes'}",
        f"data {status.data}: {plural(status.shards, 'shard')}{_space(status)}",
        "",
    ]
    rows: list[tuple[str, ...]] = [("process", "state", "pid", "core", "memory", "cpu", "restarts", "last problem")]
    rows += [_row(process) for process in status.processes]
    if abandoned := abandoned_count(status):
        lines.insert(-1, f"alarms: {abandoned} abandoned, because their handlers failed again and again; see `tidegate alarms`")
    return "\n".join(lines + table(rows) + _waiting(status, now_ms) + _piles(status))


def _problems(status: ServiceStatus) -> list[str]:
    lines = []
    for each in status.problems:
        lines += [one_line(f"PROBLEM {each.where}: {each.what}"), one_line(f"  next: {each.next}")]
    return [*lines, ""] if lines else []


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


def _row(process: ProcessStatus) -> tuple[str, ...]:
    def text(value: object, unit: str = "") -> str:
        return "-" if value is None else f"{value}{unit}"

    is_watched = process.state is not None  # The supervisor itself is not.
    state = text(process.state) + (" FLAPPING" if process.flapping else "")
    restarts = text(process.restarts if is_watched else None)
    memory, cpu = text(process.rss_mib, " MiB"), text(process.cpu_percent, " %")
    return (process.name, state, text(process.pid), text(process.core), memory, cpu, restarts, process.last_problem)


def _duration(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count][:2]
    return " ".join(shown) or "0 s"


def plural(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


# alarms


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Names of objects and texts of errors hold whatever their makers like."""
    rows = [tuple(map(one_line, row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def render_alarms(status: ServiceStatus) -> str:
    """Newest first. A worker tells the last few only; all of them are in the log."""
    newest, count = newest_abandoned(status), abandoned_count(status)
    if not newest:
        return "no alarm was abandoned"
    rows: list[tuple[str, ...]] = [("object", "was due", "abandoned", "error")]
    for alarm in newest:
        times = (alarm[key][:19].replace("T", " ") for key in ("scheduled_for", "abandoned_at"))
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
    rows: list[tuple[str, ...]] = [("object", "held up or ended its worker", "the last time in")]
    rows += [(each.object, plural(each.offences, "time"), each.code) for each in status.quarantined_objects]
    return "\n".join(table(rows))
