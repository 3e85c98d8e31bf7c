"""The page of timeouts has the numbers of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tidegate.runtime import limits
from tidegate.runtime.client import machine as client_machine
from tidegate.runtime.client import shell
from tidegate.runtime.sockets import dealer
from tidegate.runtime.supervisor.config import ServiceConfig, StorageConfig
from tidegate.shard.core import alarms

PAGE = (Path(__file__).parents[2] / "docs" / "timeouts.md").read_text()
ROWS = {row[0].strip(): row[1].strip() for row in re.findall(r"^\| ([^|]+) \| ([^|]+) \|", PAGE, re.MULTILINE)}


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [
        ("a connection to a service that has not been there yet", limits.CONNECT_TIMEOUT_S),
        ("a reply", shell.TIMEOUT_S),
        ("a link to a worker", client_machine.CONNECT_S),
        ("a peer whose machine stopped, or to which the way was cut, or that reads nothing of what is sent", dealer._LOST_S),
        ("a call for a worker that is being started", limits.WAIT_START_S),
        ("a call for a worker that fails again and again", limits.WAIT_DOWN_S),
        ("a critical section, counted from when its body starts", limits.SECTION_TIMEOUT_S),
        ("an open transaction, a start (`on_start`)", limits.SECTION_TIMEOUT_S),
        ("an object without calls, tasks or held messages", StorageConfig().idle_evict_s),
        ("code of an object that does not let others run", ServiceConfig().held_up_s),
        ("a function that an object has offloaded", ServiceConfig().offload_s),
        ("a process that does not answer", ServiceConfig().liveness_s),
        ("a worker that is replaced (`tidegate reload`): the calls that it has begun", ServiceConfig().reload_s),
        ("a stop: answering what is in flight, then checkpoints", ServiceConfig().stop_s),
    ],
)
def test_the_page_of_timeouts_has_the_numbers_of_the_code(wait: str, seconds: float) -> None:
    assert ROWS[wait] == f"{seconds:g}"


def test_the_page_of_timeouts_has_the_alarms_first_retries() -> None:
    assert ROWS["an alarm whose handler raised"] == ", ".join(f"{alarms.RETRY_FIRST_US * 2**n // 10**6}" for n in range(3)) + " …"
