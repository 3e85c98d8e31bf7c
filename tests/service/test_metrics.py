"""Metrics of a real service, as Prometheus, its rules and Grafana's dashboard see them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.service import KILLED_BY_TEST, Serve, Service, exchange
from tests.support.waiting import WITHIN_S, wait_until
from tidegate.runtime.addresses import free_port
from tidegate.runtime.metrics.catalogue import CATALOGUE, CLUSTER

ROOT = Path(__file__).resolve().parents[2]
APP = str(ROOT / "tests" / "service" / "apps" / "measured.py")
MONITORING = ROOT / "systemd" / "monitoring"
ALERTS = MONITORING / "tidegate-alerts.yml"
DASHBOARD = MONITORING / "tidegate-dashboard.json"
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")), reason="needs promtool and prometheus (package prometheus)"
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Watched:
    """A service, and where it is watched."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.port = port

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def samples(self) -> Samples:
        status, text = self.get("/metrics")
        assert status == 200
        families = text_string_to_metric_families(text)
        return {(each.name, tuple(sorted(each.labels.items()))): each.value for family in families for each in family.samples}

    def value(self, name: str, **labels: str) -> float:
        return self.samples().get((f"tidegate_{name}", tuple(sorted(labels.items()))), 0.0)

    def wait_for(self, expected: Callable[[Samples], object], what: str) -> Samples:
        """Processes tell every two seconds what they have counted."""
        found: list[Samples] = [{}]

        def looked() -> bool:
            found[0] = self.samples()
            return bool(expected(found[0]))

        wait_until(looked, what, seen=lambda: str(found[0])[:4_000])
        return found[0]


Watch = Callable[..., Watched]


@pytest.fixture
def watch(serve: Serve, tmp_path: Path) -> Watch:
    def start(workers: int = 2, *options: str, **keywords: Any) -> Watched:
        port = free_port()
        config = tmp_path / "tidegate.toml"
        config.write_text(f'[metrics]\nlisten = "127.0.0.1:{port}"\n[service]\nheld_up_s = 1.0\n')
        return Watched(serve(workers, "--config", str(config), *options, app=APP, **keywords), port)

    return start


def some_of_everything(watched: Watched) -> None:
    service = watched.service
    for at in range(20):
        service.call("Shop", f"shop-{at % 4}", "sell")
    service.call("Shop", "shop-0", "look")
    service.call("Shop", "shop-0", "alone")
    service.call("Shop", "shop-1", "remind")
    service.expect("raised: ValueError", "Traceback")
    assert exchange(service.endpoint, "Shop", "shop-0", "fail")[0] == 1
    assert exchange(service.endpoint, "Nobody", "x", "look")[0] == 1
    assert exchange(service.endpoint, "Elsewhere", "x", "look")[0] == 1
    assert exchange(service.endpoint, "Shop", "", "look")[0] == 1


def test_one_scrape_has_every_metric_of_the_catalogue_and_promtool_finds_nothing_wrong(watch: Watch) -> None:
    watched = watch()
    some_of_everything(watched)
    calls = ("tidegate_calls_total", (("class", "Shop"),))
    samples = watched.wait_for(lambda samples: samples.get(calls, 0) >= 25, "calls that are counted")
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name, _ in samples}
    assert {metric.name for metric in CATALOGUE.values() if metric not in CLUSTER} <= families | {name for name, _ in samples}

    def value(name: str, **labels: str) -> float:
        return samples[f"tidegate_{name}", tuple(sorted(labels.items()))]

    assert value("calls_total", **{"class": "Idle"}) == 0, "a class that nobody has called is there too"
    assert value("call_errors_total", **{"class": "Shop"}, code="exception") == 1
    assert value("call_errors_total", **{"class": "(unknown)"}, code="unknown_class") == 2
    assert value("router_errors_total", process="router", code="bad_request") == 1
    assert value("call_answer_seconds_count", **{"class": "Shop"}) >= 24
    assert value("gate_closed_seconds_count", **{"class": "Shop"}) >= 1
    assert sum(count for (name, _), count in samples.items() if name == "tidegate_alarms_total") == 1
    assert {dict(labels)["process"] for name, labels in samples if name == "tidegate_process_up"} == {
        "supervisor", "router", "worker 0", "worker 1",
    }  # fmt: skip
    if shutil.which("promtool"):
        check = subprocess.run(["promtool", "check", "metrics"], input=watched.get("/metrics")[1], text=True, capture_output=True)
        assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_no_name_that_somebody_outside_chooses_becomes_a_series(watch: Watch) -> None:
    watched = watch(1)
    some_of_everything(watched)
    calls = ("tidegate_calls_total", (("class", "Shop"),))
    before = len(watched.wait_for(lambda samples: samples.get(calls, 0) >= 25, "calls that are counted"))
    for at in range(50):
        exchange(watched.service.endpoint, f"Class{at}", f"name{at}", f"method{at}")
        exchange(watched.service.endpoint, "Shop", f"secret-{at}", f"method{at}")
    unknown = ("tidegate_call_errors_total", (("class", "(unknown)"), ("code", "unknown_class")))
    samples = watched.wait_for(lambda samples: samples.get(unknown, 0) >= 52, "errors that are counted")
    assert len(samples) <= before + 5, "classes and codes, not names"
    text = watched.get("/metrics")[1]
    assert not re.search(r"Class\d|secret|name\d|method\d|shop-\d", text)


