"""Every source file has tests that are known to be its own."""

from __future__ import annotations

import pytest

from tests.meta.sources import TESTED_BY
from tests.meta.test_layers import ROOT, modules

SOURCES = [str(path) for path in modules() if path.name != "__init__.py"]


def mirrored(source: str) -> str:
    folder, _, name = source.rpartition("/")
    return f"{folder}/test_{name}"


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_file_has_a_test_file_or_a_line_that_says_where_it_is_tested(source: str) -> None:
    has_own = (ROOT / "tests" / mirrored(source)).exists()
    assert has_own != (source in TESTED_BY), (
        f"{source}: has tests/{mirrored(source)} as well as a line in tests/meta/sources.py"
        if has_own
        else f"{source}: write tests/{mirrored(source)}, or say in tests/meta/sources.py where it is tested"
    )


def test_the_list_of_tests_names_nothing_that_is_gone() -> None:
    gone = [
        f"{source} by {tests}"
        for source, tests in TESTED_BY.items()
        if source not in SOURCES or not (ROOT / "tests" / tests).exists()
    ]
    assert not gone
