"""`tidegate config`, and where a configuration is looked for."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tidegate.runtime.cli.cli import main
from tidegate.runtime.cli.configuration import FILE_BYTES_MAX, FILE_VARIABLE, WhereToLook, read_configuration
from tidegate.runtime.options.reading import Mistakes


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_check_says_everything_that_is_wrong_and_fails(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "t.toml").write_text('[service]\napp = "gone.py"\nworkres = 1\nstop_s = 0\n[nope]\n')
    assert main(["config", "check", "t.toml", "--set", "log.level=loud"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "t.toml [service] workres: unknown option (did you mean workers?)",
        "t.toml [service] stop_s: must be a number of seconds from 0.5 to 3600, not 0 (correct the value)",
        "t.toml: unknown section [nope] (known are service, storage, log, metrics)",
        "command line --set log.level: must be one of debug, error, info, warning, not 'loud' (correct the value)",
        "gone.py: no such file (correct [service] app in t.toml: name the Python file that defines your objects)",
        "t.toml: 5 mistakes",
    ]
    assert main(["config", "check", "t.toml", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["mistakes"][0] == {
        "place": "t.toml", "key": "[service] workres", "problem": "unknown option", "hint": "did you mean workers?",
        "option": "", "allowed": "", "nearest": "service.workers",
    }  # fmt: skip
    assert told["mistakes"][1]["option"] == "service.stop_s"
    assert told["mistakes"][1]["allowed"] == "a number of seconds from 0.5 to 3600"


def test_check_of_what_is_right_exits_with_0_and_tells_what_is_heeded_by_nobody(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "t.toml").write_text("[service]\nworkers = 3\n")
    monkeypatch.setenv(FILE_VARIABLE, "t.toml")
    monkeypatch.setenv("TIDEGATE_WORKERS", "4")
    assert main(["config", "check"]) == 0
    note = "TIDEGATE_WORKERS is heeded by nobody: the option is TIDEGATE_SERVICE_WORKERS"
    assert capsys.readouterr().out == f"note: {note}\nt.toml: everything is right\n"
    assert main(["config", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": "t.toml", "mistakes": [], "notes": [note]}


def test_show_has_every_option_its_value_and_where_it_comes_from(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "t.toml").write_text('[service]\napp = "not_here.py"\nworkers = 3\nstop_s = 4\n')
    monkeypatch.setenv("TIDEGATE_SERVICE_STOP_S", "5")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/shop:/x")
    assert main(["config", "show", "t.toml", "--no-app", "--set", 'log.levels={a = "debug"}']) == 0
    rows = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()]
    assert ["service.app", '"not_here.py"', "file t.toml", "tidegate reload"] in rows
    assert ["service.stop_s", "5.0", "environment TIDEGATE_SERVICE_STOP_S", "tidegate reload"] in rows
    assert ["service.data", '"/var/lib/shop"', "environment STATE_DIRECTORY", "a stop and a start"] in rows
    assert ["service.routers", "1", "default", "a stop and a start"] in rows
    assert main(["config", "show", "t.toml", "--set", 'log.levels={a = "debug"}', "--json"]) == 1
    told = {each["option"]: each for each in json.loads(capsys.readouterr().out)["options"]}
    assert told["log.levels"]["value"] == {"a": "debug"}
    assert told["log.levels"]["origin"] == {"source": "flag", "place": "--set log.levels"}
    assert told["service.workers"]["value"] == 3


def test_show_has_the_options_of_the_service_also_where_the_app_is_not(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--set", "service.app=gone.py"]) == 1
    said = capsys.readouterr()
    assert '"gone.py"' in said.out
    assert said.err == (
        "tidegate: show the settings of the app: gone.py: no such file "
        "(correct --set service.app: name the Python file that defines your objects)\n"
    )


def test_show_of_what_is_wrong_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "t.toml").write_text("[service]\nworkers = 0\n")
    assert main(["config", "show", "t.toml"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("tidegate: read t.toml [service] workers: must be")


def unreadable(here: Path, kind: str) -> str:
    path = here / "t.toml"
    match kind:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            return "/dev/zero"
        case "huge":
            path.write_text("#" * (FILE_BYTES_MAX + 1))
        case "bytes":
            path.write_bytes(b"\xff\xfe")
        case "link to nothing":
            path.symlink_to("nothing")
        case "link to itself":
            path.symlink_to(path)
        case "zero byte":
            return "a\0b"
    return str(path)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("directory", "is a directory, not a file"),
        ("pipe", "is no regular file"),
        ("device", "is no regular file"),
        ("huge", "larger than 1024 KiB"),
        ("bytes", "not UTF-8 text"),
        ("nothing", "No such file or directory"),
        ("link to nothing", "No such file or directory"),
        ("link to itself", "Too many levels of symbolic links"),
        ("zero byte", "no name of a file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_answer(kind: str, problem: str, here: Path) -> None:
    name = unreadable(here, kind)
    with pytest.raises(Mistakes) as raised:
        read_configuration(WhereToLook({}, name))
    assert [mistake.problem for mistake in raised.value.mistakes] == [problem]
    assert raised.value.mistakes[0].hint == "correct --config"


def test_the_app_that_is_named_must_be_there_wherever_it_is_named(here: Path) -> None:
    for asked, hint in (
        (WhereToLook({"TIDEGATE_SERVICE_APP": "gone.py"}), "correct TIDEGATE_SERVICE_APP: name the Python file"),
        (WhereToLook({}, flags={("service", "app"): "gone.py"}), "name the Python file"),
    ):
        with pytest.raises(Mistakes, match=r"^serve gone.py: no such file") as raised:
            read_configuration(asked)
        assert raised.value.hint.startswith(hint)


APP = """
import threading
from msgspec import Struct
from tidegate import DurableObject, Secret