def test_sums_do_not_go_back_when_a_worker_is_killed_or_replaced(watch: Watch) -> None:
    watched = watch()
    service = watched.service
    service.expect(KILLED_BY_TEST)
    some_of_everything(watched)
    calls = ("tidegate_calls_total", (("class", "Shop"),))
    before = watched.wait_for(lambda samples: samples.get(calls, 0) >= 25, "calls that are counted")
    os.kill(service.worker_pid(0), signal.SIGKILL)
    restarts = ("tidegate_process_restarts_total", (("process", "worker 0"),))
    after = watched.wait_for(lambda samples: samples.get(restarts, 0) == 1, "a restart that is counted")
    sums = [key for key in before if key[0].endswith(("_total", "_count", "_bucket")) and "process_cpu" not in key[0]]
    assert not {key: (before[key], after.get(key)) for key in sums if after.get(key, 0) < before[key]}
    for at in range(10):
        service.call("Shop", f"shop-{at}", "look")
    counted = watched.wait_for(lambda samples: samples[calls] >= before[calls] + 10, "calls of the new process beside the old's")
    code = subprocess.run([*service.command, "reload", "--connect", service.endpoint], capture_output=True, cwd=ROOT).returncode
    assert code == 0
    replaced = watched.samples()
    assert replaced[calls] >= counted[calls], "a worker that leaves in order tells its last counts"


def test_health_is_told_from_the_start_to_the_stop(watch: Watch) -> None:
    watched = watch(1, start=False)
    watched.service.launch(1, "--config", str(watched.service.data.parent / "tidegate.toml"))

    def first() -> tuple[int, str] | None:
        with contextlib.suppress(OSError):
            return watched.get("/readyz")
        return None

    answer = wait_until(first, "the first answer")
    assert answer is not None
    status, text = answer
    assert status in (200, 503)
    assert status == 200 or "starting" in text
    watched.service.wait_for_output("is ready on")
    assert watched.get("/livez") == (200, "ok\n")
    wait_until(lambda: watched.get("/readyz")[0] == 200, "readiness")
    assert watched.get("/nothing")[0] == 404
    assert watched.value("ready") == 1
    os.kill(watched.service.worker_pid(0), signal.SIGSTOP)
    try:
        wait_until(lambda: watched.value("process_last_answer_seconds", process="worker 0") > 2.5, "a worker that is silent")
        assert watched.get("/livez")[0] == 200
    finally:
        os.kill(watched.service.worker_pid(0), signal.SIGCONT)


def test_an_address_that_is_taken_stops_the_start_with_the_option_that_names_it(watch: Watch, serve: Serve) -> None:
    watched = watch(1)
    config = watched.service.data.parent / "tidegate.toml"
    other = serve(1, "--config", str(config), app=APP, data=watched.service.data.parent / "other", start=False)
    other.launch(1, "--config", str(config))
    assert other.wait() == 1
    assert re.search(r"listen \[metrics\] listen 127.0.0.1:\d+: Address already in use \(choose another", other.output)
    other.expect(".*")


