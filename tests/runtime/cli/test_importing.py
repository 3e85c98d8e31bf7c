"""Which objects of a file are begun, and which are not; the rest is in tests/service/test_objects.py."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import pytest

from tidegate.runtime.cli import importing
from tidegate.runtime.cli.importing import AT_ONCE, LOAD_BYTES, Importer
from tidegate.runtime.errors import BadRequest, OperatorError
from tidegate.runtime.wire.object_records import Head, Pair
from tidegate.runtime.wire.wishes import MANY_BYTES_MAX, Load, LoadMany

Objects = Iterator[tuple[str, Head, Iterator[Pair]]]


class Service:
    """Refuses some objects."""

    def __init__(self, refuses: set[str]) -> None:
        self.refuses = refuses
        self.begun: list[str] = []

    def wish_for(self, options: argparse.Namespace, wish: Load | LoadMany, target: str) -> dict[str, Any]:
        if isinstance(wish, Load):
            self.begun.append(target)
            if target in self.refuses and wish.goes_on:
                raise BadRequest("no")
            return {"rows": len(wish.rows)}
        self.begun += [each.object for each in wish.objects]
        refusal = {"error": BadRequest("no").to_wire()}
        return {"pages": [refusal if each.object in self.refuses else {"rows": 1} for each in wish.objects]}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(service: Service, objects: Objects) -> Importer:
        monkeypatch.setattr(importing, "wish_for", service.wish_for)
        importer = Importer(argparse.Namespace(file="f", replace=False, no_alarm=False, timeout=1.0))
        with pytest.raises(BadRequest, match="no"):
            importer.run(objects)
        return importer

    return run


def objects(*sizes: tuple[str, int]) -> Objects:
    for name, size in sizes:
        pairs = [Pair(f"k{at}", "x" * min(LOAD_BYTES // 2, size - at)) for at in range(0, size, LOAD_BYTES // 2)]
        yield name, Head(name), iter(pairs)


def test_after_the_first_that_is_refused_no_further_ones_are_begun(run: Any) -> None:
    service = Service({"Box/0"})
    each_alone = MANY_BYTES_MAX * 2 // 3
    assert each_alone < LOAD_BYTES
    importer = run(service, objects(*((f"Box/{number}", each_alone) for number in range(10))))
    assert "Box/0" in service.begun
    assert set(service.begun) <= {f"Box/{number}" for number in range(AT_ONCE)}
    assert importer.objects == len(service.begun) - 1, "what was under way is waited for"


def test_a_large_object_is_not_begun_after_one_of_its_name_that_is_refused(run: Any) -> None:
    service = Service({"Box/0"})
    run(service, objects(("Box/0", 10), ("Box/0", 3 * LOAD_BYTES)))
    assert service.begun == ["Box/0"]


def test_of_an_object_that_is_there_in_part_the_option_is_named_that_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "wish_for", Service({"Box/0"}).wish_for)
    options = argparse.Namespace(file="f", replace=False, no_alarm=False, timeout=1.0)
    for importer, option in ((Importer(options), "--replace"), (Importer(options, replacing="--yes"), "--yes")):
        with pytest.raises(OperatorError, match=f"Box/0 is there in part.*{option}"):
            importer.run(objects(("Box/0", 3 * LOAD_BYTES)))
