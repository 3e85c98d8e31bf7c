"""A service that runs is configured anew: by `tidegate reload`, SIGHUP and `tidegate restart --rolling`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import KILLED_BY_TEST, Serve, Service
from tests.support.waiting import wait_until

APP = """
import logging
from tidegate import DurableObject

class Teller(DurableObject):
    async def tell(self) -> int:
        logging.getLogger("shop").debug("told")
        return 1
"""


def command(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "tidegate", *arguments, "--connect", service.endpoint]
    return subprocess.run(whole, capture_output=True, text=True, timeout=90)


def ended(service: Service, *arguments: str) -> dict[str, Any]:
    done = command(service, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def options(service: Service) -> dict[str, dict[str, Any]]:
    return {each["option"]: each for each in ended(service, "config", "show", "--running")["options"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    path = tmp_path / "tidegate.toml"
    path.write_text("[service]\nrouters = 1\nstop_s = 8\n")
    return path


def served(serve: Serve, file: Path) -> Service:
    return serve(1, "--config", str(file), app=str(file.parent / "shop.py"))


def test_a_reload_takes_what_is_configured_now_and_says_what_it_cannot(serve: Serve, file: Path) -> None:
    service = served(serve, file)
    before = options(service)
    assert before["service.stop_s"]["value"] == 8.0
    assert before["service.stop_s"]["origin"] == {"source": "file", "place": str(file)}
    assert before["service.workers"]["origin"]["place"] == "--workers"
    file.write_text('[service]\nrouters = 2\nstop_s = 7\nbudget_mib = 300\n[log]\nlevels = {shop = "debug"}\n')
    told = ended(service, "reload")["config"]
    assert [each["option"] for each in told["changed"]] == ["service.stop_s", "log.levels"]
    assert told["changed"][0] == {"option": "service.stop_s", "before": 8.0, "after": 7.0, "takes": "tidegate reload"}
    assert [(each["option"], each["takes"]) for each in told["waiting"]] == [
        ("service.routers", "a stop and a start"),
        ("service.budget_mib", "tidegate restart --rolling"),
    ]
    assert service.call("Teller", "a", "tell") == 1
    service.wait_for_output("DEBUG .*told")
    told = ended(service, "restart", "--rolling")["config"]
    assert [each["option"] for each in told["changed"]] == ["service.budget_mib"]
    after = options(service)
    assert (after["service.budget_mib"]["value"], after["service.budget_mib"]["waits"]) == (300, None)
    assert (after["service.routers"]["value"], after["service.routers"]["waits"]) == (1, 2)
    shown = command(service, "config", "show", "--running").stdout
    assert "service.routers = 2 takes a stop and a start" in shown
    waits = {"option": "service.routers", "before": 1, "after": 2, "takes": "a stop and a start"}
    assert json.loads(command(service, "status", "--json").stdout)["config_waits"] == [waits]
    assert "service.routers = 2 is set, 1 in effect: it takes a stop and a start" in command(service, "status").stdout


def test_a_wrong_configuration_changes_nothing_and_is_a_problem_until_it_is_right(serve: Serve, file: Path) -> None:
    service = served(serve, file)
    service.expect("reload refused")
    pids = service.worker_pids()
    file.write_text("[service]\nstop_s = 0\nworkres = 1\n")
    done = command(service, "reload")
    assert done.returncode == 1
    assert "2 mistakes" in done.stderr
    assert f"{file} [service] workres: unknown option (did you mean workers?)" in done.stderr
    assert service.worker_pids() == pids
    assert service.status()["state"] == "degraded"
    [problem] = service.status()["problems"]
    assert problem["what"].startswith(f"the last reload failed: 2 mistakes; {file} [service] ")
    assert f"; {file} [service] workres: unknown option (did you mean workers?)" in problem["what"]
    assert "\\n" not in problem["what"]
    assert problem["next"].endswith("; then: tidegate reload")
    file.unlink()
    os.kill(service.supervisor_pid, signal.SIGHUP)
    service.wait_for_output("reload refused: .*No such file or directory")
    file.write_text("[service]\nstop_s = 6\n")
    os.kill(service.supervisor_pid, signal.SIGHUP)
    service.wait_for_output("service.stop_s becomes 6.0, it is 8.0")
    wait_until(lambda: options(service)["service.stop_s"]["value"] == 6.0, "the end of the reload")
    wait_until(lambda: service.status()["state"] == "serving", "the end of the problem")


def test_an_app_that_cannot_be_loaded_takes_its_configuration_back_with_it(serve: Serve, file: Path) -> None:
    service = served(serve, file)
    service.expect("reload failed", "NameError", "Traceback")
    (file.parent / "shop.py").write_text("undefined\n")
    file.write_text("[service]\nstop_s = 7\n")
    assert command(service, "reload").returncode == 1
    assert options(service)["service.stop_s"]["value"] == 8.0
    service.expect(KILLED_BY_TEST)
    service.expect("changed on disk since it was loaded")
    os.kill(service.worker_pids()[0], signal.SIGKILL)
    service.wait_for_output("worker 0 is ready again")
    assert service.call("Teller", "a", "tell") == 1
    assert options(service)["service.stop_s"]["value"] == 8.0


SETTINGS = """
import os
from msgspec import Struct
from tidegate import DurableObject, Secret

class Settings(Struct, frozen=True):
    days: int = 3
    key: Secret = Secret("")

class Till(DurableObject):
    settings: Settings

    def __init__(self) -> None:
        self.days = self.settings.days

    async def told(self) -> list[object]:
        return [self.days, str(self.settings.key), [name for name in os.environ if name.startswith("TIDEGATE_APP")]]
"""


def test_objects_have_the_settings_that_are_set_and_a_reload_brings_others(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SETTINGS)
    file = tmp_path / "tidegate.toml"
    file.write_text("[app]\ndays = 4\n")
    service = serve(1, "--config", str(file), app=str(tmp_path / "shop.py"), start=False)
    service.environment["TIDEGATE_APP_KEY"] = "hunter2"
    service.start(1, "--config", str(file))
    assert service.call("Till", "a", "told") == [4, "hunter2", []]
    file.write_text("[app]\ndays = 5\n")
    told = ended(service, "reload")["config"]
    assert told["changed"] == [{"option": "app.days", "before": 4, "after": 5, "takes": "tidegate reload"}]
    assert service.call("Till", "a", "told") == [5, "hunter2", []]
    service.expect("reload failed")
    file.write_text("[app]\ndays = 'x'\n")
    done = command(service, "reload")
    assert done.returncode == 1
    assert f"read {file} [app] days: must be a whole number, not 'x'" in done.stderr
    assert service.call("Till", "a", "told") == [5, "hunter2", []]
    shown = options(service)
    assert (shown["app.days"]["value"], shown["app.key"]["value"]) == (5, "***")
    assert shown["app.key"]["origin"] == {"source": "environment", "place": "TIDEGATE_APP_KEY"}
    assert "hunter2" not in service.output
