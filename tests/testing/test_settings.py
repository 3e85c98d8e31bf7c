"""Settings of the app that a test gives to its objects."""

from __future__ import annotations

import dataclasses

import pytest

from tidegate import DurableObject
from tidegate.testing import Objects


@dataclasses.dataclass
class Settings:
    currency: str = "EUR"


class Invoice(DurableObject):
    settings: Settings

    async def shown(self, cents: int) -> str:
        return f"{cents / 100:.2f} {self.settings.currency}"


@pytest.mark.tidegate(settings=Settings("USD"))
async def test_objects_have_the_settings_that_the_test_gives(objects: Objects) -> None:
    assert await objects(Invoice, "i").shown(250) == "2.50 USD"


def test_they_are_taken_back_at_the_end_of_the_test() -> None:
    for settings in (Settings("CHF"), Settings("SEK")):
        with Objects(settings=settings) as objects:
            assert objects.run(objects(Invoice, "i").shown(100)) == f"1.00 {settings.currency}"
    assert not hasattr(Invoice, "settings")


def test_settings_of_another_class_are_refused() -> None:
    with Objects(settings={"currency": "USD"}) as objects, pytest.raises(TypeError, match="Invoice declares settings: Settings"):
        objects(Invoice, "i")
