"""What can be served, and what is said about an app that cannot."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tidegate.runtime.wire.stub import Stub, object_of
from tidegate.shard.__main__ import _cannot_load
from tidegate.shard.objects.methods import AppError
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.worker.app import load_app, why_not_imported

Write = Callable[..., str]
COUNTER = "from tidegate import DurableObject\nclass Counter(DurableObject):\n    async def count(self) -> int: return 1\n"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a file; returns its path. Modules imported meanwhile are forgotten."""
    before, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)

    def write(source: str, name: str = "the_app.py") -> str:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(source))
        return str(file)

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def names(app_name: str) -> dict[str, list[str]]:
    return {cls.name: sorted(cls.methods) for cls in load_app(app_name)}


def test_a_file_serves_the_object_classes_that_it_defines(app: Write) -> None:
    more = "class _Hidden(Counter): pass\nclass Plain: pass\nclass Other(Counter):\n    async def more(self): ...\n"
    assert names(app(COUNTER + more)) == {"Counter": ["count"], "Other": ["count", "more"]}


def test_a_file_may_import_what_stands_beside_it_and_serves_classes_from_there(app: Write) -> None:
    app(COUNTER, "beside.py")
    assert names(app("from beside import Counter\n")) == {"Counter": ["count"]}


def test_a_module_serves_all_its_classes_or_those_that_are_named(app: Write) -> None:
    app(COUNTER + "class Other(DurableObject):\n    async def x(self): ...\n", "package/module.py")
    assert names("package.module") == {"Counter": ["count"], "Other": ["x"]}
    assert names("package.module:Other") == {"Other": ["x"]}
    assert names("package.module:Other,Counter") == {"Other": ["x"], "Counter": ["count"]}


def test_a_file_serves_those_of_its_classes_that_are_named(app: Write) -> None:
    file = app(COUNTER + "class Other(DurableObject):\n    async def x(self): ...\n")
    assert names(f"{file}:Other") == {"Other": ["x"]}
    assert names(f"{file}:Other, Counter,") == {"Other": ["x"], "Counter": ["count"]}
    assert names(f"{file}:") == {"Counter": ["count"], "Other": ["x"]}
    with pytest.raises(AppError, match=r"the_app has no object class Class, .*; it has Counter, Other"):
        load_app(f"{file}:Class")


def test_a_module_that_is_not_there_is_told_from_one_that_the_app_lacks(app: Write) -> None:
    with pytest.raises(AppError, match=r"there is no module nowhere here .*nowhere\.py"):
        load_app("nowhere")
    app(COUNTER, "package/module.py")
    with pytest.raises(AppError, match=r"there is no module package\.other here"):
        load_app("package.other:Counter")
    app("import something_else\n", "package/lacking.py")
    with pytest.raises(ModuleNotFoundError, match="something_else"):
        load_app("package.lacking")


def test_annotations_may_be_postponed(app: Write) -> None:
    source = """
        from __future__ import annotations
        import dataclasses
        from tidegate import DurableObject
        @dataclasses.dataclass
        class Item:
            name: str
        class Shop(DurableObject):
            async def sell(self, item: Item, count: int = 1) -> Item: ...
    """
    assert names(app(source)) == {"Shop": ["sell"]}


def bad(body: str) -> str:
    return f"from tidegate import DurableObject\nclass Bad(DurableObject):\n    {body}\n"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\n", "has no object class; derive"),
        (bad("def plain(self): ..."), "Bad.plain is a plain `def`; write `async def plain`, or name it _plain"),
        (bad("async def numbers(self):\n        yield 1"), "Bad.numbers is an async generator; return a list"),
        (bad("def on_start(self): ..."), "Bad.on_start is a plain `def`"),
        (bad("def alarm(self, info): ..."), "Bad.alarm is a plain `def`"),
        (bad("async def take(self, value: 'Nowhere'): ..."), "Bad.take: an annotation cannot be resolved: name 'Nowhere'"),
        (bad("async def take(self, value: int | list | dict | tuple | set): ..."), "parameter 'value'"),
    ],
)
def test_an_app_that_cannot_be_served_is_told_what_to_change(app: Write, source: str, says: str) -> None:
    with pytest.raises(AppError) as caught:
        load_app(app(source))
    assert says in str(caught.value)


def test_two_classes_of_one_name_are_refused(app: Write) -> None:
    app(COUNTER, "beside.py")
    with pytest.raises(AppError, match="two object classes named Counter"):
        load_app(app("from beside import Counter as First\n" + COUNTER))


