"""Storage of objects in a test: it tells the timeline what is done with it, and lets reads wait for the disk.

Guarantee: every operation leaves a line. A read waits where the schedule says so (or always, see `all_reads_wait`), and only
where one in a service may: for what the object has not read or written since it was last idle. The gate is closed meanwhile, as
by the disk; what was written before may become durable alone. That is asked only where it can make a difference: where something
is not durable yet, or where other code of the object may go on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partialmethod
from typing import Any, cast

from tidegate.shard.core.values import MISS
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.answered import Answered
from tidegate.shard.objects.storage import Storage, Transaction

READ_S = 0.005
"""What a read takes that waits for the disk."""
OPERATIONS = (
    *("get", "get_many", "list", "put", "put_many", "delete", "delete_many", "delete_all"),
    *("get_alarm", "set_alarm", "delete_alarm", "sync"),
)
"""All there are, but for `transaction`."""
_WAIT_FOR_DISK = ("get", "get_many", "list", "delete", "delete_many")
_OF_SEVERAL = ("get_many", "delete_many")


class ProbedStorage(Storage):
    __slots__ = ()

    def note(self, text: str) -> None:
        activation: Any = self._owner
        activation.host.worker.service.note(f"  {activation.id} {text}")

    def transaction(self) -> Transaction:
        return ProbedTransaction(self)

    def do(self, operation: str, *args: Any, **options: Any) -> Any:
        given = args[0] if args else options.get("keys", options.get("key"))
        if isinstance(given, Iterator):  # It is looked at twice.
            given = list(given)
            args, options = (given, *args[1:]), {name: value for name, value in options.items() if name != "keys"}
        activation: Any = self._owner
        worker = activation.host.worker
        if worker.service.timeline is not None:
            self.note(_shown(operation, args, options))
        may_wait, all_wait = False, worker.explores("all_reads_wait")
        if operation in _WAIT_FOR_DISK and (all_wait or worker.explores("delays")):
            may_wait = self._may_wait(None if operation == "list" else given if operation in _OF_SEVERAL else [given])
        done = getattr(super(), operation)(*args, **options)
        if not may_wait or not isinstance(done, Answered):
            return done
        what = f"the read of {_shown(operation, args, options)} by {activation.id} waits for the disk"
        if all_wait:
            worker.service.note(f"-- {what}")
        elif not worker.service.happens(what, wanted=True):
            return done
        later, value = activation.host.loop.call_later, done.value
        concurrent = bool(options.get("allow_concurrency"))
        return activation.wait_fetched(
            lambda told: later(READ_S, told, value, None, context=NEUTRAL), lambda found: found, concurrent
        )

    def _may_wait(self, keys: object) -> bool:
        """Whether a service might ask the disk for one of these, or, None, for a range, and whether that matters."""
        cache, activation = self._cache, cast("Any", self._owner)
        if cache.complete or not (cache.dirty or cache.committing is not None or len(activation.tasks) > 1):
            return False
        wanted = [key for key in keys if isinstance(key, str)] if isinstance(keys, Collection) else []
        return keys is None or any(not self._is_in_memory(key) for key in wanted)

    def _is_in_memory(self, key: str) -> bool:
        layer = self._layer
        while layer is not None:
            if layer.find(key) is not MISS:
                return True
            layer = layer.below
        return key in self._cache.values


for _operation in OPERATIONS:
    setattr(ProbedStorage, _operation, partialmethod(ProbedStorage.do, _operation))


class ProbedTransaction(Transaction):
    __slots__ = ()
    _storage: ProbedStorage

    async def __aenter__(self) -> Transaction:
        entered = await super().__aenter__()
        self._storage.note("transaction begins")
        return entered

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        activation: Any = self._storage._owner
        host = activation.host
        if error is None and host.worker.crashes("transaction", [(activation.id.class_name, activation.id.name)]):
            await host.loop.create_future()  # For ever: it is dead.
        try:
            await super().__aexit__(kind, error, traceback)
        finally:
            is_kept = self._layer is not None and not self._layer.dropped
            self._storage.note(f"transaction {'committed' if is_kept else 'rolled back'}")


def _shown(operation: str, args: Sequence[Any], named: Mapping[str, Any]) -> str:
    """As it is written, without what says nothing."""
    if operation == "get" and args[1:] == (None,):
        args = args[:1]
    options = [
        f"{name}={value!r}" for name, value in named.items() if name != "type" and value is not None and value is not False
    ]
    return f"{operation}({', '.join([*map(repr, args), *options])})"
