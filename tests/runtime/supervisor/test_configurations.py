"""Which generation of processes gets which configuration, and what becomes of one that is read anew."""

from __future__ import annotations

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.supervisor.config import Configuration, Sources, put_together
from tidegate.runtime.supervisor.configurations import Configurations
from tidegate.runtime.wire.commands import ConfigChange, ConfigChanges
from tidegate.runtime.wire.supervisor_messages import Failed


def read(text: str) -> Configuration:
    return put_together(Sources("t.toml", text))


class Files:
    """What stands in the file now."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.configurations = Configurations(read(text), self.read)

    def read(self) -> Configuration:
        return read(self.text)

    def reload(self, generation: int, text: str, *, routers: bool = False) -> ConfigChanges:
        self.text = text
        changes = self.configurations.begin(generation, generation - 1, routers)
        assert isinstance(changes, ConfigChanges)
        return changes


FIRST = "[service]\nworkers = 2\nstop_s = 9\n"
OTHER = "[service]\nworkers = 4\nstop_s = 5\nbudget_mib = 300\n"


def test_a_reload_brings_into_effect_what_it_can_and_names_the_rest() -> None:
    files = Files(FIRST)
    changes = files.reload(1, OTHER)
    assert changes.changed == (ConfigChange("service.stop_s", 9.0, 5.0, "tidegate reload"),)
    assert changes.waiting == (
        ConfigChange("service.workers", 2, 4, "a stop and a start"),
        ConfigChange("service.budget_mib", "auto", 300, "tidegate restart --rolling"),
    )
    service = files.configurations.of(1).config.service
    assert (service.workers, service.stop_s, service.budget_mib) == (2, 5.0, "auto")
    assert files.configurations.now.config.service.stop_s == 9.0, "not before the reload is over"
    files.configurations.is_in_effect(1)
    assert files.configurations.now.config.service.stop_s == 5.0
    assert files.configurations.changes(1) == changes


def test_a_rolling_restart_takes_what_routers_have_to_know_too() -> None:
    files = Files(FIRST)
    changes = files.reload(1, OTHER, routers=True)
    assert [each.option for each in changes.changed] == ["service.stop_s", "service.budget_mib"]
    assert [each.option for each in changes.waiting] == ["service.workers"]


def test_a_reload_that_follows_a_restart_at_once_keeps_what_only_a_restart_takes() -> None:
    files = Files(FIRST)
    files.reload(1, OTHER, routers=True)
    assert files.reload(2, OTHER).changed == ()
    assert files.configurations.of(2).config.service.budget_mib == 300


def test_what_waits_is_shown_until_it_is_in_effect_or_set_back() -> None:
    files = Files(FIRST)
    for generation, text, waits in ((1, OTHER, 4), (2, OTHER, 4), (3, FIRST, None)):
        files.reload(generation, text)
        files.configurations.is_in_effect(generation)
        shown = {each.option: each for each in files.configurations.shown()}
        assert shown["service.workers"].value == 2
        assert shown["service.workers"].waits == waits
        assert shown["service.stop_s"].value == (5.0 if text == OTHER else 9.0)
        assert shown["service.stop_s"].waits is None
        assert shown["service.stop_s"].origin.place == "t.toml"


def test_an_option_that_is_not_set_any_more_is_by_default_again() -> None:
    files = Files(FIRST)
    files.reload(1, "[service]\nworkers = 2\n")
    files.configurations.is_in_effect(1)
    shown = {each.option: each for each in files.configurations.shown()}
    assert (shown["service.stop_s"].value, shown["service.stop_s"].origin.source) == (9.0, "default")
    assert shown["service.workers"].origin.source == "file"


def test_one_that_cannot_be_read_is_the_failure_of_the_reload_and_changes_nothing() -> None:
    files = Files(FIRST)
    files.text = "[service]\nstop_s = 0\n"
    failed = files.configurations.begin(1, 0, False)
    assert isinstance(failed, Failed)
    assert (failed.operation, failed.place) == ("read", "t.toml [service] stop_s")
    assert files.configurations.now.config.service.stop_s == 9.0
    assert files.configurations.waits() == ()


def test_generations_that_nobody_runs_are_forgotten_and_the_one_in_effect_never() -> None:
    files = Files(FIRST)
    for generation in (1, 2, 3):
        files.reload(generation, OTHER)
    files.configurations.is_in_effect(2)
    files.configurations.keep_only({3})
    assert files.configurations.of(2).config == files.configurations.of(3).config
    assert files.configurations.changes(1) == ConfigChanges()


def test_without_anything_to_read_again_all_generations_have_the_first_one() -> None:
    configurations = Configurations(read(OTHER))
    assert configurations.begin(1, 0, False) == ConfigChanges()
    assert configurations.of(1).config == configurations.of(0).config


def test_an_operator_error_of_any_kind_is_told_whole() -> None:
    def gone() -> Configuration:
        raise OperatorError("serve", "gone.py", "no such file", "name it")

    assert Configurations(read(FIRST), gone).begin(1, 0, False) == Failed("serve", "gone.py", "no such file", "name it")
