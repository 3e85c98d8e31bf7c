"""Who is let in to the console, by what a request says of itself."""

from __future__ import annotations

import pytest

from tidegate.runtime.console.admission import HEADERS, Admission

SECRET = "S3cret-of-this-run"
GOOD = {"Host": "127.0.0.1:7780", "Authorization": f"Bearer {SECRET}"}


def status(headers: dict[str, str], *, is_public: bool = False, hosts: tuple[str, ...] = ()) -> int | None:
    refusal = Admission(SECRET, hosts).refusal(headers, is_public=is_public)
    return None if refusal is None else refusal.status


@pytest.mark.parametrize("host", ["127.0.0.1:7780", "localhost:7780", "localhost:9000", "[::1]:7780", "LOCALHOST", "[::1]"])
def test_a_page_of_the_console_is_let_in_by_every_name_of_loopback_and_any_port_of_a_tunnel(host: str) -> None:
    assert status({**GOOD, "Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}) is None


@pytest.mark.parametrize("host", ["evil.example:7780", "127.0.0.1.evil.example", "", "localhost.evil", "[::2]:7780"])
def test_a_name_that_somebody_lets_point_here_is_turned_away_whatever_is_asked(host: str) -> None:
    assert status({**GOOD, "Host": host}) == 421
    assert status({**GOOD, "Host": host}, is_public=True) == 421


def test_a_name_that_the_operator_has_given_is_let_in() -> None:
    assert status({**GOOD, "Host": "console.example:443"}, hosts=("Console.Example",)) is None


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:3000", "null", "http://localhost:7780"])
def test_a_page_of_another_site_is_turned_away_also_one_of_this_machine_and_with_the_secret(origin: str) -> None:
    assert status({**GOOD, "Origin": origin}) == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_browser_calls_another_site_is_turned_away(site: str) -> None:
    assert status({**GOOD, "Sec-Fetch-Site": site}) == 403


@pytest.mark.parametrize(
    "given", ["", SECRET, f"Basic {SECRET}", "Bearer ", f"Bearer {SECRET[:-1]}", f"Bearer {SECRET}x", "Bearer \udce4é"]
)
def test_without_the_secret_only_files_of_the_page_are_given(given: str) -> None:
    assert status({**GOOD, "Authorization": given}) == 401
    assert status({**GOOD, "Authorization": given}, is_public=True) is None


def test_no_answer_may_be_framed_kept_or_run_what_is_not_the_consoles_own() -> None:
    policy = HEADERS["Content-Security-Policy"].split("; ")
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not [each for each in policy if "unsafe" in each or "*" in each or "http" in each]
    assert HEADERS["Cache-Control"] == "no-store"
