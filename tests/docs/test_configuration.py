"""The page and the sample of the configuration say what the options say, of every one and of no other."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.docs.test_pages import blocks, steps
from tests.support.option_pages import PAGE, SAMPLE, SHOWN, sample, written
from tidegate.runtime.cli.cli import main
from tidegate.runtime.supervisor.config import OPTIONS, Sources, put_together

AGAIN = "write both anew: python -m tests.support.option_pages"


def test_the_sample_explains_every_option_with_what_it_may_be_and_its_default() -> None:
    assert SAMPLE.read_text() == sample(), AGAIN


def test_the_page_has_every_option_with_what_it_may_be_its_default_and_what_it_does() -> None:
    assert PAGE.read_text() == written(PAGE.read_text()), AGAIN


def test_the_sample_is_a_configuration_and_its_lines_that_are_switched_off_are_the_defaults() -> None:
    text = SAMPLE.read_text()
    put_together(Sources("tidegate.toml", text))
    everything = tomllib.loads(re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE))
    assert {section: list(values) for section, values in everything.items()} == {
        section: list(known) for section, known in OPTIONS.items()
    } | {"app": []}
    for section, values in everything.items():
        for name, value in values.items():
            assert f"{section}.{name}" in SHOWN or value == OPTIONS[section][name].default


def test_what_the_page_says_of_a_wrong_file_is_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tidegate.toml").write_text("[service]\nworkres = 4\nliveness_s = 0\ncache_mib = 64\n")
    checked = 0
    for text in blocks(PAGE, "console"):
        for command, expected in steps(text):
            assert main(shlex.split(command)[1:]) == 1
            assert capsys.readouterr().out.strip() == expected
            checked += 1
    assert checked == 1
