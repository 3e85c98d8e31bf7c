import re
import tomllib
from pathlib import Path

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.supervisor.config import (
    CACHE_BYTES_MIN,
    OPTIONS,
    Config,
    Option,
    StorageConfig,
    cache_bytes,
    merge,
    parse_toml,
)


def test_later_values_win_and_others_stay() -> None:
    file = merge(Config(), {"service": {"workers": 4, "listen": "tcp://127.0.0.1:9"}}, "file")
    line = merge(file, {"service": {"workers": 8}}, "command line")
    assert line.service.workers == 8
    assert line.service.listen == "tcp://127.0.0.1:9"
    assert line.storage == Config().storage


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"service": {"workres": 4}}, r"read t.toml \[service\] workres: unknown option \(did you mean workers\?\)"),
        ({"storrage": {}}, r"read t.toml: unknown section \[storrage\] \(did you mean storage\?\)"),
        ({"zzz": {}}, r"unknown section \[zzz\] \(known are service, storage, log"),
        ({"service": 3}, "service is not a section"),
        ({"service": {"workers": 0}}, r"\[service\] workers: must be \"auto\" or a whole number from 1 to 4096, not 0"),
        ({"service": {"workers": "many"}}, 'must be "auto" or a whole number'),
        ({"service": {"workers": True}}, "whole number"),
        ({"service": {"routers": 0}}, r"\[service\] routers: must be \"auto\" or a whole number from 1 to 64, not 0"),
        ({"service": {"app": ""}}, "must be a text that is not empty, not ''"),
        ({"service": {"dev": 1}}, "must be true or false, not 1"),
        ({"service": {"listen": "7711"}}, "must be an endpoint such as tcp://127.0.0.1:7711"),
        ({"service": {"listen": "tcp://host:99999"}}, "must be an endpoint"),
        ({"service": {"liveness_s": 0}}, "must be a number of seconds from 1 to 3600, not 0"),
        ({"storage": {"cache_mib": 1.5}}, 'must be "auto" or a whole number of MiB from 0 to 1048576, not 1.5'),
        ({"log": {"level": "loud"}}, "must be one of debug, error, info, warning, not 'loud'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_the_next_step(values: dict[str, object], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        merge(Config(), values, "t.toml")  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "tcp://*:7711", "tcp://[::1]:7711", "ipc:///run/t.sock"])
def test_usual_endpoints_are_accepted(listen: str) -> None:
    assert merge(Config(), {"service": {"listen": listen}}, "x").service.listen == listen


def test_a_file_that_is_not_toml_is_refused_with_the_line() -> None:
    with pytest.raises(OperatorError, match=r"read t.toml: not TOML: .*line 2"):
        parse_toml("[service]\nworkers =\n", "t.toml")


def test_the_example_file_is_valid_and_explains_every_option_as_help_does_with_its_default() -> None:
    text = (Path(__file__).parents[3] / "systemd" / "tidegate.toml").read_text()
    merge(Config(), parse_toml(text, "tidegate.toml"), "tidegate.toml")
    everything = tomllib.loads(re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE))
    comments = {
        name: " ".join(comment.replace("#", "").split())
        for comment, name in re.findall(r"((?:^# .*\n)+)^#?(\w+) = ", text, flags=re.MULTILINE)
    }
    assert comments == {name: option.description for known in OPTIONS.values() for name, option in known.items()}
    for section, known in OPTIONS.items():
        assert list(everything[section]) == list(known)
        for name, value in everything[section].items():
            if name not in ("app", "data"):
                assert value == known[name].default, (section, name)


@pytest.mark.parametrize("option", [option for known in OPTIONS.values() for option in known.values()], ids=lambda o: str(o.name))
def test_every_option_says_what_it_takes_and_takes_its_default(option: Option) -> None:
    with pytest.raises(OperatorError, match=rf"^read t.toml {option.name}: must be [a-z\"].*, not \[1\] \(correct the value\)$"):
        option.read([1], "t.toml", from_text=False)
    if option.default:
        assert option.read(option.default, "t.toml", from_text=False) == option.default
        assert option.read(str(option.default), "t.toml", from_text=True) == option.default


def test_texts_are_numbers_on_a_command_line_and_nowhere_else() -> None:
    assert merge(Config(), {"service": {"workers": "8", "liveness_s": "2.5"}}, "x", from_text=True).service.workers == 8
    with pytest.raises(OperatorError, match=r"must be .* a whole number from 1 to 4096, not '8'"):
        merge(Config(), {"service": {"workers": "8"}}, "x")


def test_a_quarter_of_the_memory_is_dealt_to_the_workers_unless_it_is_said_how_much_each_gets() -> None:
    assert cache_bytes(StorageConfig(), 32 << 30, 4) == 2 << 30
    assert cache_bytes(StorageConfig(), 1 << 30, 64) == CACHE_BYTES_MIN
    assert cache_bytes(StorageConfig(cache_mib=3), 32 << 30, 4) == 3 << 20
    assert cache_bytes(StorageConfig(cache_mib=0), 32 << 30, 4) == 0
