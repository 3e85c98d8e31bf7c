"""Traces of a real service, exported by OTLP over HTTP to a collector that listens for real."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import tidegate
from tests.support.service import Serve, exchange
from tests.support.waiting import wait_until

APP = str(Path(__file__).resolve().parents[2] / "tests" / "service" / "apps" / "traced.py")
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Collector(http.server.ThreadingHTTPServer):
    """What OTLP sends it, by the name of the span."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: set[str] = set()

    @property
    def spans(self) -> dict[str, list[dict[str, object]]]:
        found: dict[str, list[dict[str, object]]] = {}
        for request in list(self.requests):
            for resource in request.resource_spans:
                service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        ids = {"trace": span.trace_id, "id": span.span_id, "parent": span.parent_span_id}
                        row: dict[str, object] = {name: each.hex() for name, each in ids.items()}
                        found.setdefault(span.name, []).append({**row, "service": service})
        return found


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.add(self.path)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def traced_call(endpoint: str, options: dict[str, str], class_name: str, name: str, method: str, args: list[object]) -> object:
    status, result = exchange(endpoint, class_name, name, method, args, options)
    assert status == 0, result
    return result


def environment(collector: Collector) -> dict[str, str]:
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}


def test_a_trace_goes_through_two_workers_to_the_collector(serve: Serve, collector: Collector) -> None:
    service = serve(2, app=APP, environment=environment(collector))
    with tidegate.connect_sync(service.endpoint) as client:
        names = [f"n{at}" for at in range(20)]
        owner = {name: client.call("Traced", name, "pid") for name in names}
        here = names[0]
        there = next(name for name in names if owner[name] != owner[here])
    options = {"traceparent": PARENT}
    assert traced_call(service.endpoint, options, "Traced", here, "ask", [there]) == 0
    assert traced_call(service.endpoint, options, "Traced", here, "ask", [here + "-other"]) == 0

    def came(name: str) -> list[Any]:
        return collector.spans.get(name, [])

    wait_until(
        lambda: len(came("Traced.ask")) == len(came("Traced.add")) == 2,
        "spans at the collector",
        seen=lambda: str(collector.spans),
    )
    outer, inner = came("Traced.ask"), came("Traced.add")
    assert {row["trace"] for row in (*outer, *inner)} == {TRACE}
    assert {row["parent"] for row in outer} == {"b7ad6b7169203331"}
    assert {row["parent"] for row in inner} == {row["id"] for row in outer}
    assert {row["service"] for row in (*outer, *inner)} == {"tidegate"}
    assert collector.paths == {"/v1/traces"}


def test_what_is_not_exported_yet_is_when_the_service_stops(serve: Serve, collector: Collector) -> None:
    service = serve(1, app=APP, environment={**environment(collector), "OTEL_BSP_SCHEDULE_DELAY": "60000"})
    traced_call(service.endpoint, {"traceparent": PARENT}, "Traced", "a", "add", [])
    assert service.stop() == 0
    assert list(collector.spans) == ["Traced.add"]


def test_a_collector_that_is_not_there_disturbs_no_call_and_no_stop(serve: Serve) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    service = serve(1, app=APP, environment=settings)
    service.expect("opentelemetry|HTTPConnectionPool|Traceback|urllib3|requests|Connection")
    for at in range(50):
        assert traced_call(service.endpoint, {"traceparent": PARENT}, "Traced", "a", "add", []) == at
    assert service.stop() == 0
