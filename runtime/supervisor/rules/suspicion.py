"""Which objects have held up or ended their workers: named, and in quarantine for a growing while.

An *offence* is a death of the worker while the object's code ran, or an interruption of code that held the worker up.

Rule: pure; `now` is an argument. Who ran when a worker was killed in the middle of a step is known from the second death on: it
writes down whose code it runs only for a while after a death, since that costs a little with every call. Who holds it up, or ends
it by `os._exit`, is always known.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.runtime.errors import one_line
from tidegate.runtime.limits import QUARANTINE_OFFENCES_MIN, QUARANTINE_S_MAX, QUARANTINE_S_MIN, SUSPICION_S
from tidegate.runtime.wire.supervisor_messages import QuarantinedObject, Running


@dataclass
class _Record:
    offences: int
    last_at: float
    code: str
    why: str
    free_at: float


class Suspicion:
    """The offences against one service's workers. What has been quiet for long is forgotten."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], _Record] = {}
        self._watched_until: dict[int, float] = {}

    def died(self, worker: int, running: Running | None, now: float) -> str:
        """A worker that answered calls has died. What is to be said of it: empty when nobody is known."""
        self._watched_until[worker] = now + SUSPICION_S
        if running is None:
            self._forget(now)
            return ""
        if running.code == "alarm":  # It pauses, and is abandoned by its worker; the calls of the object are not to blame.
            self._forget(now)
            return f"while {_named(running)}"
        return f"while {_named(running)}{self._offended(running, 'its worker ended while it ran', now)}"

    def held_up(self, running: Running, held_s: float, now: float) -> str:
        """Code of an object was interrupted. What is to be said of it; empty if its worker has said it all. An alarm counts like
        a call: one that sets the next before it holds up its worker is never abandoned."""
        more = self._offended(running, f"it held up its worker for {held_s:.1f} s and was interrupted", now)
        return f"{_named(running)} for {held_s:.1f} s and was interrupted{more}" if more else ""

    def release(self, class_name: str, name: str, now: float) -> bool:
        """An operator lets it out of quarantine, and all is forgotten. Whether it was in one until now."""
        record = self._records.pop((class_name, name), None)
        return record is not None and record.free_at > now

    def is_watched(self, worker: int, now: float) -> bool:
        """Whether it should write down whose code it runs."""
        return self._watched_until.get(worker, now) > now

    def quarantined(self, now: float) -> tuple[QuarantinedObject, ...]:
        self._forget(now)
        return tuple(
            QuarantinedObject(class_name, name, record.offences, record.code, round(record.free_at - now, 3), record.why)
            for (class_name, name), record in self._records.items()
            if record.free_at > now
        )

    def _offended(self, running: Running, why: str, now: float) -> str:
        self._forget(now)
        key = running.class_name, running.name
        record = self._records.setdefault(key, _Record(0, now, running.code, why, now))
        record.offences, record.last_at, record.code, record.why = record.offences + 1, now, running.code, why
        if record.offences < QUARANTINE_OFFENCES_MIN:
            return ""
        quarantine_s = min(QUARANTINE_S_MAX, QUARANTINE_S_MIN * 2.0 ** min(record.offences - QUARANTINE_OFFENCES_MIN, 30))
        record.free_at = now + quarantine_s
        return f"; it has held up or ended its worker {record.offences} times and is in quarantine for {quarantine_s:g} s"

    def _forget(self, now: float) -> None:
        self._records = {key: record for key, record in self._records.items() if now - record.last_at < SUSPICION_S}


def _named(running: Running) -> str:
    return f"{one_line(f'{running.class_name}/{running.name}')} ran {one_line(running.code)}"
