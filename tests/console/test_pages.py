"""What an operator sees and does in a real Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.keys import Keys

from tests.console.browser import Browser
from tests.console.console_process import ConsoleProcess
from tests.console.customers import Customers
from tests.support.service import Service
from tests.support.waiting import wait_until

PAGES = ("", "objects", "errors", "alarms", "quarantine", "backups", "object/Cart/alice", "object/Cart/nobody", "no-such-page")
NARROW = 360
HOSTILE = '<img src=x onerror="window.hurt=1">\'"&amp;'


@pytest.fixture
def page(chromium: Browser, console: ConsoleProcess) -> Iterator[Browser]:
    """The overview, as the link opens it. Nothing that a browser complains of may happen in a test."""
    chromium.complaints()
    chromium.open(console.link)
    chromium.wait_for("Hottest objects")
    yield chromium
    assert not chromium.complaints()


def value(shop: Service, name: str, key: str = "item/tea") -> int:
    return int(shop.call("Cart", name, "add", key.removeprefix("item/"), 0))


# A stranger


def test_the_hottest_object_is_the_first_link_and_its_newest_error_is_one_click_away(page: Browser, customers: Customers) -> None:
    page.wait_for("Cart/alice", "#hottest tbody tr")
    page.wait_for("the bank refuses card 4711", "#errors")
    page.click("#hottest a", "alice")
    page.wait_for("the bank refuses card 4711", "#newest-error")
    assert page.text("#newest-error h2") == "Newest error"
    assert page.text("h1") == "Cart/alice"


def test_what_is_shown_goes_on_by_itself_and_who_has_the_focus_keeps_it(page: Browser, customers: Customers) -> None:
    page.wait_for("Cart/alice", "#hottest tbody tr")
    page.script("document.querySelector('#hottest a').focus()")
    before = page.text("[data-stat='Calls a second']")
    wait_until(lambda: page.text("[data-stat='Calls a second']") not in ("", before), "another number of calls")
    assert page.script("return document.activeElement.textContent") == "Cart/alice"


def test_where_the_time_of_slow_calls_went_and_how_much_each_shard_is_called_is_seen(page: Browser, customers: Customers) -> None:
    page.wait_for("Invoice/2026-11.render", "#slow")
    page.wait_for("run ", "#slow")
    assert page.all("#slow .parts i.run")
    shares = "return [...document.querySelectorAll('.shards span')].map((each) => Number(each.style.getPropertyValue('--share')))"
    wait_until(lambda: 1 in page.script(shares), "the shard that is called most")
    assert len(page.script(shares)) == 8


# Secrets and strange texts


def test_on_the_page_of_an_object_slow_calls_are_told_without_what_took_nothing(page: Browser, shop: Service) -> None:
    shop.call("Cart", "pondering", "add", "tea")
    shop.call("Cart", "pondering", "ponder", 0.2)
    page.go("#/object/Cart/pondering")
    page.wait_for("took 0.2")
    told = page.text("main")
    assert "run 0.2" in told
    assert "gate 0.000 s" not in told


def test_the_secret_is_not_in_the_address_and_a_tab_without_the_link_sees_nothing(page: Browser, console: ConsoleProcess) -> None:
    assert console.secret not in page.script("return location.href + document.documentElement.outerHTML")
    page.script("location.reload()")
    page.wait_for("Hottest objects")
    for link in (console.address, *(f"{console.address}#{each}" for each in ("w" * 32, "no-secret", "/object/Cart/alice"))):
        page.open(link)
        page.wait_for("Open the link of this console")
        assert "Hottest" not in page.text()
    page.complaints()  # That one was turned away.


def test_the_link_to_the_content_leads_there_and_takes_nothing_away(page: Browser) -> None:
    page.script("document.activeElement.blur()")
    page.press(Keys.TAB, Keys.ENTER)
    assert page.script("return document.activeElement.id") == "main"
    page.script("location.reload()")
    page.wait_for("Hottest objects")


@pytest.mark.parametrize("fragment", ["#main", "#/object/%", "#/object/Cart", "#/%E0%A4%A"])
def test_an_address_that_cannot_be_read_leads_to_the_overview(page: Browser, fragment: str) -> None:
    page.go("#/errors")
    page.wait_for("Newest slow calls")
    page.go(fragment)
    page.wait_for("Hottest objects")


def test_what_nobody_would_see_in_a_name_or_key_is_spelled_out(page: Browser, shop: Service) -> None:
    name, key = "a\u202eb  c", "k\x00\u200b"
    shop.call("Cart", name, "remember", key, "v\u202e")
    page.go("#/objects?class_name=Cart&prefix=a%E2%80%AE")
    page.wait_for("Cart/a\\u{202e}b  c", "#objects tbody")
    page.click("#objects a")
    page.wait_for("k\\u{0}\\u{200b}", "#stored tbody")
    page.wait_for("v\\u{202e}", "#stored tbody")
    assert page.text("h1") == "Cart/a\\u{202e}b  c"


def test_names_keys_values_and_errors_are_text_whatever_is_in_them(page: Browser, shop: Service) -> None:
    shop.call("Cart", HOSTILE, "remember", HOSTILE, {"html": HOSTILE, "deep": [[HOSTILE]]})
    with pytest.raises(AssertionError):
        shop.call("Cart", HOSTILE, "check_out", HOSTILE)
    page.go("#/objects?class_name=Cart&prefix=" + "%3Cimg")
    page.wait_for(f"Cart/{HOSTILE}", "#objects tbody")
    page.click("#objects a")
    page.wait_for(f"card {HOSTILE}", "#newest-error")
    page.wait_for(HOSTILE, "#stored tbody")
    page.click("#stored button.is-plain", HOSTILE)
    wait_until(lambda: json.loads(page.script("return document.querySelector('textarea')?.value") or "0"), "the value")
    assert json.loads(page.script("return document.querySelector('textarea').value")) == {"html": HOSTILE, "deep": [[HOSTILE]]}
    page.press(Keys.ESCAPE)
    page.go("#/errors")
    page.wait_for(f"card {HOSTILE}")
    assert page.script("return [window.hurt ?? 0, document.querySelectorAll('main img').length]") == [0, 0]


def test_nothing_is_loaded_from_elsewhere_and_no_page_makes_the_browser_complain(page: Browser, console: ConsoleProcess) -> None:
    for each in PAGES:
        page.go(f"#/{each}")
        wait_until(lambda: page.text("main"), "a page")
    loaded = page.script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert loaded
    assert not [each for each in loaded if not each.startswith(console.address)]
    asked = [each for each in page.complaints() if "404" not in each]
    assert not asked


# Finding


def found(page: Browser) -> list[str]:
    return list(page.script("return [...document.querySelectorAll('#objects tbody a')].map((each) => each.textContent)"))


def test_objects_are_found_while_one_types_and_opened_without_a_mouse(page: Browser, shop: Service) -> None:
    for name in ("pear", "pea", "peach"):
        shop.call("Cart", name, "add", "tea")
    page.click("nav a", "Objects")
    page.wait_for("Object", "#objects")
    page.press("Cart/pea")
    wait_until(lambda: found(page) == ["Cart/pea", "Cart/peach", "Cart/pear"], "three", seen=lambda: found(page))
    page.press("c")
    wait_until(lambda: found(page) == ["Cart/peach"], "one", seen=lambda: found(page))
    page.press(Keys.TAB, Keys.ENTER)
    page.wait_for("Cart/peach", "h1")
    page.driver.back()
    page.wait_for("Cart/peach", "#objects")
    page.press("x")
    page.wait_for("No object", "#objects")


def test_a_page_of_objects_goes_on_where_it_ended(page: Browser, shop: Service) -> None:
    for number in range(60):
        shop.call("Cart", f"many/{number:02}", "add", "tea")
    page.go("#/objects?class_name=Cart&prefix=many/")
    page.wait_for("50 and more", "#found")
    page.click("#objects button", "Show more")
    page.wait_for("60", "#found")
    assert found(page) == [f"Cart/many/{number:02}" for number in range(60)]


def test_an_object_that_is_not_there_is_said(page: Browser) -> None:
    page.go("#/object/Cart/nobody%20here")
    page.wait_for("there is no object Cart/nobody here")
    page.complaints()  # Of the answer 404.


# Changing


def edit(page: Browser, key: str, text: str) -> None:
    page.click("#stored button.is-plain", key)
    wait_until(lambda: page.all("dialog[open] textarea"), "the editor")
    page.type("dialog textarea", text)


def test_a_value_is_changed_and_changed_back(page: Browser, shop: Service) -> None:
    shop.call("Cart", "edited", "add", "tea", 41)
    page.go("#/object/Cart/edited")
    edit(page, "item/tea", "42")
    page.click("dialog button", "Save")
    page.wait_for("Saved", "#toast")
    assert value(shop, "edited") == 42
    page.wait_for("42", "#stored tbody")
    page.click("#toast button", "Undo")
    page.wait_for("Undone", "#toast")
    assert value(shop, "edited") == 41
    page.wait_for("41", "#stored tbody")


def test_who_comes_late_with_a_change_is_told_and_changes_nothing(page: Browser, shop: Service) -> None:
    shop.call("Cart", "late", "add", "tea", 1)
    page.go("#/object/Cart/late")
    edit(page, "item/tea", "100")
    shop.call("Cart", "late", "add", "tea", 1)
    page.click("dialog button", "Save")
    page.wait_for("Somebody has changed it", "dialog .complaint")
    assert value(shop, "late") == 2
    page.click("dialog button", "Show what it is now")
    page.wait_for("2", "dialog .now")
    assert page.script("return document.querySelector('textarea').value") == "100"
    page.type("dialog textarea", "no JSON")
    page.click("dialog button", "Save")
    page.wait_for("that is not JSON", "dialog .complaint")
    page.type("dialog textarea", "101")
    page.click("dialog button", "Save")
    page.wait_for("Saved", "#toast")
    assert value(shop, "late") == 101
    page.complaints()  # Of the answers 409 and 422.


def test_pages_of_keys_that_were_asked_for_stay_while_the_object_goes_on(page: Browser, shop: Service) -> None:
    for number in range(103):
        shop.call("Cart", "long", "remember", f"k{number:03}", number)
    page.go("#/object/Cart/long")
    page.wait_for("k099", "#stored tbody")
    page.click("#stored button", "Show more")
    page.wait_for("k102", "#stored tbody")
    with pytest.raises(AssertionError):
        shop.call("Cart", "long", "check_out", "it was asked")
    page.wait_for("it was asked", "#newest-error")  # So it was looked at again.
    page.wait_for("k102", "#stored tbody")
    edit(page, "k102", "7")
    page.click("dialog button", "Save")
    page.wait_for("Saved", "#toast")
    page.wait_for("k102", "#stored tbody")


def test_a_key_is_made_deleted_and_brought_back(page: Browser, shop: Service) -> None:
    shop.call("Cart", "keys", "add", "tea", 1)
    page.go("#/object/Cart/keys")
    page.click("#stored button", "New key")
    page.type("dialog input", "item/milk")
    page.type("dialog textarea", "7")
    page.click("dialog button", "Save")
    page.wait_for("item/milk", "#stored tbody")
    assert value(shop, "keys", "item/milk") == 7
    page.click("#stored button.is-plain", "item/milk")
    page.click("dialog button", "Delete key")
    page.wait_for("Deleted", "#toast")
    wait_until(lambda: "item/milk" not in page.text("#stored"), "its end")
    page.click("#toast button", "Undo")
    page.wait_for("item/milk", "#stored tbody")
    assert value(shop, "keys", "item/milk") == 7


def test_an_alarm_is_dropped_after_one_was_asked(page: Browser, shop: Service, console: ConsoleProcess) -> None:
    shop.call("Invoice", "a reminder", "remind_in", 0.5)
    page.go("#/alarms")
    page.wait_for("Invoice/a reminder")
    row = "[...document.querySelectorAll('tr')].find((each) => each.textContent.includes('a reminder'))"
    page.script(f"{row}.querySelector('button').focus()")
    shop.call("Invoice", "another reminder", "remind_in", 0.6)
    page.wait_for("Invoice/another reminder")
    assert page.script(f"return document.activeElement === {row}.querySelector('button')")
    page.script(f"[...{row}.querySelectorAll('button')].at(-1).click()")
    page.wait_for("Drop the alarm of Invoice/a reminder?", "dialog")
    page.click("dialog button", "Cancel")
    assert console.ask("object", class_name="Invoice", name="a reminder")["alarm"]
    page.script(f"[...{row}.querySelectorAll('button')].at(-1).click()")
    page.click("dialog button.is-risky", "Drop")
    page.wait_for("Dropped", "#toast")
    wait_until(lambda: "Invoice/a reminder" not in page.text("main"), "its end")


@pytest.mark.parametrize("do", ["Run", "Drop"])
def test_an_alarm_that_is_another_one_by_now_is_neither_run_nor_dropped(
    page: Browser, shop: Service, console: ConsoleProcess, do: str
) -> None:
    name = f"moved-{do}"
    shop.call("Invoice", name, "remind_in", 0.01)
    page.go("#/alarms")
    page.wait_for(f"Invoice/{name}")
    row = f"[...document.querySelectorAll('tr')].find((each) => each.textContent.includes('{name}'))"
    page.script(f"[...{row}.querySelectorAll('button')].find((each) => each.textContent.startsWith('{do}')).click()")
    page.wait_for(f"{do} the alarm of Invoice/{name}?", "dialog")
    shop.call("Invoice", name, "remind_in", 0.02)
    due_ms = console.ask("object", class_name="Invoice", name=name)["alarm_due_ms"]
    page.click("dialog button", do)
    page.wait_for("has another alarm now", "dialog")
    assert console.ask("object", class_name="Invoice", name=name)["alarm_due_ms"] == due_ms
    page.click("dialog button", "Cancel")
    page.complaints()  # Of the answer 409.


# How it looks


@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_a_small_phone(page: Browser, customers: Customers, name: str) -> None:
    page.look(NARROW, 740, dark=False)
    page.go(f"#/{name}")
    wait_until(lambda: page.text("main"), "a page")
    assert page.script("return document.documentElement.scrollWidth") <= NARROW
    page.complaints()  # One of them is of an object that is not there.


def test_light_and_dark_follow_the_browser_and_both_can_be_read(page: Browser) -> None:
    def contrast() -> float:
        """Of the text with less of it, by the rule of WCAG."""
        numbers = "return ['--text', '--muted'].map((each) => { const e = document.createElement('i'); e.style.color = `var(${each})`; document.body.append(e); const c = getComputedStyle(e).color; e.remove(); return [c, getComputedStyle(document.querySelector('.panel')).backgroundColor]; })"  # fmt: skip  # noqa: E501 - a script

        def light(color: str) -> float:
            parts = [int(each) / 255 for each in color[color.index("(") + 1 : -1].split(",")[:3]]
            linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
            return sum(share * each for share, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

        found = [sorted(map(light, pair)) for pair in page.script(numbers)]
        return min((high + 0.05) / (low + 0.05) for low, high in found)

    ground = "return getComputedStyle(document.documentElement).backgroundColor"
    bright = page.script(ground)
    assert contrast() >= 4.5
    page.look(1280, 900, dark=True)
    assert page.script(ground) != bright
    assert contrast() >= 4.5


def test_everything_that_can_be_used_has_a_name_and_the_page_has_its_marks(page: Browser, customers: Customers) -> None:
    for each in ("", "objects", "alarms", "object/Cart/alice"):
        page.go(f"#/{each}")
        wait_until(lambda: page.text("main"), "a page")
        nameless = page.script(
            "return [...document.querySelectorAll('a, button, input, select, textarea')]"
            ".filter((each) => !(each.textContent.trim() || each.ariaLabel)).map((each) => each.outerHTML)"
        )
        assert nameless == []
    assert page.script("return document.documentElement.lang") == "en"
    assert [len(page.all(each)) for each in ("header", "nav", "main", "nav [aria-current]")] == [1, 1, 1, 1]
