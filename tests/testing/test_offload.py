"""`self.offload` in a test runs here, at one instant, on copies."""

from __future__ import annotations

import threading

import pytest

from tidegate import DurableObject
from tidegate.testing import Objects


def squared(numbers: list[int]) -> list[int]:
    numbers.append(1)
    return [number * number for number in numbers]


def refuse(reason: str) -> None:
    raise ValueError(reason)


class Computer(DurableObject):
    async def squares(self, numbers: list[int]) -> list[list[int]]:
        return [await self.offload(squared, numbers), numbers]

    async def refused(self) -> None:
        await self.offload(refuse, "too much")

    async def of_a_lock(self) -> None:
        await self.offload(refuse, threading.Lock())  # type: ignore[arg-type]  # what cannot be sent


async def test_a_function_gets_copies_and_its_result_comes_back(objects: Objects) -> None:
    assert await objects(Computer, "c").squares([2, 3]) == [[4, 9, 1], [2, 3]]


async def test_what_it_raises_is_raised(objects: Objects) -> None:
    with pytest.raises(ValueError, match="too much"):
        await objects(Computer, "c").refused()


async def test_what_no_other_process_could_be_sent_is_refused_as_in_a_service(objects: Objects) -> None:
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        await objects(Computer, "c").of_a_lock()
