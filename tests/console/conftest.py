"""A service, its console, customers, and a browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console.browser import Browser, browser
from tests.console.console_process import ConsoleProcess
from tests.console.customers import Customers
from tests.support.service import Service, services_in
from tests.support.service import serve as serve

KEEPS = os.environ.get("TIDEGATE_SCREENSHOTS") == "1"
"""Whether pictures of the documentation are made anew."""
SHOP = str(Path(__file__).with_name("shop.py"))
OF_THE_SHOP = ("PaymentRefused", "Traceback", "waited behind its gate")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with services_in(tmp_path_factory.mktemp("shop")) as serve:
        service = serve(2, app=SHOP, environment={"TIDEGATE_LOG_SLOW_CALL_S": "0.1"})
        service.expect(*OF_THE_SHOP)
        yield service


@pytest.fixture(scope="module")
def console(shop: Service) -> Iterator[ConsoleProcess]:
    with ConsoleProcess(shop.endpoint) as console:
        yield console


@pytest.fixture(scope="module")
def customers(shop: Service) -> Iterator[Customers]:
    with Customers(shop.endpoint, 0.003 if KEEPS else 0.02) as customers:
        yield customers


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened
