"""A service under a little load, its console, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console.browser import Browser, browser
from tests.console.console_process import ConsoleProcess
from tests.support.service import Service, services_in

SHOP = str(Path(__file__).with_name("shop.py"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with services_in(tmp_path_factory.mktemp("shop")) as serve:
        service = serve(2, app=SHOP, environment={"TIDEGATE_LOG_SLOW_CALL_S": "0.1"})
        service.expect("PaymentRefused", "Traceback", "waited behind its gate")
        yield service


@pytest.fixture(scope="module")
def console(shop: Service) -> Iterator[ConsoleProcess]:
    with ConsoleProcess(shop.endpoint) as console:
        yield console


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened
