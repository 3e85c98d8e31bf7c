"""How a value is shown that is to be edited."""

from __future__ import annotations

import json
from typing import Any

from tidegate.runtime.console.questions import LINED_BYTES_MAX, LINED_DEPTH_MAX, _text_of


def nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


def test_a_value_is_shown_in_lines_unless_these_would_be_mostly_spaces() -> None:
    assert _text_of({"a": [1, 2]}) == '{\n  "a": [\n    1,\n    2\n  ]\n}'
    assert "\n" in _text_of(nested(LINED_DEPTH_MAX, 1))
    assert _text_of(nested(LINED_DEPTH_MAX + 1, 1)) == "[" * (LINED_DEPTH_MAX + 1) + "1" + "]" * (LINED_DEPTH_MAX + 1)
    large = [0] * LINED_BYTES_MAX
    assert len(_text_of(large)) == 2 * len(large) + 1
    deep = [nested(90, {"key": number}) for number in range(300)]
    assert len(_text_of(deep)) < 2 * len(json.dumps(deep))