def test_without_the_section_nothing_listens_and_nothing_of_prometheus_is_loaded(serve: Serve) -> None:
    service = serve(1)
    connections = psutil.Process(service.supervisor.pid).net_connections("tcp")
    assert {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN} <= {int(service.endpoint[-5:])}
    modules = (
        "tidegate.runtime.cli.cli, tidegate.runtime.supervisor.supervisor, tidegate.shard.worker.worker, tidegate.router.server"
    )
    code = f"import sys, {modules}; print([name for name in sys.modules if 'prometheus' in name or 'opentelemetry' in name])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert loaded.stdout == "[]\n", loaded


# Files for Prometheus and Grafana


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\btidegate_[a-z_]+", expression))


def dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def known_names() -> set[str]:
    """Of samples."""
    names = set()
    for metric in CATALOGUE.values():
        names |= {f"{metric.name}{end}" for end in ("_bucket", "_sum", "_count")} if metric.bounds else {metric.name}
    return names


def test_rules_and_dashboard_name_no_metric_that_is_not_there() -> None:
    rules = names_in(re.sub(r"(?m)^ *(description|summary):.*|^#.*", "", ALERTS.read_text()))
    shown = set().union(*map(names_in, dashboard_expressions()))
    assert rules
    assert shown
    assert rules <= known_names()
    assert shown <= known_names()


def test_every_panel_says_what_it_shows_and_has_a_place_of_its_own() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    places: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        if panel["type"] != "row":
            assert len(panel["description"]) > 10, panel["title"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in places, (panel["title"], places[x, y])
                places[x, y] = panel["title"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@needs_prometheus
def test_promtool_finds_the_rules_right_and_each_fires_when_it_should() -> None:
    check = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True)
    alerts = len(re.findall(r"(?m)^ *- alert:", ALERTS.read_text()))
    assert f"{alerts} rules found" in check.stdout, check.stdout + check.stderr
    cases = ROOT / "tests" / "service" / "alerts.yml"
    assert f"value: {alerts}" in cases.read_text(), "all of them fire at once in one of the cases"
    tested = subprocess.run(["promtool", "test", "rules", cases.name], capture_output=True, text=True, cwd=cases.parent)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@contextlib.contextmanager
def prometheus(folder: Path, target: int) -> Iterator[Callable[[str], Any]]:
    """A real one, that scrapes every second and knows the rules: asks it for a path of its API."""
    port = free_port()
    folder.mkdir()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [{"job_name": "tidegate", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # Which is YAML.
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def is_up() -> bool:
        with contextlib.suppress(OSError):
            return any(each["health"] == "up" for each in ask("targets")["activeTargets"])
        return False

    try:
        wait_until(is_up, "a scrape", 60.0, seen=lambda: (folder / "log").read_text()[-2_000:])
        yield ask
    finally:
        process.terminate()
        process.wait(WITHIN_S)


@needs_prometheus
def test_a_real_prometheus_scrapes_it_and_answers_every_expression_of_rules_and_dashboard(watch: Watch, tmp_path: Path) -> None:
    watched = watch()
    some_of_everything(watched)
    watched.wait_for(lambda samples: samples.get(("tidegate_calls_total", (("class", "Shop"),)), 0) >= 25, "calls")
    with prometheus(tmp_path / "prometheus", watched.port) as ask:

        def query(expression: str) -> list[Any]:
            found: list[Any] = ask(f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
            return found

        wait_until(lambda: query("tidegate_calls_total{class='Shop'}"), "a sample")
        for _ in range(3):
            some_of_everything(watched)
        wait_until(lambda: query("rate(tidegate_calls_total{class='Shop'}[1m]) > 0"), "a rate", 60.0)
        rules = ask("rules")["groups"][0]["rules"]
        assert len(rules) == 20
        for rule in rules:
            query(rule["query"])
        wait_until(lambda: all(rule["health"] == "ok" for rule in ask("rules")["groups"][0]["rules"]), "rules that are judged")
        firing = [each["labels"]["alertname"] for each in ask("alerts")["alerts"] if each["state"] == "firing"]
        assert firing == []
        empty = []
        for expression in dashboard_expressions():
            if "tidegate_cluster_" in expression:
                continue  # See tests/service/test_cluster_metrics.py.
            shown = expression.replace("$instance", ".*").replace("$class", ".*").replace("$__rate_interval", "1m")
            if not query(shown):
                empty.append(shown)
        assert empty == [], "each panel shows something of a service that is used"
