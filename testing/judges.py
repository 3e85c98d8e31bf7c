"""Judges: what must hold of objects whatever happens to them.

Guarantee: each raises AssertionError with what was found and what it was compared with, and nothing else where all is well. They
change nothing that a test does not ask them to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tidegate.runtime.chaos.verdict.linearizability import ObjectCheck, Undecided
from tidegate.runtime.wire.encoding import encode_value
from tidegate.runtime.wire.stub import object_of
from tidegate.shard.core.alarms import AlarmInfo
from tidegate.shard.objects.object import DurableObject

if TYPE_CHECKING:
    from tidegate.testing.objects import Objects

ObjectT = TypeVar("ObjectT", bound=DurableObject)
SHOWN_MAX = 10


def unique_and_gap_free(numbers: Iterable[int], *, first: int = 0) -> None:
    """Each number once, from `first` on, and none left out."""
    counts = Counter(numbers)
    twice = sorted(number for number, count in counts.items() if count > 1)
    missing = sorted(set(range(first, first + len(counts))) - set(counts))
    problems = [f"given more than once: {twice[:SHOWN_MAX]}"] * bool(twice) + [f"left out: {missing[:SHOWN_MAX]}"] * bool(missing)
    if problems:
        raise AssertionError("; ".join(problems))


def conserved(objects: Objects, cls: type[DurableObject], key: str, total: float) -> None:
    """What all objects of the class have stored under that key adds up to `total`; one that has nothing there counts 0."""
    found = {name: rows[key] for name, rows in objects.stored(cls).items() if key in rows}
    if sum(found.values()) != total:
        raise AssertionError(f"{key} of all {cls.__name__} is {sum(found.values())}, not {total}: {found}")


def linearizable(objects: Objects, stub: DurableObject, model: Callable[[], Any]) -> None:
    """What the test's calls to the object were answered could have come from `model()`, a plain object whose methods do the same
    at once and one after another. A call whose outcome is not known may have run or not. An exception of the model means that the
    method raises one of that class. Arguments come as they travel: a dataclass or a model as a dict. Its attributes are lists,
    dicts, numbers, texts and the like; raises TypeError for others, which would not be the same in the next call."""
    decode = msgspec.msgpack.decode

    def after(state: Any, call: Any) -> tuple[Any, Any]:
        thing = model()
        vars(thing).update(decode(state))
        method, arguments = call
        args, kwargs = decode(arguments[0])
        run = getattr(thing, method)  # A model that lacks it says nothing of the object.
        try:
            result = encode_value([True, run(*args, **kwargs)])
        except Exception as exc:
            result = encode_value([False, type(exc).__name__])
        return _state_of(thing), result

    check = ObjectCheck(after, _state_of(model()))
    events = objects.history(stub)
    answers = {event.number: event for event in events if event.is_answer}
    for event in events:
        invocation = event.method, (encode_value([event.args, event.kwargs]),)
        answer = answers.get(event.number)
        if event.is_answer:
            if event.outcome is None:
                continue
            try:
                explained = check.answered(event.number)
            except Undecided:
                raise AssertionError(f"too many calls of {stub!r} overlap to be judged; make fewer at a time") from None
            if not explained:
                lines = "\n  ".join(map(str, events[: events.index(event) + 1]))
                raise AssertionError(f"no order of the calls explains what {event.method} was answered:\n  {lines}")
        elif answer is None or answer.outcome is None:
            check.began_unknown(invocation)
        else:
            check.began(event.number, invocation, encode_value(list(answer.outcome)))


def _state_of(thing: object) -> bytes:
    """Of a model, from which another one is made equal to it."""
    try:
        attributes = vars(thing)
    except TypeError:
        raise TypeError(f"the attributes of {type(thing).__name__} cannot be told: it has __slots__") from None
    for name, value in attributes.items():
        try:
            is_plain = msgspec.msgpack.decode(encode_value(value)) == value
        except TypeError:
            is_plain = False
        if not is_plain:
            problem = (
                f"{type(thing).__name__}.{name} is a {type(value).__name__} that does not come back equal from where it is kept"
            )
            raise TypeError(f"{problem}: keep lists, dicts, numbers and texts in the attributes of a model")
    return encode_value(attributes)


async def keeps_all_in_storage(objects: Objects, cls: type[ObjectT], script: Callable[[ObjectT], Awaitable[object]]) -> None:
    """`script(stub)` gives the same, and leaves the same stored, where the object leaves memory after every call."""
    kept, evicted = objects(cls, "kept"), objects(cls, "evicted", evicted=True)
    first, second = await script(kept), await script(evicted)
    if first != second:
        raise AssertionError(f"{cls.__name__} gives {second!r} when it leaves memory after each call, and else {first!r}")
    if objects.storage(kept) != objects.storage(evicted):
        raise AssertionError(
            f"{cls.__name__} stores {dict(objects.storage(evicted))} when it leaves memory after each call, and else "
            f"{dict(objects.storage(kept))}"
        )


async def idempotent(objects: Objects, stub: DurableObject, call: Callable[[], Awaitable[object]]) -> None:
    """`await call()` once more changes nothing that the object has stored."""
    await call()
    once = dict(objects.storage(stub))
    await call()
    _same(stub, once, dict(objects.storage(stub)), "a call that is made twice")


async def alarm_is_idempotent(objects: Objects, stub: DurableObject) -> None:
    """The next alarm of the object, run twice as after a crash, changes no more than run once."""
    class_name, name = object_of(stub)
    due = next((each for each in objects.alarms() if (each.class_name, each.name) == (class_name, name)), None)
    if due is None:
        raise AssertionError(f"{class_name}/{name} has no alarm set")
    await objects.clock.advance_to(max(due.at, objects.clock.now))
    once = dict(objects.storage(stub))
    info = AlarmInfo(due.at, due.retry_count)

    async def ring(instance: Any) -> None:
        await instance.alarm(info)

    await objects.run_in(stub, ring)
    _same(stub, once, dict(objects.storage(stub)), "an alarm that rings twice")


def _same(stub: DurableObject, once: dict[str, Any], twice: dict[str, Any], what: str) -> None:
    if once != twice:
        changed = {key: (once.get(key), twice.get(key)) for key in sorted({*once, *twice}) if once.get(key) != twice.get(key)}
        raise AssertionError(f"{what} changes what {'/'.join(object_of(stub))} has stored, from once to twice: {changed}")
