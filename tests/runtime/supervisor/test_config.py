from __future__ import annotations

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.options.option import ValueRefused
from tidegate.runtime.options.reading import DEFAULT, Mistakes
from tidegate.runtime.options.words import shown
from tidegate.runtime.supervisor.config import (
    CACHE_BYTES_MIN,
    TABLE,
    Config,
    Configuration,
    Sources,
    StorageConfig,
    cache_bytes,
    merge,
    put_together,
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
        ({"service": 3}, r"read t.toml \[service\]: is a section, not a value"),
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


def test_every_option_takes_its_default_also_as_text() -> None:
    for option in TABLE.options():
        if option.default:
            assert option.read(option.default, from_text=False) == option.default
            assert option.read(shown(option.default).strip('"'), from_text=True) == option.default


def test_every_option_is_explained_and_says_what_it_takes() -> None:
    for option in TABLE.options():
        assert option.description.endswith((".", ".)")), option.path
        with pytest.raises(ValueRefused, match=r"^must be [a-z\"].*"):
            option.read([1], from_text=False)


def read(text: str = "", environment: dict[str, str] | None = None, **sets: str) -> Configuration:
    named = {key.replace("__", "."): value for key, value in sets.items()}
    return put_together(Sources("t.toml", text, environment or {}, named))


def origin(configuration: Configuration, *path: str) -> str:
    return configuration.origins.get(path, DEFAULT).shown()


def test_flags_go_before_set_before_variables_before_the_file_before_defaults() -> None:
    text = "[service]\nworkers = 2\nrouters = 2\nstop_s = 2\nreload_s = 2\n"
    variables = {"TIDEGATE_SERVICE_WORKERS": "3", "TIDEGATE_SERVICE_ROUTERS": "3", "TIDEGATE_SERVICE_STOP_S": "3"}
    sets = {"service.workers": "4", "service.routers": "4"}
    found = put_together(Sources("t.toml", text, variables, sets, {("service", "workers"): "5"}))
    service = found.config.service
    assert (service.workers, service.routers, service.stop_s, service.reload_s, service.liveness_s) == (5, 4, 3, 2, 30)
    assert [origin(found, "service", name) for name in ("workers", "routers", "stop_s", "reload_s", "liveness_s")] == [
        "flag --workers",
        "flag --set service.routers",
        "environment TIDEGATE_SERVICE_STOP_S",
        "file t.toml",
        "default",
    ]


def test_every_option_is_set_by_its_variable_and_by_set() -> None:
    found = read(
        environment={"TIDEGATE_LOG_LEVELS": '{asyncio = "debug"}', "TIDEGATE_SERVICE_DEV": "true"}, storage__cache_mib="7"
    )
    assert found.config.log.levels == {"asyncio": "debug"}
    assert found.config.service.dev is True
    assert found.config.storage.cache_mib == 7


def test_what_is_wrong_anywhere_is_told_together() -> None:
    with pytest.raises(Mistakes) as raised:
        read("[service]\nworkers = 0\n", {"TIDEGATE_STORAGE_CASH_MIB": "1", "TIDEGATE_LOG_LEVEL": "loud"}, service__workres="1")
    assert [mistake.shown() for mistake in raised.value.mistakes] == [
        "environment TIDEGATE_STORAGE_CASH_MIB: unknown option (did you mean TIDEGATE_STORAGE_CACHE_MIB?)",
        "command line --set service.workres: unknown option (did you mean --set service.workers?)",
        't.toml [service] workers: must be "auto" or a whole number from 1 to 4096, not 0 (correct the value)',
        "environment TIDEGATE_LOG_LEVEL: must be one of debug, error, info, warning, not 'loud' (correct the value)",
    ]


def test_variables_of_others_are_left_alone_and_one_without_its_section_is_noted() -> None:
    others = {
        "TIDEGATE_SERVICE_HOST": "h",
        "TIDEGATE_VERSION": "7",
        "TIDEGATE_SERVICE_WORKERS": "",
        "TIDEGATE_LOG": "{}",
        "X": "\udc80",
    }
    found = read(environment={**others, "TIDEGATE_WORKERS": "4"})
    assert found.config == Config()
    assert found.notes == ("TIDEGATE_WORKERS is heeded by nobody: the option is TIDEGATE_SERVICE_WORKERS",)


def test_a_quarter_of_the_memory_is_dealt_to_the_workers_unless_it_is_said_how_much_each_gets() -> None:
    assert cache_bytes(StorageConfig(), 32 << 30, 4) == 2 << 30
    assert cache_bytes(StorageConfig(), 1 << 30, 64) == CACHE_BYTES_MIN
    assert cache_bytes(StorageConfig(cache_mib=3), 32 << 30, 4) == 3 << 20
    assert cache_bytes(StorageConfig(cache_mib=0), 32 << 30, 4) == 0
