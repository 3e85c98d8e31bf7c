"""Whatever user code does, wherever it runs, the call that ran it gets one answer, and no other call is touched."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tests.support.host_world import Call, World
from tidegate import AlarmInfo, DurableObject
from tidegate.runtime.errors import BadArguments, CallError, Internal, MethodRaised, ObjectReset, StartFailed

# Odd exceptions


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]  # wrong on purpose
        raise RuntimeError("I have no name")


class NoName(Exception, metaclass=Nameless):
    pass


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("I say nothing")


class ExitText(Exception):
    def __str__(self) -> str:
        raise SystemExit


class EndlessText(Exception):
    def __str__(self) -> str:
        return str(self)


class NumberText(Exception):
    def __str__(self) -> Any:
        return 5


class OddText(str):
    def isascii(self) -> bool:
        raise RuntimeError("not for you")

    __len__ = __getitem__ = __format__ = __str__ = encode = isascii  # type: ignore[assignment]  # wrong on purpose


class OddStr(Exception):
    def __str__(self) -> str:
        return OddText("odd")


class Liar(Exception):
    @property  # type: ignore[misc]  # wrong on purpose
    def __class__(self) -> Any:
        raise RuntimeError("no class either")


class Pretender(Exception):
    __class__ = asyncio.CancelledError  # type: ignore[assignment]  # wrong on purpose


class Unhashable(Exception):
    __hash__ = None  # type: ignore[assignment]  # wrong on purpose

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("equal to nothing")


class Opaque(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"{name} is not to be seen")


class OddArgs(Exception):
    args = property(lambda self: 1 / 0)
    __cause__ = __context__ = __traceback__ = property(lambda self: 1 / 0)


class OddRepr(Exception):
    def __repr__(self) -> str:
        raise SystemExit


class OddNotes(Exception):
    __notes__ = property(lambda self: 1 / 0)


class Base(BaseException):
    pass


def shared() -> BaseException:
    return SHARED


SHARED = ValueError("one and the same, again and again")

ODD: dict[str, Callable[[], BaseException]] = {
    kind.__name__: kind
    for kind in (
        ValueError, NoText, ExitText, EndlessText, NumberText, OddStr, Liar, Pretender, Unhashable, Opaque, OddArgs,
        OddNotes, OddRepr, Base, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, StopIteration,
        StopAsyncIteration, MemoryError, RecursionError, shared,
    )
}  # fmt: skip
ODD["NoName"] = lambda: NoName()
ODD["group"] = lambda: BaseExceptionGroup("several", [NoText(), SystemExit(), ExceptionGroup("inner", [EndlessText()])])
ODD["cancelled error of the app"] = lambda: type("Mine", (asyncio.CancelledError,), {})()
ODD["name with a line break"] = lambda: type("Two\nlines", (Exception,), {})("text\nof two lines")

odd_exceptions = pytest.mark.parametrize("make", ODD.values(), ids=list(ODD))


@pytest.fixture(autouse=True)
def remade() -> Iterator[None]:
    Odd._make = staticmethod(ValueError)
    yield
    SHARED.__traceback__ = None


class Given(msgspec.Struct):
    """An argument and a result."""

    number: int = 1

    def __post_init__(self) -> None:
        if Given.raises:
            raise Odd._make()

    raises = False


class Odd(DurableObject):
    _make: Callable[[], BaseException] = staticmethod(ValueError)
    _at = ""

    def __init__(self) -> None:
        if Odd._at == "init":
            raise Odd._make()

    async def on_start(self) -> None:
        if Odd._at == "start":
            raise Odd._make()
        if Odd._at == "suspended start":
            await asyncio.sleep(0)
            raise Odd._make()

    async def alarm(self, info: AlarmInfo) -> None:
        if Odd._at == "suspended alarm":
            await asyncio.sleep(0)
        if Odd._at:
            raise Odd._make()

    async def now(self) -> None:
        raise Odd._make()

    async def later(self) -> None:
        await asyncio.sleep(0)
        raise Odd._make()

    async def cleaning_up(self) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            raise Odd._make()

    async def in_a_section(self) -> None:
        async with self.block_concurrency():
            raise Odd._make()

    async def cancelled_meanwhile(self) -> None:
        failing = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        assert task is not None
        error = Odd._make()
        if issubclass(type(error), Exception) and type(error) is not StopIteration:
            failing.set_exception(error)
            asyncio.get_running_loop().call_soon(task.cancel)
            await failing
        raise Odd._make()

    async def in_a_transaction(self) -> None:
        async with self.storage.transaction():
            await self.storage.put("k", 1)
            raise Odd._make()

    async def in_a_sub_task(self) -> None:
        await asyncio.gather(self.later(), asyncio.sleep(1))

    async def take(self, given: Given) -> None: ...

    async def behind(self) -> int:
        self.spawn(self.later())
        asyncio.get_running_loop().call_soon(self._callback)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return 1

    def _callback(self) -> None:
        raise Odd._make()

    async def ring(self) -> None:
        await self.storage.set_alarm(datetime.timedelta(0))

    async def fine(self) -> int:
        value = await self.storage.get("n", 0)
        await self.storage.put("n", value + 1)
        return int(value)


async def answer(call: Call) -> Any:
    try:
        async with asyncio.timeout(5):
            return await call.reply
    except CallError as exc:
        return exc


@pytest.mark.parametrize("method", ["now", "later", "cleaning_up", "cancelled_meanwhile", "in_a_transaction", "in_a_sub_task"])
@odd_exceptions
async def test_a_method_that_raises_anything_is_answered_once_and_its_object_goes_on(
    method: str, make: Callable[[], BaseException]
) -> None:
    world = World(Odd)
    Odd._make = staticmethod(make)
    error = await answer(world.call(Odd, "a", method))
    assert type(error) is MethodRaised
    assert error.outcome == "executed"
    assert await answer(world.call(Odd, "a", "fine")) == 0


@odd_exceptions
async def test_a_section_that_raises_anything_resets_its_object_and_the_call_is_answered(
    make: Callable[[], BaseException],
) -> None:
    world = World(Odd)
    Odd._make = staticmethod(make)
    assert type(await answer(world.call(Odd, "a", "in_a_section"))) is ObjectReset
    assert await answer(world.call(Odd, "a", "fine")) == 0


@pytest.mark.parametrize("at", ["init", "start", "suspended start"])
@odd_exceptions
async def test_a_start_that_raises_anything_is_told_to_all_who_wait_and_tried_again(
    at: str, make: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(Odd)
    Odd._make = staticmethod(make)
    monkeypatch.setattr(Odd, "_at", at)
    assert {type(await answer(call)) for call in world.batch(*[(Odd, "a", "fine")] * 3)} == {StartFailed}
    monkeypatch.setattr(Odd, "_at", "")
    assert await answer(world.call(Odd, "a", "fine")) == 0


@pytest.mark.parametrize("at", ["alarm", "suspended alarm"])
@odd_exceptions
async def test_an_alarm_handler_that_raises_anything_is_retried_and_counted(
    at: str, make: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(Odd)
    Odd._make = staticmethod(make)
    monkeypatch.setattr(Odd, "_at", at)
    world.host.alarms.start()
    await answer(world.call(Odd, "a", "ring"))
    await asyncio.sleep(0.05)
    alarm = world.activation(Odd, "a").cache.alarm
    assert alarm is not None
    assert alarm.retry_count == 1
    assert world.host.alarms.rung == 1


@odd_exceptions
async def test_tasks_and_callbacks_that_raise_anything_harm_no_call(make: Callable[[], BaseException]) -> None:
    world = World(Odd)
    Odd._make = staticmethod(make)
    assert await answer(world.call(Odd, "a", "behind")) == 1
    assert await answer(world.call(Odd, "a", "fine")) == 0


@odd_exceptions
async def test_an_argument_whose_own_code_raises_anything_is_refused(
    make: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(Odd)
    Odd._make = staticmethod(make)
    monkeypatch.setattr(Given, "raises", True, raising=False)
    error = await answer(world.call(Odd, "a", "take", {"number": 1}))
    assert type(error) is BadArguments
    assert await answer(world.call(Odd, "a", "fine")) == 0


# Odd results and odd objects


class Unread(msgspec.Struct):
    part: msgspec.Raw


class Raws(DurableObject):
    """Answers with what was encoded elsewhere."""

    async def whole(self) -> Any:
        return {"part": msgspec.Raw(b"\x93\x01\x02\x03")}

    async def empty(self) -> Any:
        return msgspec.Raw(b"")

    async def broken(self) -> Any:
        return Unread(msgspec.Raw(b"\xc1"))

    async def more(self) -> Any:
        return [msgspec.Raw(b"\x01\x93\x02\x00\x05")]

    async def other_codec(self) -> Any:
        await asyncio.sleep(0)
        return msgspec.Raw(b'{"a": 1}')


async def test_a_result_with_a_raw_that_is_not_one_value_is_the_fault_of_its_method_and_takes_no_reply_along() -> None:
    world = World(Raws)
    assert await answer(world.call(Raws, "a", "whole")) == {"part": [1, 2, 3]}
    for method in ("empty", "broken", "more", "other_codec"):
        error = await answer(world.call(Raws, "a", method))
        assert isinstance(error, MethodRaised), method
        assert error.type == "TypeError"
        assert "Raw" in str(error)


class NoClass:
    @property  # type: ignore[misc]  # wrong on purpose
    def __class__(self) -> Any:
        raise RuntimeError("none")


class Dumping:
    def model_dump(self, **_: Any) -> Any:
        raise SystemExit


class Poisonous(DurableObject):
    def __getattribute__(self, name: str) -> Any:
        if name in ("on_start", "alarm", "_activation"):
            raise KeyboardInterrupt
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise RuntimeError("nothing can be set")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("equal to nothing")

    __hash__ = None  # type: ignore[assignment]  # wrong on purpose

    async def on_start(self) -> None: ...

    async def now(self) -> None:
        raise NoText

    async def later(self) -> None:
        await asyncio.sleep(0)
        raise Liar

    async def cancelled(self) -> None:
        raise asyncio.CancelledError

    async def cancels_itself(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    async def exits(self) -> None:
        raise SystemExit

    async def no_class(self) -> Any:
        return NoClass()

    async def dumping(self) -> Any:
        return Dumping()

    async def awaits_nonsense(self) -> None:
        await Nonsense()

    async def no_coroutine(self) -> None: ...

    async def breaks_its_storage(self) -> None:
        object.__setattr__(self, "storage", 5)
        await self.storage.put("k", 1)


class Nonsense:
    def __await__(self) -> Any:
        yield NoAttributes()


class NoAttributes:
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit

    __repr__ = __getattribute__  # type: ignore[assignment]  # wrong on purpose


POISON = [name for name in vars(Poisonous) if not name.startswith("_") and name != "on_start"]


async def test_of_400_calls_in_one_message_half_to_a_poisonous_object_the_other_half_are_right() -> None:
    world = World(Odd, Poisonous)
    kept = world.host.classes["Poisonous"].object_class
    if sys.version_info >= (3, 12):
        kept.methods["no_coroutine"].function = inspect.markcoroutinefunction(lambda self: 5)
    poison = [(Poisonous, "p", POISON[n % len(POISON)]) for n in range(200)]
    mixed = [call for n in range(200) for call in ((Odd, f"o{n % 50}", "fine"), poison[n])]
    calls = world.batch(*mixed)
    answers = [await answer(call) for call in calls]
    assert answers[::2] == [n // 50 for n in range(200)]
    odd = {call[2]: type(each) for call, each in zip(poison, answers[1::2], strict=True) if call[2] != "no_coroutine"}
    assert odd.pop("no_class") is Internal, "whoever has no class cannot be asked for it"
    assert set(odd.values()) == {MethodRaised}
    assert world.host.unanswered == 0


async def test_a_fault_in_the_handling_of_one_call_takes_no_other_call_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(Odd)
    await world.ask(Odd, "a", "fine")
    method = world.host.classes["Odd"].methods["later"]
    monkeypatch.setattr(type(method), "arguments", lambda *_, **__: 1 / 0)
    method.empty_ok = False
    answers = [await answer(call) for call in world.batch((Odd, "a", "later"), (Odd, "a", "fine"), (Odd, "b", "later"))]
    assert isinstance(answers[0], CallError)
    assert answers[1] == 1
    assert isinstance(answers[2], CallError)


async def test_a_filter_of_the_app_that_raises_changes_no_answer() -> None:
    class Exits(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise SystemExit

    world = World(Odd)
    log, exits = logging.getLogger("tidegate.objects"), Exits()
    log.addFilter(exits)
    try:
        assert isinstance(await answer(world.call(Odd, "a", "now")), MethodRaised)
        assert isinstance(await answer(world.call(Odd, "a", "in_a_section")), ObjectReset)
    finally:
        log.removeFilter(exits)