def test_all_problems_of_an_app_are_said_at_once_and_each_of_them_once(app: Write) -> None:
    source = """
        from tidegate import DurableObject
        class First(DurableObject):
            def plain(self): ...
            async def on_start(self, what): ...
        class Second(First):
            async def lost(): ...
        class Fine(DurableObject):
            async def works(self): ...
    """
    with pytest.raises(AppError) as caught:
        load_app(app(source))
    assert [problem.partition(" ")[0] for problem in caught.value.problems] == ["First.plain", "First.on_start", "Second.lost"]


def test_an_abstract_class_is_a_base_and_not_served(app: Write) -> None:
    source = """
        import abc
        from tidegate import DurableObject
        class Base(DurableObject, abc.ABC):
            @abc.abstractmethod
            async def price(self): ...
        class Shop(Base):
            async def price(self): ...
    """
    assert names(app(source)) == {"Shop": ["price"]}
    app(source, "shops.py")
    with pytest.raises(AppError, match="Base is abstract: it lacks price; serve a class derived from it"):
        load_app("shops:Base")


@pytest.mark.parametrize("name", ["nowhere.py", "directory.py"])
def test_a_file_that_is_not_there_is_named(app: Write, tmp_path: Path, name: str) -> None:
    (tmp_path / "directory.py").mkdir()
    with pytest.raises(AppError, match=f"there is no file .*{name}"):
        load_app(str(tmp_path / name))


@pytest.mark.parametrize("chosen", ["Nothing", "Plain", "number", "DurableObject"])
def test_a_named_class_that_is_none_is_told(app: Write, chosen: str) -> None:
    app(COUNTER + "class Plain: pass\nnumber = 1\n", "module.py")
    with pytest.raises(AppError, match=f"module has no object class {chosen}"):
        load_app(f"module:{chosen}")


@pytest.mark.parametrize(
    ("source", "error"),
    [("import nowhere_at_all\n", ModuleNotFoundError), ("1 / 0\n", ZeroDivisionError), ("def (\n", SyntaxError)],
)
def test_what_importing_an_app_raises_is_raised(app: Write, source: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        load_app(app(source))


def test_who_imports_what_cannot_be_read_is_named_where_the_error_names_no_line(app: Write) -> None:
    app("\0", "broken.py")
    app("import os\nimport broken\n", "shop.py")
    with pytest.raises(SyntaxError) as raised:
        load_app("shop")
    told = _cannot_load("shop", raised.value)
    assert "None" not in told.problem
    assert ".py:" in told.problem
    assert "importlib" not in told.traceback


def test_a_loaded_class_is_found_in_its_module_by_name(app: Write) -> None:
    (cls,) = load_app(app(COUNTER))
    assert sys.modules[cls.cls.__module__].Counter is cls.cls


def test_a_class_that_was_renamed_is_served_by_the_names_of_its_objects(app: Write) -> None:
    renamed = COUNTER.replace("Counter(DurableObject)", "Customer(DurableObject, aliases=('Client', 'Kunde'))")
    served = load_app(app(renamed + "class Special(Customer):\n    pass\n"))
    assert sorted(each.name for each in served) == ["Client", "Kunde", "Special"]
    customer = next(each.cls for each in served if each.name == "Client")
    assert object_of(Stub(cast("Any", None), customer, "alice")) == ("Client", "alice")
    with pytest.raises(AppError, match="two object classes named Client"):
        load_app(app(renamed + "class Client(DurableObject):\n    pass\n", "another.py"))


@pytest.mark.parametrize(("aliases", "problem"), [("Client", "are a tuple of names"), (("a/b",), "no slash"), ((3,), "strings")])
def test_aliases_that_are_no_names_are_refused(aliases: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        type("Customer", (DurableObject,), {}, aliases=aliases)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (b"\n1 / 0\n", "importing it raised ZeroDivisionError: division by zero (FILE:2)"),
        (b"\nx = (\n", "importing it raised SyntaxError: '(' was never closed (FILE:2)"),
        (b"x = 1\0", "importing it raised SyntaxError: source code string cannot contain null bytes"),
    ],
)
def test_why_an_app_cannot_be_imported_names_the_place_in_it_and_none_in_python(source: bytes, told: str, app: Write) -> None:
    file = app("", "broken.py")
    Path(file).write_bytes(source)
    with pytest.raises((ArithmeticError, SyntaxError, ValueError)) as raised:
        load_app(file)
    problem = why_not_imported(raised.value)
    assert problem.startswith(told.replace("FILE", file))
    assert "<frozen" not in problem
