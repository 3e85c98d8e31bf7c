"""The style page where a machine can read it."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import tidegate

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shard", "router", "runtime", "testing")
FUNCTION_LINES_MAX = 60
NAMELESS = {"utils", "helpers", "common", "base", "manager", "misc", "util", "helper"}


def tracked(*suffixes: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def sources() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(found) > 130, "the tree is looked at as a whole"
    return found


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_file_is_named_after_what_it_is_about() -> None:
    assert not [shown(path) for path in tracked(".py") if path.stem in NAMELESS]


def test_every_source_file_opens_with_what_it_guarantees() -> None:
    silent = [shown(path) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_the_name_of_a_class_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in sources():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(shown(path))
    assert not {name: files for name, files in places.items() if len(files) > 1}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{shown(path)}: {function.name}": lines
        for path in sources()
        for function in functions(path)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert not long


@pytest.mark.parametrize("name", sorted(tidegate.__all__))
def test_everything_a_user_can_reach_says_what_it_does(name: str) -> None:
    thing = getattr(tidegate, name)
    if not isinstance(thing, type):
        assert inspect.getdoc(thing) or not callable(thing)
        return
    assert thing.__doc__, name
    for base in thing.__mro__:
        if base.__module__.startswith("tidegate."):
            for method, function in vars(base).items():
                if not method.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                    assert function.__doc__, f"{base.__name__}.{method}"


def test_every_test_is_named_by_a_sentence() -> None:
    short = [
        f"{shown(path)}: {function.name}"
        for path in tracked(".py")
        if path.name.startswith("test_")
        for function in functions(path)
        if function.name.startswith("test_") and len(function.name.split("_")) < 5
    ]
    assert not short


def test_every_test_file_that_is_named_after_a_source_file_has_tests() -> None:
    for path in tracked(".py"):
        if path.name.startswith("test_"):
            text = path.read_text()
            assert re.search(r"def test_|\(RuleBasedStateMachine\)|TestCase", text), shown(path)


BANNED = {
    r"\bTODO\b|\bFIXME\b|\bXXX\b": "unfinished work is an issue, not a comment",
    r"\bNotImplementedError\b": "what is not there is not promised",
    r"pragma: no cover": "what cannot be reached is deleted",
    r"\bprint\(": "a process logs; only the command line prints",
    r"\bassert False\b": "raise what it is",
    r"except:": "say what is expected",
    r"\beval\(|\bexec\(": "no code from text",
    r"\bpickle\b": "nothing that a stranger sends becomes code",
    r"time\.sleep\(": "wait for what is awaited",
    r"[\"'](shard|runtime|router|benchmarks|testing)\.[a-z_.]*[\"']": "modules are named tidegate.…",
}
MAY = {
    *(
        ("runtime/cli/commands/" + name + ".py", r"\bprint\(")
        for name in (
            *(
                "alarms",
                "backup",
                "bench",
                "call",
                "chaos",
                "check",
                "cluster",
                "compact",
                "completion",
                "config",
                "console",
                "export",
                "install_service",
                "keys",
            ),
            *(
                "lint",
                "migrate",
                "new",
                "objects/listing",
                "objects/quarantine",
                "repair",
                "reshard",
                "restore",
                "serve",
                "status",
                "test",
                "top",
                "uninstall_service",
                "upgrade",
            ),
        )
    ),
    *(("runtime/cli/" + name + ".py", r"\bprint\(") for name in ("asking", "commanding", "exits", "wishing")),
    ("runtime/cli/commands/alarms.py", r"time\.sleep\("),
    ("runtime/cli/commands/objects/quarantine.py", r"time\.sleep\("),
    ("runtime/cli/wishing.py", r"time\.sleep\("),
    ("runtime/cluster/nats_servers.py", r"time\.sleep\("),
    ("runtime/data/lock.py", r"time\.sleep\("),
    ("shard/store/worker_store.py", r"time\.sleep\("),  # Nobody is served yet.
    ("shard/worker/handover.py", r"time\.sleep\("),  # Of no length: it hands the interpreter on.
}


@pytest.mark.parametrize("pattern", BANNED)
def test_the_product_does_not_contain_what_is_banned(pattern: str) -> None:
    wrong = [
        f"{shown(path)}:{number}: {line.strip()}  ({BANNED[pattern]})"
        for path in sources()
        if (shown(path), pattern) not in MAY
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line) and "exec_module" not in line
    ]
    assert not wrong


def test_every_exception_to_a_check_of_types_or_style_says_why() -> None:
    silent = re.compile(r"#\s*(type: ignore|noqa)(\[[^\]]*\]|: [A-Z0-9, ]+)?\s*$")
    wrong = [
        f"{shown(path)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if silent.search(line)
    ]
    assert not wrong


PRIVATE = re.compile(
    r"/(work|root|home|Users)/\w"
    r"|\b(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2,3}\b"
    r"|\.(?:internal|corp|lan)\b"
)


def test_nothing_in_the_tree_names_a_machine_or_a_place_on_one() -> None:
    suffixes = (".py", ".md", ".toml", ".service", ".conf", ".sh", ".c", ".h", ".js", ".json", ".jsonl", ".yml", ".yaml", "")
    wrong = [
        f"{shown(path)}:{number}: {line.strip()[:100]}"
        for path in tracked(*suffixes)
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert not wrong


def test_servers_listen_on_loopback_unless_told_otherwise() -> None:
    wrong = [
        f"{shown(path)}:{number}"
        for path in tracked(".py", ".service", ".conf", ".toml")
        if not shown(path).startswith("tests/")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"0\.0\.0\.0|tcp://\*", line)
    ]
    assert not wrong


NAMED_FILE = re.compile(r"(?<![\w/.\"'])(?:shard|runtime|router|tests)/[a-z_/]+\.(?:py|md|c|sh)\b")


def test_every_file_that_a_comment_or_a_page_names_is_there() -> None:
    wrong = [
        f"{shown(path)}: {name}"
        for path in tracked(".py", ".md")
        if not shown(path).startswith(("CHANGELOG", "findings/"))
        for name in NAMED_FILE.findall(path.read_text())
        if not (ROOT / name).exists()
    ]
    assert not wrong
