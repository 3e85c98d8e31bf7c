"""The dict in parts beside a dict."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tidegate.shard.host.split_dict import PARTS, WHOLE_MAX, SplitDict

KEYS = st.sampled_from([f"object-{number}" for number in range(200)])


@pytest.mark.parametrize("whole_max", [0, 7, WHOLE_MAX])
def test_it_is_a_dict(whole_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.host.split_dict.WHOLE_MAX", whole_max)

    @given(st.lists(st.tuples(st.sampled_from(["set", "delete", "pop", "get"]), KEYS, st.integers())))
    def check(steps: list[tuple[str, str, int]]) -> None:
        _check(steps)

    check()


def _check(steps: list[tuple[str, str, int]]) -> None:
    split: SplitDict[str, int] = SplitDict()
    plain: dict[str, int] = {}
    for step, key, value in steps:
        if step == "set":
            split[key] = plain[key] = value
        elif step == "delete" and key in plain:
            del split[key], plain[key]
        elif step == "pop":
            assert split.pop(key, None) == plain.pop(key, None)
        assert (key in split) == (key in plain)
        assert split.get(key, -1) == plain.get(key, -1)
        assert split.find(key) == plain.get(key)
        assert split == plain
        assert len(split) == len(plain)
        assert bool(split) == bool(plain)
        assert sorted(split) == sorted(plain)


def test_what_is_not_there_is_a_key_error() -> None:
    split: SplitDict[str, int] = SplitDict()
    for missing in (lambda: split["a"], lambda: split.pop("a"), lambda: split.__delitem__("a")):
        with pytest.raises(KeyError):
            missing()
    assert split.get("a") is None


def test_of_many_no_part_has_many_more_than_its_share() -> None:
    split: SplitDict[str, int] = SplitDict()
    for number in range(WHOLE_MAX + 1):
        assert len(split._parts) == 1
        split[f"object-{number}"] = number
    sizes = [len(part) for part in split._parts]
    assert sum(sizes) == WHOLE_MAX + 1
    assert max(sizes) < 2 * WHOLE_MAX / PARTS
    assert min(sizes) > WHOLE_MAX / PARTS / 2
