"""What operators ask of objects, on its way to their workers and back.

Guarantee: each is ended once: by its worker's answer, or because that worker is not there or ends.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from tidegate.runtime.errors import BadRequest, CallError, ShardLost, Unavailable
from tidegate.runtime.ids import check_object_id, shard_of_slot, slot_of
from tidegate.runtime.wire.commands import Command, Ended
from tidegate.runtime.wire.supervisor_messages import Administer, Administered
from tidegate.runtime.wire.wishes import OF_ALL_WORKERS, OF_MANY


class Errands:
    """Under way, by number. Numbers are below those of replacements, which begin at 1."""

    def __init__(
        self,
        shards: int,
        workers: int,
        owner: Callable[[int], int | None],
        ended: Callable[[int, Ended], None],
        elsewhere: Callable[[], Mapping[int, str]] = dict,
    ) -> None:
        """`owner`: the worker of a shard; None: none of this host. `elsewhere`: by shard which other host serves it, in words."""
        self._shards, self._workers, self._owner_of, self._elsewhere = shards, workers, owner, elsewhere
        self._ended = ended
        self._numbers = itertools.count(-1, -1)
        self._with: dict[int, Any] = {}
        self._parts: dict[int, Callable[[Ended], None]] = {}
        """Of those that all workers are asked: who is told the end of each part."""

    def number(self) -> int:
        return next(self._numbers)

    def begin(self, command: Command, send: Callable[[int, Administer], Any]) -> int:
        """`send` gives a message to a worker, and returns which process has it, or None if none is there."""
        number = self.number()
        if isinstance(command.wish, OF_ALL_WORKERS):
            self._ask_all(number, command, send)
        else:
            self.go(number, command, send)
        return number

    def go(self, number: int, command: Command, send: Callable[[int, Administer], Any]) -> None:
        """To the worker of the object, or to those of all that it is about."""
        wish = command.wish
        if isinstance(wish, OF_MANY):
            self._ask_owners(number, command, wish, send)
            return
        try:
            worker = self._owner(command.object)
        except (BadRequest, Unavailable) as error:
            self.fail(number, error)
        else:
            self._send(number, worker, command, send)

    def _owner(self, target: str) -> int:
        """Raises BadRequest, or Unavailable where no worker of this host has it."""
        class_name, _, name = target.partition("/")
        if problem := check_object_id(class_name, name):
            raise BadRequest(f"{problem}; an object is named CLASS/NAME")
        shard = shard_of_slot(slot_of(class_name, name), self._shards)
        worker = self._owner_of(shard)
        if worker is None and (host := self._elsewhere().get(shard)) is not None:
            raise Unavailable(f"its shard, {shard}, is served by the host {host}: give this there")
        if worker is None:
            raise Unavailable(f"its shard, {shard}, is on its way, or nobody serves it: ask again")
        return worker

    def _notes(self) -> list[str]:
        """Of each other host: that what it has is not known here; and of what nobody has."""
        elsewhere = self._elsewhere()
        served = Counter(elsewhere.values())
        says = "the host {} serves {} of {} shards, whose objects it knows alone: give this there, too"
        notes = [says.format(host, count, self._shards) for host, count in sorted(served.items())]
        unserved = [shard for shard in range(self._shards) if shard not in elsewhere and self._owner_of(shard) is None]
        if unserved:
            shards = ", ".join(map(str, unserved))
            notes.append(f"of {self._shards} shards these are on their way, or nobody serves them: {shards}; ask again")
        return notes

    def _ask_owners(self, number: int, command: Command, wish: OF_MANY, send: Callable[[int, Administer], Any]) -> None:
        """Each worker is asked for its own objects; what they say is put together in the order that was asked for."""
        pages: list[dict[str, Any] | None] = [None] * len(names := wish.names())
        places: dict[int, list[int]] = {}
        for at, target in enumerate(names):
            try:
                places.setdefault(self._owner(target), []).append(at)
            except (BadRequest, Unavailable) as error:
                pages[at] = {"error": error.to_wire()}
        missing = set(places)

        def ended(worker: int, ended: Ended) -> None:
            mine = places[worker]
            told = [{"error": ended.error}] * len(mine) if ended.error is not None else (ended.result or {})["pages"]
            for at, page in zip(mine, told, strict=True):
                pages[at] = page
            missing.discard(worker)
            if not missing:
                self._ended(number, Ended((), result={"pages": pages}))

        if not places:
            self._ended(number, Ended((), result={"pages": pages}))
        for worker, mine in places.items():
            part = self.number()
            self._parts[part] = partial(ended, worker)
            self._send(part, worker, msgspec.structs.replace(command, wish=wish.only(mine)), send)

    def _ask_all(self, number: int, command: Command, send: Callable[[int, Administer], Any]) -> None:
        """It is ended by what each worker has said, or why it has not."""
        workers = range(self._workers)
        told: dict[str, dict[str, Any]] = {}

        def ended(worker: int, ended: Ended) -> None:
            told[str(worker)] = {"error": ended.error} if ended.error is not None else {"result": ended.result}
            if len(told) == len(workers):
                self._ended(number, Ended((), result={"workers": told, "elsewhere": self._notes()}))

        for worker in workers:
            part = self.number()
            self._parts[part] = partial(ended, worker)
            self._send(part, worker, command, send)

    def _send(self, number: int, worker: int, command: Command, send: Callable[[int, Administer], Any]) -> None:
        process = send(worker, Administer(number, command.what, command.object, command.wish, command.timeout_s))
        if process is None:
            self.fail(number, Unavailable(f"worker {worker} is being started; ask again"))
        else:
            self._with[number] = process

    def answered(self, message: Administered) -> None:
        if self._with.pop(message.number, None) is not None:
            self._end(message.number, Ended((), error=message.error, result=message.result))

    def gone(self, process: Any) -> None:
        for number in [number for number, each in self._with.items() if each is process]:
            del self._with[number]
            self.fail(number, ShardLost("the worker has ended before it had answered"))

    def fail(self, number: int, error: CallError) -> None:
        self._end(number, Ended((), error=error.to_wire()))

    def _end(self, number: int, ended: Ended) -> None:
        part = self._parts.pop(number, None)
        if part is None:
            self._ended(number, ended)
        else:
            part(ended)
