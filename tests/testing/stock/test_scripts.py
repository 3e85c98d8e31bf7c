"""Scripts of calls: drawn from type hints, the same for a number, and parts of them by name."""

from __future__ import annotations

import socket

import pytest

from tidegate import DurableObject
from tidegate.shard.objects.methods import ObjectClass
from tidegate.testing.stock.scripts import STEPS_MAX, Ask, Pause, draw_script, offers_of, parsed, swapped, together


class Till(DurableObject):
    async def add(self, pieces: int, article: str = "tea", *, note: str | None = None) -> None: ...

    async def by_place(self, pieces: int, /, article: str = "tea") -> None: ...

    async def any_number(self, *numbers: int, **more: int) -> None: ...

    async def unannotated(self, thing) -> None: ...  # type: ignore[no-untyped-def]  # as users write it


class Odd(DurableObject):
    async def plain(self) -> None: ...

    async def unknown(self, raw: memoryview) -> None: ...

    async def unknown_but_left_out(self, raw: memoryview | None = None) -> None: ...


def test_each_method_is_called_with_arguments_that_it_takes() -> None:
    offers, left_out = offers_of([ObjectClass(Till)])
    assert not left_out
    asked = [step for number in range(60) for step in draw_script(number, offers).steps if isinstance(step, Ask)]
    assert {step.method for step in asked} == {"add", "by_place", "any_number", "unannotated"}
    assert all(step.args and not step.kwargs for step in asked if step.method == "by_place")
    assert {len(step.kwargs) for step in asked if step.method == "add"} == {1, 2, 3}


def test_a_script_follows_from_its_number_and_a_part_has_a_name() -> None:
    offers, _ = offers_of([ObjectClass(Till), ObjectClass(Odd)])
    script = draw_script(13, offers)
    assert script == draw_script(13, offers)
    assert script != draw_script(14, offers)
    assert len(draw_script(13, offers).steps) <= STEPS_MAX
    part = script.only([0, 2])
    number, kept, way = parsed(f"{part.name}:12.1")
    assert (number, kept, way) == (13, [0, 2], "12.1")
    assert draw_script(13, offers).only(kept) == part
    for wrong in ("", "1", "x:0:1.1", "1:a:1.1"):
        with pytest.raises(ValueError, match="no seed"):
            parsed(wrong)


def test_calls_of_one_object_that_follow_each_other_can_be_made_together() -> None:
    one, two, other = Ask("Till", "a", "add", (), {}), Ask("Till", "a", "add", (1,), {}), Ask("Till", "b", "add", (), {})
    script = draw_script(1, offers_of([ObjectClass(Till)])[0])._replace(steps=(one, two, Pause(1.0), one, other))
    assert together(script) == [0]
    assert swapped(script.steps, 0)[:2] == (two, one)


def test_a_method_of_which_no_value_is_known_is_left_out_and_named() -> None:
    class Wired(DurableObject):
        async def send(self, line: socket.socket) -> None: ...

    offers, left_out = offers_of([ObjectClass(Odd)])
    assert [offer.method for offer in offers["Odd"]] == ["plain", "unknown_but_left_out"]
    assert left_out == ["Odd.unknown is not called: no value is known for raw: memoryview"]
