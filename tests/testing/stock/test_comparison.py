"""What differs between two runs, and what is noise."""

from __future__ import annotations

from typing import Any

from tidegate.testing.stock.comparison import Difference, Noise, differences, plain


def unlike(twin: Any, found: Any, *others: Any) -> list[tuple[Any, ...]]:
    return [each.path for each in differences(twin, found, Noise.of(twin, others))]


def test_what_differs_is_named_by_its_path() -> None:
    assert unlike({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) == []
    assert unlike({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == [("a", 1, "b")]
    assert unlike({"a": 1}, {"a": True}) == [("a",)]
    assert unlike({"a": 1}, {"b": 1}) == [("a",), ("b",)]
    assert unlike([1, 2], [1]) == [()]
    assert list(differences({"a": 1}, {}, Noise())) == [Difference(("a",), 1, "nothing")]


def test_what_differs_without_a_mishap_is_compared_nowhere() -> None:
    assert unlike({"at": 1, "n": 1}, {"at": 3, "n": 1}, {"at": 2, "n": 1}) == []
    assert unlike({"at": 1, "n": 1}, {"at": 3, "n": 2}, {"at": 2, "n": 1}) == [("n",)]
    assert unlike([1, 2], [1, 2, 3], [1]) == []


def test_of_keys_that_are_noise_the_number_is_compared() -> None:
    assert unlike({"x": 1}, {"y": 1}, {"z": 1}) == []
    assert unlike({"x": 1}, {"y": 1, "z": 2}, {"z": 1}) == [()]
    assert unlike({"x": 1, "n": 1}, {"y": 1, "n": 2}, {"z": 1, "n": 1}) == [("n",)]
    assert unlike({"x": 1, "y": 2}, {"y": 3, "z": 2}, {"u": 1, "v": 2}) == []


def test_numbers_of_chance_are_not_compared() -> None:
    one, two = "0b8f9a3e-2f0f-4a5a-9c8e-0123456789ab", "ffffffff2f0f4a5a9c8e0123456789ab"
    assert plain({one: 1, two: 2}) == {"(a random number)": 1, "(a random number) 1": 2}
    assert plain({f"order/{one}": (one, 1)}) == plain({f"order/{two}": [two, 1]})
    assert plain("<Future at 0x7f43 state=finished>") == plain("<Future at 0x8e01 state=finished>") != plain("0x7f43 cents")
