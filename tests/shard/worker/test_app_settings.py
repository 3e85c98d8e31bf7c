"""Which classes declare settings, and what they are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import pytest
from msgspec import Struct

from tidegate import DurableObject
from tidegate.runtime.options.reading import Mistakes
from tidegate.runtime.options.settings import AppSources
from tidegate.shard.objects.methods import AppError, ObjectClass
from tidegate.shard.worker.app_settings import give_settings

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]  # it is not there at run time either


class Settings(Struct, frozen=True):
    days: int = 3


@dataclass
class Limits:
    names: list[str] = field(default_factory=list)


def give(*classes: type[DurableObject], text: str = "") -> list[str]:
    return [each.option for each in give_settings(map(ObjectClass, classes), AppSources("t.toml", text))]


def test_every_class_that_declares_them_has_them_and_no_instance_needs_room_for_them() -> None:
    class Base(DurableObject):
        settings: Settings

    class Cart(Base):
        pass

    class Order(DurableObject):
        settings: Settings
        other: Unknown

    class Plain(DurableObject):
        settings: dict[str, str]

    class Own(DurableObject):
        settings: ClassVar[Settings] = Settings(1)

    assert give(Cart, Order, Plain, Own, text="[app]\ndays = 9\n") == ["app.days"]
    assert Cart().settings == Order().settings == Settings(9)
    assert Cart().settings is Order().settings
    assert not vars(Cart())
    assert not hasattr(Plain, "settings")
    assert Own.settings == Settings(1)


def test_a_default_of_the_class_is_for_tests_and_gives_way() -> None:
    class Cart(DurableObject):
        settings: Settings = Settings(1)

    assert Cart().settings.days == 1
    give(Cart)
    assert Cart().settings.days == 3


def test_a_dataclass_will_do() -> None:
    class Cart(DurableObject):
        settings: Limits

    assert give(Cart, text='[app]\nnames = ["a"]\n') == ["app.names"]
    assert Cart().settings.names == ["a"]


def test_what_is_set_wrongly_is_told_and_given_to_nobody() -> None:
    class Cart(DurableObject):
        settings: Settings

    with pytest.raises(Mistakes, match=r"t.toml \[app\] days: must be a whole number, not 'x'"):
        give(Cart, text='[app]\ndays = "x"\n')
    assert not hasattr(Cart, "settings")


class Loop(Struct):
    at: complex


def test_what_cannot_be_declared_is_a_fault_of_the_app() -> None:
    class Cart(DurableObject):
        settings: Settings

    class Order(DurableObject):
        settings: Limits

    class Lost(DurableObject):
        settings: Unknown

    class Wrong(DurableObject):
        settings: Loop

    with pytest.raises(AppError, match=r"an app has one section of settings .*Cart.settings: Settings, .*Order.settings: Limits"):
        give(Cart, Order)
    with pytest.raises(AppError, match=r"Lost.settings: an annotation cannot be resolved"):
        give(Lost)
    with pytest.raises(AppError, match=r"Loop cannot be the class of settings: app.at: nothing can be read into a complex"):
        give(Wrong)