print("the app prints")
threading.Thread(target=threading.Event().wait).start()

class Settings(Struct):
    days: int
    key: Secret = Secret("")

class Till(DurableObject):
    settings: Settings
"""


def test_settings_of_the_app_are_checked_and_shown_by_importing_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "shop.py").write_text(APP)
    (here / "t.toml").write_text('[service]\napp = "shop.py"\n[app]\ndays = "x"\nkez = "hunter2"\n')
    assert main(["config", "check", "t.toml"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "t.toml [app] days: must be a whole number, not 'x' (correct the value)",
        "t.toml [app] kez: unknown option (did you mean key?)",
        "t.toml: 2 mistakes",
    ]
    assert main(["config", "check", "t.toml", "--no-app"]) == 0
    (here / "t.toml").write_text('[service]\napp = "shop.py"\n[app]\ndays = 3\nkey = "hunter2"\n')
    assert main(["config", "check", "t.toml"]) == 0
    capsys.readouterr()
    assert main(["config", "show", "t.toml", "--json"]) == 0
    text = capsys.readouterr().out
    told = {each["option"]: each for each in json.loads(text)["options"]}
    assert (told["app.days"]["value"], told["app.key"]["value"]) == (3, "***")
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("undefined", "importing it raised NameError: name 'undefined' is not defined (/"),
        ("raise SystemExit(3)", "importing it raised SystemExit: 3"),
        ("1 / 0", "shop.py:1)"),
        ("import os; os._exit(3)", "the process that imported it ended with 3, without a word"),
        ("", "has no object class; derive at least one class from tidegate.DurableObject"),
    ],
)
def test_an_app_that_cannot_be_imported_is_a_mistake(
    source: str, problem: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "shop.py").write_text(source)
    assert main(["config", "check", "--set", "service.app=shop.py"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{here}/shop.py: ")
    assert problem in first
    assert last == "no file: 1 mistake"


def test_credentials_are_read_and_a_broken_one_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "app.key").write_text("hunter2\n")
    (here / "other").write_text("x")
    found = read_configuration(WhereToLook({"CREDENTIALS_DIRECTORY": str(here)}))
    assert found.app.credentials == {"app.key": "hunter2"}
    (here / "app.wrong").mkdir()
    with pytest.raises(Mistakes, match=r"app.wrong: is a directory"):
        read_configuration(WhereToLook({"CREDENTIALS_DIRECTORY": str(here)}))


@pytest.mark.parametrize("cluster", ["u:word@a:1,u:word@b:2,u:word@c:3/shop", "u:wo,rd@a:1,u:wo/rd@b:2"])
def test_how_to_log_in_to_a_cluster_is_not_shown(here: Path, capsys: pytest.CaptureFixture[str], cluster: str) -> None:
    for command in (["config", "show", "t.toml", "--no-app"], ["config", "check", "t.toml"]):
        (here / "t.toml").write_text(f'[service]\napp = "gone.py"\ncluster = "{cluster}"\n')
        main(command)
        out, err = capsys.readouterr()
        shown = out + err
        assert "word" not in shown
        assert "wo,rd" not in shown
