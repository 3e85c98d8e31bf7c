"""What the sample configuration and the page of the configuration say of each option, made of the options.

`python -m tests.support.option_pages` writes both anew.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from tidegate.runtime.options.option import ChangeTakes, Option
from tidegate.runtime.options.words import shown
from tidegate.runtime.supervisor.config import OPTIONS, TABLE

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "systemd" / "tidegate.toml"
PAGE = ROOT / "docs" / "configuration.md"
WIDTH = 128
SHOWN = {"service.app": 'app = "/etc/tidegate/app.py"', "service.data": '#data = "/var/lib/tidegate"'}
"""Where the default is no example."""
TAKES = {ChangeTakes.RELOAD: "reload", ChangeTakes.RESTART: "restart", ChangeTakes.START: "stop and start"}
HEAD = """# Configuration of a Tidegate service. Lines that begin with "#" show the defaults.
# Variables of the environment (TIDEGATE_SERVICE_WORKERS) go before this file, options on the command line before both.
# `tidegate config check FILE` says everything that is wrong, `tidegate config show FILE` what is in effect.
"""
ROWS = re.compile(r"(?<=\| --- \| --- \| --- \| --- \| --- \|\n)(?:\| `\w+\.\w+` .*\n)+")


FOOT = """
# Settings of the app, as it declares them (docs/objects.md): `tidegate config show` has their names. Secrets are better
# credentials.
[app]
"""


def sample() -> str:
    return HEAD + "".join(_section(section, known) for section, known in OPTIONS.items()) + FOOT


def _section(section: str, known: Mapping[str, Option]) -> str:
    return f"\n[{section}]\n" + "\n".join("".join(f"{line}\n" for line in _lines(option)) for option in known.values())


def _lines(option: Option) -> Iterator[str]:
    for text in (option.description, f"May be: {option.allowed}."):
        yield from textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    yield SHOWN.get(option.full_name, f"#{option.name} = {shown(option.default)}")


def rows() -> str:
    """Of the table on the page."""
    return "".join(_row(option) for option in TABLE.options())


def _row(option: Option) -> str:
    default = f"`{shown(option.default)}`" if option.default != "" else ""
    cells = (f"`{option.full_name}`", option.allowed, default, TAKES[option.takes], option.description)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def written(page: str) -> str:
    """The page with the rows as they should be."""
    assert ROWS.search(page) is not None, "the page has a table of options"
    return ROWS.sub(lambda _: rows(), page, count=1)


if __name__ == "__main__":
    SAMPLE.write_text(sample())
    PAGE.write_text(written(PAGE.read_text()))
    print(f"written: {SAMPLE} and the table of {PAGE}")
