"""Every planted mistake is found by the default settings, and none of the twins is blamed."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.testing.catalogue import CATALOGUE, SHARED, Planted
from tests.testing.test_exploration import explored
from tidegate.testing import Objects

FULL = os.environ.get("TIDEGATE_FULL") == "1"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def run(planted: Planted, cls: Any, **options: Any) -> None:
    async def test(objects: Objects) -> None:
        SHARED.clear()
        await planted.test(objects, cls)

    with quiet():
        explored(test, **options)


@pytest.mark.parametrize("planted", CATALOGUE, ids=lambda planted: planted.name)
def test_the_mistake_is_found(planted: Planted) -> None:
    with pytest.raises(Exception) as caught:
        run(planted, planted.wrong)
    assert any("--tidegate-seed=" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("planted", CATALOGUE, ids=lambda planted: planted.name)
@pytest.mark.slow
def test_its_twin_is_not_blamed(planted: Planted) -> None:
    run(planted, planted.right, **({} if FULL else {"schedules": 80}))
