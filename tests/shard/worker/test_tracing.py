"""When a worker traces, and to whom: the app's own provider, what the environment names, or nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.shard.worker.tracing import wanted

ROOT = Path(__file__).resolve().parents[3]
PRINT = """
import sys
import os
from tidegate.shard.worker.tracing import start_tracing
tracing = start_tracing(os.environ)
provider = None if tracing is None else tracing._provider
exporter = None
if provider is not None:
    processors = provider._active_span_processor._span_processors
    exporter = [type(getattr(each, "span_exporter", None) or each._batch_processor._exporter).__name__ for each in processors]
imported = "opentelemetry.sdk" in sys.modules or "opentelemetry.trace" in sys.modules
print(exporter, imported)
"""
APP = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
"""


def started(environment: dict[str, str], app: str = "", *, installed: bool = True) -> tuple[str, str]:
    """What a process says that begins with this environment, having loaded that app."""
    hide = "" if installed else "import sys\nsys.modules['opentelemetry'] = None\n"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", hide + app + PRINT], env={**plain, **environment}, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_nobody_traces_and_nothing_is_imported_unless_it_is_asked_for() -> None:
    assert started({})[0] == "None False"
    assert started({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})[0] == "None False"
    assert started({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})[0] == "None False"


def test_an_endpoint_in_the_environment_is_exported_to() -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        assert started({name: "http://127.0.0.1:1"})[0] == "['OTLPSpanExporter'] True"
    assert started({"OTEL_TRACES_EXPORTER": "console"})[0] == "['ConsoleSpanExporter'] True"


def test_the_provider_of_the_app_goes_before_the_environment() -> None:
    assert started({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, APP)[0] == "['ConsoleSpanExporter'] True"
    assert started({}, APP)[0] == "['ConsoleSpanExporter'] True"
    assert started({}, "import opentelemetry.trace")[0] == "None True"


def test_what_is_asked_for_and_not_there_is_said_with_what_to_install() -> None:
    said, log = started({"OTEL_TRACES_EXPORTER": "smoke-signals"})
    assert said.startswith("None")
    assert "no exporter 'smoke-signals' is installed (" in log
    said, log = started({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, installed=False)
    assert said.startswith("None")
    assert "pip install 'tidegate[traces]'" in log


@pytest.mark.parametrize(
    ("environment", "answer"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": " "}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_the_environment_says_whether_traces_are_wanted(environment: dict[str, str], answer: bool) -> None:
    assert wanted(environment) is answer
