"""Which objects have ended their workers: named, and refused for a growing while.

Rule: pure; `now` is an argument. Who ran when a worker died is known from the second death on: a worker writes down whose code it
runs only for a while after a death, because that costs a little with every call.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.runtime.errors import one_line
from tidegate.runtime.limits import REFUSED_DEATHS_MIN, REFUSED_S_MAX, REFUSED_S_MIN, SUSPICION_S
from tidegate.runtime.wire.supervisor_messages import RefusedObject, Running


@dataclass
class _Record:
    deaths: int
    last_at: float
    code: str
    refused_until: float


class Suspicion:
    """The deaths of one service's workers. What has been quiet for long is forgotten."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], _Record] = {}
        self._watched_until: dict[int, float] = {}

    def died(self, worker: int, running: Running | None, now: float) -> str:
        """A worker that answered calls has died. What is to be said of it: empty when nobody is known."""
        self._watched_until[worker] = now + SUSPICION_S
        self._forget(now)
        if running is None:
            return ""
        said = f"while {one_line(f'{running.class_name}/{running.name}')} ran {one_line(running.code)}"
        if running.code == "alarm":  # Its alarm pauses and is abandoned; the calls of the object are not to blame.
            return said
        key = running.class_name, running.name
        record = self._records.setdefault(key, _Record(0, now, running.code, now))
        record.deaths, record.last_at, record.code = record.deaths + 1, now, running.code
        if record.deaths < REFUSED_DEATHS_MIN:
            return said
        refused_s = min(REFUSED_S_MAX, REFUSED_S_MIN * 2.0 ** min(record.deaths - REFUSED_DEATHS_MIN, 30))
        record.refused_until = now + refused_s
        return f"{said}, which has ended it {record.deaths} times and is refused for {refused_s:g} s"

    def is_watched(self, worker: int, now: float) -> bool:
        """Whether it should write down whose code it runs."""
        return self._watched_until.get(worker, now) > now

    def refused(self, now: float) -> tuple[RefusedObject, ...]:
        self._forget(now)
        return tuple(
            RefusedObject(class_name, name, record.deaths, record.code, round(record.refused_until - now, 3))
            for (class_name, name), record in self._records.items()
            if record.refused_until > now
        )

    def _forget(self, now: float) -> None:
        self._records = {key: record for key, record in self._records.items() if now - record.last_at < SUSPICION_S}
