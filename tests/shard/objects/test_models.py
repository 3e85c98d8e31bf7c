"""Pydantic models as arguments, results and stored values."""

# Without its plugin mypy knows no aliases of pydantic, no extra fields and not what a validator turns a value into:
# mypy: disable-error-code="call-arg, arg-type"

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import ipaddress
import pathlib
import uuid
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar

import msgspec
import pydantic
import pytest

from tests.support.host_world import World
from tests.support.storage_world import StorageWorld
from tidegate.runtime.errors import BadArguments, MethodRaised
from tidegate.runtime.wire.encoding import encode_arguments, result_decoder
from tidegate.runtime.wire.protocol import Origin, Request
from tidegate.shard.core.codec import decode, decode_as, encode_value
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.methods import AppError, ObjectClass
from tidegate.shard.objects.object import DurableObject

UTC = datetime.UTC
NAIVE = datetime.datetime(2026, 1, 2, 3, 4, 5)


class Colour(enum.Enum):
    RED = "red"


class Plain(pydantic.BaseModel):
    name: str = "x"
    count: int = 1


class Derived(Plain):
    more: int = 0


class Rich(pydantic.BaseModel):
    price: decimal.Decimal = decimal.Decimal("1.50")
    key: uuid.UUID = uuid.UUID(int=7)
    when: datetime.datetime = NAIVE
    aware: datetime.datetime = NAIVE.replace(tzinfo=UTC)
    day: datetime.date = NAIVE.date()
    span: datetime.timedelta = datetime.timedelta(seconds=90, microseconds=5)
    colour: Colour = Colour.RED
    pair: tuple[int, str] = (1, "x")
    several: set[int] = {3, 1}
    raw: bytes = b"abc"
    ratio: float = float("nan")
    child: Plain | None = None
    children: dict[str, list[Plain]] = {}


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, frozen=True)
    price: decimal.Decimal = decimal.Decimal("1.50")
    key: uuid.UUID = uuid.UUID(int=7)
    when: datetime.datetime = NAIVE
    day: datetime.date = NAIVE.date()
    colour: Colour = Colour.RED
    pair: tuple[int, str] = (1, "x")
    several: frozenset[int] = frozenset({3, 1})
    raw: bytes = b"abc"
    ratio: float = 1.5


class Camel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=lambda name: name.upper(), extra="forbid")
    first_name: str = "x"
    inner: Plain = Plain()


class TwoAliases(pydantic.BaseModel):
    a: int = pydantic.Field(1, validation_alias="in_a", serialization_alias="out_a")
    b: int = pydantic.Field(2, validation_alias=pydantic.AliasChoices("b1", "b2"))
    c: int = pydantic.Field(3, validation_alias=pydantic.AliasPath("c", 0))


class HoldsTwoAliases(pydantic.BaseModel):
    held: list[TwoAliases] = pydantic.Field(default_factory=list, alias="HELD")


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Computed(pydantic.BaseModel):
    side: int = 2

    @pydantic.computed_field  # type: ignore[prop-decorator]  # as Pydantic's own guide writes it
    @property
    def area(self) -> int:
        return self.side**2

    @functools.cached_property
    def double(self) -> int:
        return self.side * 2


class ComputedForbid(Computed):
    model_config = pydantic.ConfigDict(extra="forbid")


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    x: int = 1


class Private(pydantic.BaseModel):
    x: int = 1
    _secret: int = pydantic.PrivateAttr(default=5)


class Places(pydantic.BaseModel):
    path: pathlib.Path = pathlib.Path("/srv")
    address: ipaddress.IPv4Address = ipaddress.IPv4Address("127.0.0.1")
    url: pydantic.HttpUrl = pydantic.HttpUrl("http://x.example/a")


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"


class Pets(pydantic.BaseModel):
    all: list[Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]] = [Cat(), Dog()]


class Parsed(pydantic.BaseModel):
    inside: pydantic.Json[list[int]] = [1]


