"""HTTP that the test answers, and sockets that are not real."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest

from tests.testing.bank import Shop
from tests.testing.test_exploration import explored
from tidegate import DurableObject, ObjectReset
from tidegate.testing import HttpReply, HttpRequest, Objects


def run(test: Callable[[Objects], Coroutine[Any, Any, None]]) -> None:
    with Objects() as objects:
        objects.run(test(objects))


PRICES = "https://prices.example/tea"


async def test_requests_of_self_fetch_are_answered_by_the_test(objects: Objects) -> None:
    objects.http.answer(PRICES, {"eur": 12})
    shop = objects(Shop, "s")
    assert await shop.price(PRICES) == {"eur": 12}
    (asked,) = objects.http.requests
    assert (asked.method, asked.url, asked.body) == ("GET", PRICES, b"")
    assert objects.storage(shop)["asked"] == PRICES


async def test_any_aiohttp_session_is_answered_and_the_handler_sees_the_request(objects: Objects) -> None:
    async def order(request: HttpRequest) -> HttpReply:
        await asyncio.sleep(30)
        return HttpReply({"ordered": request.json()["article"]}, status=201)

    objects.http.answer("http://shop.example:8080/*", order, method="post")
    assert await objects(Shop, "s").order("http://shop.example:8080/orders", "tea") == 201
    assert objects.clock.now.second == 30


async def test_the_newest_answer_that_fits_counts(objects: Objects) -> None:
    objects.http.answer("https://prices.example/*", 404)
    objects.http.answer(PRICES, [1, 2])
    objects.http.answer(f"{PRICES}?day=2", '"special"')
    shop = objects(Shop, "s")
    assert await shop.price(f"{PRICES}?day=1") == [1, 2]
    with pytest.raises(Exception, match="404"):
        await shop.price("https://prices.example/milk")
    with pytest.raises(Exception, match="unexpected mimetype"):
        await shop.price(f"{PRICES}?day=2")


async def test_a_connection_can_break(objects: Objects) -> None:
    objects.http.answer(PRICES, ConnectionError("gone"))
    with pytest.raises(Exception, match="disconnected"):
        await objects(Shop, "s").price(PRICES)


async def test_a_request_leaves_only_when_what_was_written_before_is_durable(objects: Objects) -> None:
    objects.http.answer(PRICES, {})
    objects.fail_next_commit()
    with pytest.raises(Exception, match="could not be made durable"):
        await objects(Shop, "s").price(PRICES)
    assert not objects.http.requests


async def test_a_reset_before_a_name_was_asked_for_stops_no_later_request(objects: Objects) -> None:
    objects.http.answer("https://shop.example/price", {"eur": 12})
    objects.fail_next_commit()
    with pytest.raises(ObjectReset):
        await objects(Shop, "s").price("https://shop.example/price")
    for name in ("s", "t"):
        assert await objects(Shop, name, timeout=5).price("https://shop.example/price") == {"eur": 12}


class Asks(DurableObject):
    async def by_httpx(self, url: str) -> str:
        import httpx

        async with httpx.AsyncClient() as client:
            return (await client.get(url)).text

    async def by_httpx_at_once(self, url: str) -> str:
        import httpx

        return httpx.get(url).text  # noqa: ASYNC210  # It is what is refused.


async def test_httpx_is_answered_by_the_test_too(objects: Objects) -> None:
    objects.http.answer("http://world.example/*", "hello")
    assert await objects(Asks, "a").by_httpx("http://world.example/x") == "hello"


@pytest.mark.parametrize(
    ("method", "said"),
    [("by_httpx", "world.example:443 is dialled by a library that does TLS by itself"), ("by_httpx_at_once", "a real socket")],
)
def test_a_client_that_no_test_can_answer_is_told_from_what_can(method: str, said: str) -> None:
    async def test(objects: Objects) -> None:
        objects.http.answer("https://world.example/*", "hello")
        await getattr(objects(Asks, "a"), method)("https://world.example/x")

    with pytest.raises(Exception) as caught:  # whatever the library makes of it
        run(test)
    assert any(said in note for note in caught.value.__notes__)


def test_answers_of_the_world_are_late_in_some_schedules() -> None:
    orders = set()

    class Both(DurableObject):
        async def ask(self) -> list[str]:
            order: list[str] = []

            async def get(name: str) -> None:
                async with self.fetch.get(f"https://{name}.example/") as response:
                    order.append(await response.text())

            await asyncio.gather(get("one"), get("two"))
            return order

    async def test(objects: Objects) -> None:
        objects.http.answer("https://one.example/", "one")
        objects.http.answer("https://two.example/", "two")
        orders.add(tuple(await objects(Both, "b").ask()))

    explored(test, schedules=40, crashes=False)
    assert orders == {("one", "two"), ("two", "one")}


def test_a_request_that_nobody_answers_fails_the_test_and_says_how() -> None:
    async def asks_nobody(objects: Objects) -> None:
        with pytest.raises(Exception, match="nothing real is reached"):
            await objects(Shop, "s").price(PRICES)

    async def asks_for_more(objects: Objects) -> None:
        objects.http.answer(PRICES, {})
        with pytest.raises(Exception, match="501"):
            await objects(Shop, "s").price("https://prices.example/milk")

    with pytest.raises(AssertionError, match=r'objects\.http\.answer\("https://prices\.example/\*"'):
        run(asks_nobody)
    with pytest.raises(AssertionError, match=r"nobody answers GET https://prices\.example/milk"):
        run(asks_for_more)


def test_a_real_socket_of_an_object_fails_the_test_and_says_how() -> None:
    async def connects(objects: Objects) -> None:
        with pytest.raises(ConnectionRefusedError, match=r"objects\.http\.answer"):
            await objects(Shop, "s").by_hand()

    with pytest.raises(AssertionError, match="Shop/s connects to"):
        run(connects)


async def test_a_server_in_an_object_is_refused_with_advice(objects: Objects) -> None:
    class Listener(DurableObject):
        async def listen(self) -> None:
            await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)

    with pytest.raises(RuntimeError, match="a listening socket is not there in a test"):
        await objects(Listener, "l").listen()


async def test_what_is_no_url_is_refused(objects: Objects) -> None:
    with pytest.raises(ValueError, match="write it whole"):
        objects.http.answer("prices.example/tea", {})


async def test_streams_of_asyncio_reach_what_the_test_answers(objects: Objects) -> None:
    class Raw(DurableObject):
        async def ask(self) -> str:
            reader, writer = await asyncio.open_connection("plain.example", 80)
            writer.write(b"GET /x HTTP/1.0\r\nHost: plain.example\r\n\r\n")
            text = (await reader.read()).decode()
            writer.close()
            await writer.wait_closed()
            return text

    objects.http.answer("http://plain.example/x", "hello")
    assert (await objects(Raw, "r").ask()).endswith("hello")


async def test_the_test_itself_may_ask_too(objects: Objects) -> None:
    objects.http.answer(PRICES, "12")
    async with aiohttp.ClientSession() as session, session.get(PRICES) as response:
        assert await response.text() == "12"


def test_what_answers_http_says_that_it_needs_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a client that does not need it itself."""

    class Raw(DurableObject):
        async def ask(self) -> None:
            await asyncio.open_connection("plain.example", 80)

    async def asks(objects: Objects) -> None:
        objects.http.answer("http://plain.example/x", "hello")
        with pytest.raises(ConnectionRefusedError):
            await objects(Raw, "r").ask()

    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(AssertionError, match=r"needs aiohttp: .* -m pip install 'tidegate\[fetch\]'"):
        run(asks)
