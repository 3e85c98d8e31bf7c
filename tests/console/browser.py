"""A real headless Chromium."""

from __future__ import annotations

import base64
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.support.waiting import WITHIN_S, wait_until

OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-proxy-server")
"""`--no-sandbox`: it only sees pages of ours, and tests run as root, who has none."""


class Browser:
    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, link: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """As a new tab does, which has kept nothing."""
        self.look(width, height, dark=dark)
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": link.partition("/#")[0], "storageTypes": "all"})
        self.driver.get(link)
        self.driver.execute_script("sessionStorage.length")

    def look(self, width: int, height: int, *, dark: bool) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def go(self, fragment: str) -> None:
        """Within the page."""
        self.driver.execute_script("location.hash = arguments[0]", fragment)

    def text(self, selector: str = "body") -> str:
        """Empty where there is no such thing."""
        with contextlib.suppress(StaleElementReferenceException):
            found = self.all(selector)
            return found[0].text if found else ""
        return ""

    def all(self, selector: str) -> list[WebElement]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def wait_for(self, text: str, selector: str = "body", within_s: float = WITHIN_S) -> str:
        """The text of the first such element, once it has this in it."""

        def found() -> str:
            told = self.text(selector)
            return told if text in told else ""

        return wait_until(found, text, within_s, seen=lambda: self.text(selector))

    def click(self, selector: str, text: str = "") -> None:
        """On the first of these elements with this text, which may be made anew at any moment."""

        def clicked() -> bool:
            with contextlib.suppress(StaleElementReferenceException):
                for each in self.all(selector):
                    if text in each.text:
                        each.click()
                        return True
            return False

        wait_until(clicked, f"a click on {selector} {text!r}", seen=self.text)

    def type(self, selector: str, text: str) -> None:
        """Instead of what is there."""
        field = self.all(selector)[0]
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE)

    def press(self, *keys: str) -> None:
        """Wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def script(self, text: str) -> Any:
        return self.driver.execute_script(text)

    def complaints(self) -> list[str]:
        """What the browser has said since it was asked last: errors of scripts, refusals of the policy."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def picture(self, path: Path, *, whole: bool = True) -> None:
        told = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(told["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for each in OPTIONS:
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Driver(driver))
    try:
        yield Browser(opened)
    finally:
        opened.quit()