class Base64(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    raw: bytes = b"\xff\x00"


T = TypeVar("T")


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Anything(pydantic.BaseModel):
    a: Any = None


@dataclasses.dataclass
class Holder:
    one: Plain
    maybe: Rich | None = None
    many: list[Camel] = dataclasses.field(default_factory=list)


KEPT: list[tuple[Any, Any]] = [
    (Plain(), Plain), (Rich(), Rich), (Rich(child=Plain(count=3), children={"a": [Plain()]}), Rich), (Strict(), Strict),
    (Camel(FIRST_NAME="y"), Camel), (TwoAliases(in_a=5, b2=6, c=[7]), TwoAliases),
    (HoldsTwoAliases(HELD=[TwoAliases(in_a=5)]), HoldsTwoAliases), (Numbers([1, 2]), Numbers), (Computed(side=3), Computed),
    (ComputedForbid(side=3), ComputedForbid), (Open(x=2, y=[1]), Open), (Private(x=3), Private), (Places(), Places),
    (Pets(), Pets), (Parsed(inside="[1, 2]"), Parsed), (Base64(), Base64), (Page[int](items=[1]), Page[int]),
    (Page[Plain](items=[Plain()]), Page[Plain]), ([Plain(), Plain(count=2)], list[Plain]), ({"a": Rich()}, dict[str, Rich]),
    (Holder(Plain(), Rich(), [Camel(FIRST_NAME="z")]), Holder), ([Plain(), None], list[Plain | None]),
    (Anything(a=[1, {"x": b"y"}]), Anything),
]  # fmt: skip


def equal(value: Any, read: Any) -> bool:
    """By the model's own `==`; nan apart."""
    return bool(value == read) or repr(value) == repr(read)


@pytest.mark.parametrize(("value", "kind"), KEPT, ids=lambda case: type(case).__name__)
def test_a_model_that_is_stored_comes_back_equal_after_a_restart_too(value: Any, kind: Any) -> None:
    world = StorageWorld()
    world.put("k", value)
    assert equal(world.get("k", type=kind), value)
    world.commit()
    world.crash()
    assert equal(world.get("k", type=kind), value)
    assert isinstance(world.get("k"), dict | list)


@pytest.mark.parametrize(("value", "kind"), KEPT, ids=lambda case: type(case).__name__)
def test_a_model_is_read_by_a_stub_as_it_was_sent(value: Any, kind: Any) -> None:
    raw = msgspec.msgpack.decode(encode_arguments((value,), {}), type=list[msgspec.Raw])[0]
    assert equal(result_decoder(kind)(raw), value)


class Excluded(pydantic.BaseModel):
    x: int = 1
    hidden: int = pydantic.Field(2, exclude=True)


class Growing(pydantic.BaseModel):
    x: int = 0

    @pydantic.field_validator("x")
    @classmethod
    def grow(cls, value: int) -> int:
        return value + 1


class Picky(pydantic.BaseModel):
    x: int = 0

    @pydantic.model_validator(mode="after")
    def check(self) -> Picky:
        if self.x > 3:
            raise ValueError("too much")
        return self


class Secret(pydantic.BaseModel):
    password: pydantic.SecretStr = pydantic.SecretStr("hunter2")


class Shown(pydantic.BaseModel):
    x: int = 7

    @pydantic.field_serializer("x")
    def show(self, value: int) -> str:
        return f"{value} pieces"


def changed(model: Any, **values: Any) -> Any:
    model.__dict__.update(values)
    return model


def with_private(value: int) -> Private:
    model = Private()
    model._secret = value
    return model


REFUSED: list[Any] = [
    Secret(), Excluded(hidden=3), Growing(x=1), changed(Picky(), x=5), Shown(),
    changed(Plain(), count="x"), changed(Plain(), count=True),
    Anything(a=(1, 2)), Anything(a=decimal.Decimal(1)), Anything(a={1}), Anything(a=Plain()), Holder(Derived()), with_private(6),
    Plain.model_construct(name=7), changed(Rich(), child=Derived()), Anything(a=object()), Anything(a=2**70), Page(items=[(1,)]),
    changed(Strict(), raw=b"\xff"), [Plain(), Derived()], [Plain(), {"x": 1}], Open(y=(1, 2)), Anything(a="\ud800"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_a_model_that_would_come_back_different_is_refused(value: Any) -> None:
    world = StorageWorld()
    for stored in (value, [value], {"a": value}):
        with pytest.raises((TypeError, ValueError)):
            world.put("k", stored)
        with pytest.raises((TypeError, ValueError)):
            world.storage.put_many({"a": 1, "k": stored})
    assert world.get("k") is None


def test_the_place_in_a_model_is_named() -> None:
    with pytest.raises(TypeError, match=r"^value\[0\]\.a\[1\]: a tuple would come back as a list"):
        encode_value([Anything(a=[1, (2,)])])
    with pytest.raises(ValueError, match=r"password"):
        encode_value([Secret()])


def test_a_deep_model_is_refused_as_any_deep_value() -> None:
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        encode_value(Anything(a=deep))


def test_a_stored_value_that_does_not_fit_the_model_says_where() -> None:
    raw = encode_value([{"name": "x", "count": "many"}])
    with pytest.raises(msgspec.ValidationError, match=r"count: Input should be a valid integer.* - at `\$\[0\]`") as caught:
        decode_as(raw, list[Plain])
    assert "\n" not in str(caught.value)


class Price(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    sku: str
    price: decimal.Decimal


def test_what_is_wrong_with_a_strict_model_is_told_by_the_rules_it_was_written_by() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"^sku: Field required$"):  # As any program that is not Python writes it.
        decode_as(msgspec.msgpack.encode({"price": "1.50"}), Price)
    with pytest.raises(msgspec.ValidationError, match=r"^price: .*Decimal"):
        decode_as(msgspec.msgpack.encode({"sku": "a", "price": ["1.50"]}), Price)


def test_others_read_a_model_as_a_map_by_its_aliases() -> None:
    assert decode(encode_value(Camel(FIRST_NAME="y"))) == {"FIRST_NAME": "y", "INNER": {"name": "x", "count": 1}}
    assert decode(encode_value(Rich()))["price"] == "1.50"


# Calls


class Models(DurableObject):
    async def echo_plain(self, value: Plain) -> Plain:
        return value

    async def echo_rich(self, value: Rich) -> Rich:
        return value

    async def echo_strict(self, value: Strict) -> Strict:
        return value

    async def echo_camel(self, value: Camel) -> Camel | None:
        return value

    async def echo_many(self, value: dict[str, list[Plain]], other: Plain | None = None) -> dict[str, list[Plain]]:
        return value

    async def echo_holder(self, value: Holder) -> Holder:
        return value

    async def echo_base64(self, value: Base64) -> Base64:
        return value

    async def echo_pets(self, value: Pets) -> Pets:
        return value

    async def echo_computed(self, value: Computed) -> Computed:
        return value

    async def keep(self, value: Rich) -> Rich:
        await self.storage.put("rich", value)
        read = await self.storage.get("rich", type=Rich)
        assert read is not None
        return read

    async def ask(self, name: str) -> str:
        rich = await self.stub(Models, name).echo_rich(Rich(child=Plain(count=9)))
        many = await self.stub(Models, name).echo_many({"a": [Plain()]})
        strict = await self.stub(Models, name).echo_strict(Strict())
        return f"{type(rich).__name__} {rich.child!r} {many} {strict == Strict()}"


ARGUMENTS: dict[str, Any] = {
    "echo_plain": Plain(count=2), "echo_rich": Rich(child=Plain()), "echo_strict": Strict(), "echo_camel": Camel(FIRST_NAME="z"),
    "echo_many": {"a": [Plain()]}, "echo_holder": Holder(Plain(), Rich(), [Camel()]), "echo_pets": Pets(), "keep": Rich(),
    "echo_computed": Computed(side=4),
}  # fmt: skip


@pytest.mark.parametrize("method", ARGUMENTS)
async def test_models_are_arguments_and_results_in_messagepack(method: str) -> None:
    value = ARGUMENTS[method]
    world = World(Models)
    raw = bytes(encode_arguments((value,), None))
    answered = msgspec.msgpack.encode(await world.call(Models, "a", method, raw_args=raw).reply)
    assert equal(result_decoder(type(value) if not isinstance(value, dict) else dict[str, list[Plain]])(answered), value)


async def json_call(world: World, method: str, text: str) -> None:
    origin = Origin(b"test", envelope=None, json=True, single=False, requests=1)
    request = Request(next(world.numbers), "Models", "a", method, msgspec.Raw(text.encode()))
    world.loop.call_soon(world.host.deliver, request, origin, context=NEUTRAL)
    await world.settle()


async def test_models_are_arguments_and_results_in_json_by_the_rules_of_json() -> None:
    answers: list[Any] = []
    world = World(Models)
    world.host._reply = lambda origin, number, status, result: answers.append((status, result))
    for method, text, shown in [
        ("echo_plain", '[{"count": "2"}]', {"name": "x", "count": 2}),
        ("echo_strict", '[{"price": "2.5", "pair": [2, "y"], "colour": "red", "raw": "abc"}]', None),
        ("echo_base64", '[{"raw": "/wA="}]', {"raw": "_wA="}),
        ("echo_camel", '{"value": {"FIRST_NAME": "q"}}', {"FIRST_NAME": "q", "INNER": {"name": "x", "count": 1}}),
        ("echo_computed", '[{"side": 3}]', {"side": 3, "area": 9}),
    ]:
        await json_call(world, method, text)
        status, result = answers.pop()
        assert status == 0, result
        assert shown is None or msgspec.json.decode(result) == shown


async def test_a_model_that_does_not_fit_is_a_bad_argument_with_the_place_in_one_line() -> None:
    with pytest.raises(BadArguments) as caught:
        await World(Models).ask(Models, "a", "echo_many", {"a": [{"count": "many"}]})
    assert "count: Input should be a valid integer" in str(caught.value)
    assert "at `$[...][0]`" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_objects_pass_models_to_each_other_and_get_them_back_as_models() -> None:
    shown = await World(Models).ask(Models, "a", "ask", "b")
    assert shown == "Rich Plain(name='x', count=9) {'a': [Plain(name='x', count=1)]} True"


async def test_a_model_that_holds_what_cannot_be_sent_is_an_error_of_the_method() -> None:
    class Wrong(DurableObject):
        async def get(self) -> Anything:
            return Anything(a=object())

    with pytest.raises(MethodRaised, match="cannot be sent"):
        await World(Wrong).ask(Wrong, "a", "get")


# What is checked at load


class Foreign:
    pass


class HoldsForeign(msgspec.Struct):
    x: list[Foreign]


@pytest.mark.parametrize(
    "kind", [Foreign, list[Foreign], Foreign | None, dict[str, tuple[Foreign, int]], HoldsForeign, list[HoldsForeign],
             pathlib.Path, complex, int | Plain, DurableObject, "type"]
)  # fmt: skip
def test_a_result_that_nothing_can_carry_is_refused_at_load_with_the_name_of_the_method(kind: Any) -> None:
    async def get(self: Any) -> Any: ...

    get.__annotations__["return"] = type if kind == "type" else kind
    get.__qualname__ = "Bad.get"
    with pytest.raises(AppError, match=r"Bad\.get: its result: "):
        ObjectClass(type("Bad", (DurableObject,), {"get": get, "__module__": __name__}))


class Node(msgspec.Struct):
    children: list[Node] = []
    plain: Plain | None = None


@pytest.mark.parametrize(
    "kind", [None, Any, object, NoReturn, Plain, Plain | None, list[Plain], Page[int], Node, Rich, Holder, T, Literal[1, "a"],
             set[int], tuple[Node, ...], Annotated[int, msgspec.Meta(ge=1, extra_json_schema={"x": []})], msgspec.Raw, bytearray]
)  # fmt: skip
def test_what_can_be_carried_is_loaded_and_read_by_stubs(kind: Any) -> None:
    async def get(self: Any) -> Any: ...

    get.__annotations__["return"] = kind
    made = type("Good", (DurableObject,), {"get": get, "__module__": __name__})
    assert "get" in ObjectClass(made).methods
    result_decoder(kind)


class Misbehaving(Exception):
    def __str__(self) -> str:
        raise SystemExit("no")


class Exploding(pydantic.BaseModel):
    x: int = 1

    @pydantic.field_serializer("x")
    def show(self, value: int) -> str:
        raise Misbehaving

    @pydantic.field_validator("x")
    @classmethod
    def check(cls, value: int) -> int:
        if value > 1:
            raise Misbehaving
        return value


class Explosive(DurableObject):
    async def get(self) -> Any:
        return {"a": Exploding()}

    async def put(self) -> None:
        self.storage.put("k", [Exploding()])

    async def take(self, value: Exploding) -> None: ...

    async def send(self) -> None:
        await self.stub(Explosive, "other").take(Exploding())


@pytest.mark.parametrize("method", ["get", "put", "send", "take"])
async def test_whatever_code_of_a_model_raises_is_the_error_of_that_call(method: str) -> None:
    world = World(Explosive)
    with pytest.raises((MethodRaised, BadArguments)):
        await world.ask(Explosive, "a", method, *([{"x": 2}] if method == "take" else []))
    assert await world.ask(Explosive, "a", "take", {"x": 1}) is None
