"""Annotations that cannot be resolved: the same is said on every Python, postponed or evaluated late."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from tidegate.runtime.wire.annotations import annotations_of, signature_of
from tidegate.runtime.wire.stub import method_shape
from tidegate.shard.objects.methods import AppError, ObjectClass

SOURCE = """
from typing import TYPE_CHECKING
from tidegate import DurableObject
import msgspec
if TYPE_CHECKING:
    from somewhere import Elsewhere

class Shop(DurableObject):
    async def fine(self, x: Later, y: list[Later] = ()) -> list[Later]: ...
    async def argument(self, x: Elsewhere, y: int = 0) -> int: ...
    async def result(self) -> Elsewhere: ...
    async def inside(self) -> list[Elsewhere]: ...
    async def attribute(self) -> Elsewhere.Inner: ...

class Fine(DurableObject):
    async def fine(self, x: Later, y: list[Later] = ()) -> list[Later]: ...

class Later(msgspec.Struct):
    n: int
"""
POSTPONED = "from __future__ import annotations\n"


@pytest.fixture(params=["postponed", "late"])
def app(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "late" and sys.version_info < (3, 14):
        pytest.skip("annotations are evaluated late since Python 3.14")
    module = types.ModuleType("the_annotated_app")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    source = f"{POSTPONED if request.param == 'postponed' else ''}{SOURCE}"
    exec(compile(source, "the_annotated_app.py", "exec", dont_inherit=True), module.__dict__)
    return module


def test_a_stub_looks_at_the_results_annotation_only(app: Any) -> None:
    assert method_shape(app.Shop, "argument").result_type is int
    assert method_shape(app.Shop, "argument").by_name((1,), {"y": 2}) == {"x": 1, "y": 2}
    assert method_shape(app.Shop, "fine").result_type == list[app.Later]
    for name in ("result", "inside", "attribute"):
        with pytest.raises(TypeError, match=rf"return annotation of Shop\.{name} cannot be resolved here: name 'Elsewhere'"):
            method_shape(app.Shop, name)


def test_a_class_is_refused_with_each_method_whose_annotations_cannot_be_resolved(app: Any) -> None:
    with pytest.raises(AppError) as caught:
        ObjectClass(app.Shop)
    methods = ("argument", "result", "inside", "attribute")
    assert sorted(caught.value.problems) == sorted(
        f"Shop.{name}: an annotation cannot be resolved: name 'Elsewhere' is not defined" for name in methods
    )
    assert sorted(ObjectClass(app.Fine).methods) == ["fine"]


def test_the_names_of_all_parameters_are_known_all_the_same(app: Any) -> None:
    assert list(signature_of(app.Shop.argument).parameters) == ["self", "x", "y"]
    assert list(annotations_of(app.Shop.argument)) == ["x", "y", "return"]
