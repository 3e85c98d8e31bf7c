"""shard/store/checkpoints/sorting.py: sorting in steps, none of which takes long."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.shard.store.checkpoints.sorting import sorted_steps


@given(st.sets(st.binary(max_size=4)))
def test_sorting_in_steps_gives_every_key_once_in_order(keys: set[bytes]) -> None:
    steps = list(sorted_steps(keys.__iter__, len(keys)))
    assert [key for step in steps for key in step] == sorted(keys)


@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
def test_no_step_of_sorting_is_large(order: str) -> None:
    keys = [f"{number:07}" for number in range(60_000)]
    if order == "random":
        Random(1).shuffle(keys)
    elif order == "descending":
        keys.reverse()
    steps = list(sorted_steps(keys.__iter__, len(keys)))
    assert max(map(len, steps)) <= 4 * 2048
    assert [key for step in steps for key in step] == sorted(keys)
