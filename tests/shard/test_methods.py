"""Arguments on their way from the wire into a method: whatever they are, the answer is arguments or BadArguments."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from runtime.errors import BadArguments
from shard.methods import ObjectClass
from tidegate import DurableObject


class Lookup(msgspec.Struct):
    key: str

    def __post_init__(self) -> None:
        {}[self.key]


@dataclass
class Picky:
    key: str

    def __post_init__(self) -> None:
        raise RuntimeError("never")


class Strange:
    pass


class Taker(DurableObject):
    async def take(self, anything: object) -> None: ...
    async def lookup(self, lookup: Lookup) -> None: ...
    async def picky(self, picky: Picky) -> None: ...
    async def strange(self, strange: Strange) -> None: ...


METHODS = ObjectClass(Taker).methods
CODECS = [(msgspec.msgpack.encode, False), (msgspec.json.encode, True)]


@pytest.mark.parametrize(("encode", "json"), CODECS, ids=["MessagePack", "JSON"])
@pytest.mark.parametrize("value", [None, 1, "x", [1, [2]], {"a": {"b": 1}}])
def test_an_argument_annotated_as_object_may_be_anything(encode: Any, json: bool, value: Any) -> None:
    assert METHODS["take"].arguments(msgspec.Raw(encode([value])), json=json) == ((value,), {})
    assert METHODS["take"].arguments(msgspec.Raw(encode({"anything": value})), json=json) == ((), {"anything": value})


@pytest.mark.parametrize(("encode", "json"), CODECS, ids=["MessagePack", "JSON"])
@pytest.mark.parametrize("method", ["lookup", "picky", "strange"])
def test_whatever_the_conversion_of_an_argument_raises_is_bad_arguments(encode: Any, json: bool, method: str) -> None:
    for given in ([{"key": "x"}], {method: {"key": "x"}}):
        with pytest.raises(BadArguments) as caught:
            METHODS[method].arguments(msgspec.Raw(encode(given)), json=json)
        assert caught.value.details == {"argument": method}
        assert str(caught.value).startswith(f"{method}: argument '{method}': ")
