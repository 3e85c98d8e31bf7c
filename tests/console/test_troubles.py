"""What an operator sees of a service that has troubles, or is gone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console.browser import Browser
from tests.console.conftest import OF_THE_SHOP, SHOP
from tests.console.console_process import ConsoleProcess
from tests.support.service import KILLED_BY_TEST, Serve, Service, exchange
from tests.support.waiting import wait_until


@pytest.fixture
def broken(serve: Serve) -> Service:
    service = serve(2, app=SHOP)
    service.expect(*OF_THE_SHOP, KILLED_BY_TEST, "Printer", "exited with code 3", "shard_lost")
    return service


@pytest.fixture
def page(chromium: Browser, broken: Service) -> Iterator[Browser]:
    with ConsoleProcess(broken.endpoint) as console:
        chromium.open(console.link)
        chromium.wait_for("Hottest objects")
        yield chromium
    chromium.complaints()


def test_an_object_in_quarantine_is_the_first_thing_that_is_seen_and_is_released(page: Browser, broken: Service) -> None:
    def is_in_quarantine() -> bool:
        exchange(broken.endpoint, "Printer", "hall", "jam", [])
        return "Printer/hall" in page.text("#problems")

    wait_until(is_in_quarantine, "quarantine")
    assert page.script("return document.querySelector('main').firstElementChild.id") == "problems"
    assert "problem" in page.text("#state")
    page.wait_for("Next:", "#problems")
    page.wait_for("1", "nav a[href='#/quarantine'] .count")
    page.click("nav a", "Quarantine")
    page.click("main a", "Printer/hall")
    page.wait_for("In quarantine", ".problem")
    page.click(".problem button", "Release")
    page.click("dialog button", "Release")
    page.wait_for("Released", "#toast")
    wait_until(lambda: "In quarantine" not in page.text("main"), "its release")


def test_a_worker_that_does_not_answer_is_named_and_marked_on_the_map(page: Browser, broken: Service) -> None:
    pid = broken.worker_pid(1)
    os.kill(pid, signal.SIGSTOP)
    try:
        page.wait_for("worker 1", "#problems")
        page.wait_for("silent for", "#cores .is-bad")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not page.text("#problems"), "its return")
    assert not page.all("#cores .is-bad")


def test_a_service_that_stops_ends_and_comes_back_is_said_and_the_page_goes_on(page: Browser, broken: Service) -> None:
    broken.expect("unanswered at its end")  # On a slow machine.
    asking = threading.Thread(target=exchange, args=(broken.endpoint, "Invoice", "long", "render", [40]))
    asking.start()
    page.wait_for("Invoice", "#classes")
    wait_until(
        lambda: any(each["statistics"].get("tasks") for each in broken.status()["processes"] if "statistics" in each), "it"
    )
    broken.supervisor.terminate()
    page.wait_for("The service is stopping.", "#banner")
    page.wait_for("The service does not answer.", "#banner")
    assert "no answer" in page.text("#state")
    page.wait_for("Hottest objects")
    asking.join()
    assert broken.wait() == 0
    broken.start(2)
    wait_until(lambda: not page.text("#banner"), "an empty banner")
    page.wait_for("serving", "#state")


def test_a_console_that_ends_is_said_and_the_page_tries_again(chromium: Browser, broken: Service, tmp_path: Path) -> None:
    console = ConsoleProcess(broken.endpoint)
    chromium.open(console.link)
    chromium.wait_for("Hottest objects")
    console.stop()
    chromium.wait_for("The console does not answer.", "#banner")
    chromium.wait_for("Hottest objects")
    chromium.complaints()
