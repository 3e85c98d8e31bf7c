"""The drawing of the states is what the table gives. `python -m tests.docs.test_object_states` draws it anew."""

from __future__ import annotations

import re
from pathlib import Path

from tidegate.shard.core.states import State, drawing

PAGE = Path(__file__).parents[2] / "docs" / "object_states.md"
DRAWING = re.compile(r"(?<=^```mermaid\n).*?(?=^```)", re.MULTILINE | re.DOTALL)


def test_the_drawing_of_the_states_of_an_object_is_what_the_table_gives() -> None:
    assert DRAWING.findall(PAGE.read_text()) == [drawing()], "draw it anew: python -m tests.docs.test_object_states"


def test_the_drawing_shows_every_state_and_none_else() -> None:
    shown = set(re.findall(r"\w+(?= -->)|(?<=--> )\w+", drawing()))
    assert shown == {state.value for state in State}


if __name__ == "__main__":
    PAGE.write_text(DRAWING.sub(drawing(), PAGE.read_text()))
