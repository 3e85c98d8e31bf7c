"""A service that asks for access keys: who is refused, what that costs others, and what is counted and logged."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from examples.counter import Counter
from tests.support.service import Service, services_in
from tests.support.waiting import wait_until
from tidegate import CallError, SyncClient, Unauthorized, Unavailable, connect_sync
from tidegate.runtime.cli.cli import main
from tidegate.runtime.data.access_file import read_access

CLOSED = r"closed \d+ connection\(s\) in the greeting"
REFUSED = r"access: refused"
TURNED_AWAY = r"access: turned away"
OPEN_TO_OTHERS = r"has mode 0644, so that others may read"
"""Lines that the tests bring about."""


class Guarded:
    """A service with a list of access keys."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service = service
        self.folder = folder

    def keys(self, *arguments: str) -> None:
        assert main(["keys", *arguments, "--data", str(self.service.data)]) == 0

    def new(self, name: str, *rights: str) -> Path:
        self.keys("new", name, *rights, "--out", str(self.file(name)))
        return self.file(name)

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def client(self, name: str | None, **options: Any) -> SyncClient:
        return connect_sync(self.service.endpoint, key_file=None if name is None else self.file(name), **options)

    def lines(self, pattern: str) -> list[str]:
        return [line for line in self.service.output.splitlines() if re.search(pattern, line)]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    with services_in(folder) as serve:
        guarded = Guarded(serve(start=False), folder)
        guarded.new("web")
        guarded.new("report", "--read-only")
        guarded.new("bank", "--classes", "Bank", "--admin")
        (guarded.service.data / "access.json").chmod(0o644)
        guarded.service.expect(CLOSED, REFUSED, TURNED_AWAY, OPEN_TO_OTHERS)
        guarded.service.start(2)
        yield guarded


def fails(client: SyncClient) -> CallError:
    with pytest.raises((Unauthorized, Unavailable)) as caught:
        client.call("Counter", "refused", "get_unique_number")
    return caught.value


def test_where_keys_are_asked_for_no_streams_are_offered(guarded: Guarded) -> None:
    with guarded.client("web") as web:
        topology = web.call("", "", "topology")
        assert {shard["stream"] for shard in topology["shards"]} == {None}
        folders = {Path(shard["endpoint"].removeprefix("ipc://")).parent for shard in topology["shards"]}
    assert not [path for folder in folders for path in folder.glob("*.str")]


@pytest.mark.parametrize("direct", [False, True])
def test_each_key_may_do_what_it_is_for_and_nothing_else_at_routers_and_workers(guarded: Guarded, direct: bool) -> None:
    with guarded.client("web", direct=direct) as web, guarded.client("report", direct=direct) as report:
        counter = web.stub(Counter, f"rights{direct}")
        assert counter(Counter.get_unique_number) == 0
        assert report.call("Counter", f"rights{direct}", "current") == 1
        refused = fails(report)
        assert isinstance(refused, Unauthorized)
        assert "read-only" in str(refused)
        assert (refused.outcome, refused.retryable) == ("not_executed", False)
        with guarded.client("bank", direct=direct) as bank:
            assert isinstance(fails(bank), Unauthorized)
            assert bank.ping() == "pong"
            assert bank.status().state == "serving"
        with pytest.raises(Unauthorized):
            web.status()
        assert counter(Counter.get_unique_number) == 1
    where = r"worker \d" if direct else "router"
    assert len(guarded.lines(where + r": access: refused 1 call\(s\) of 'report'")) == 1


def test_no_key_the_key_of_another_service_and_an_unknown_key_are_turned_away_and_disturb_nobody(guarded: Guarded) -> None:
    server, public, secret = guarded.file("web").read_text().split()[-3:]
    other_public, other_secret = (half.decode() for half in zmq.curve_keypair())
    guarded.file("other").write_text(f"{other_public} {public} {secret}\n")
    guarded.file("unknown").write_text(f"{server} {other_public} {other_secret}\n")
    with guarded.client("web") as web:
        assert web.call("Counter", "turned", "get_unique_number") == 0
        for name in (None, "other"):
            with guarded.client(name, connect_timeout=0.5) as turned_away:
                assert "in the greeting" in str(fails(turned_away))
        with guarded.client("unknown") as unknown:
            began_s = time.monotonic()
            for _ in range(3):  # At once the first time, then whenever it has asked again.
                assert isinstance(fails(unknown), Unauthorized)
            assert time.monotonic() - began_s < 30
        assert web.call("Counter", "turned", "get_unique_number") == 1
    assert len(guarded.lines(TURNED_AWAY)) == 1
    assert not any(word in guarded.service.output for word in (secret, other_secret))


def test_a_revoked_key_is_refused_within_a_second_also_on_connections_that_are_open(guarded: Guarded) -> None:
    guarded.new("leaver")
    with guarded.client("leaver") as leaver, guarded.client("report") as report:
        assert leaver.call("Counter", "b", "get_unique_number") == 0
        guarded.keys("revoke", "leaver")
        with pytest.raises(Unauthorized, match="no longer"):
            leaver.call("Counter", "b", "get_unique_number")
        with pytest.raises(Unauthorized):
            leaver.ping()
        assert report.call("Counter", "b", "current") == 1


def test_a_list_that_others_may_read_is_told_at_the_start_and_mended_by_the_next_change(guarded: Guarded) -> None:
    assert len(guarded.lines(OPEN_TO_OTHERS)) == 1
    guarded.new("mended")
    assert (guarded.service.data / "access.json").stat().st_mode & 0o777 == 0o600


def test_a_key_made_while_the_service_runs_is_good_at_once_and_a_rotated_one_replaces_it(guarded: Guarded) -> None:
    guarded.new("late")
    with guarded.client("late") as first:
        assert first.call("Counter", "c", "get_unique_number") == 0
        guarded.keys("rotate", "late", "--out", str(guarded.file("late")))
        assert isinstance(fails(first), Unauthorized)
    with guarded.client("late") as second:
        assert second.call("Counter", "c", "get_unique_number") == 1
    guarded.keys("rotate", "late", "--grace", "1", "--out", str(guarded.file("newest")))
    for name in ("late", "newest"):
        with guarded.client(name) as both:
            assert both.ping() == "pong"


def test_a_client_that_is_let_in_again_need_not_be_started_again(guarded: Guarded) -> None:
    server = guarded.file("web").read_text().split()[-3]
    public, secret = (half.decode() for half in zmq.curve_keypair())
    guarded.file("soon").write_text(f"{server} {public} {secret}\n")
    with guarded.client("soon") as soon:
        assert isinstance(fails(soon), Unauthorized)
        path = guarded.service.data / "access.json"
        listed = msgspec.json.decode(path.read_bytes())
        listed["keys"].append({"name": "soon", "public": public})  # By hand.
        path.write_bytes(msgspec.json.encode(listed))

        def let_in() -> bool:
            try:
                return bool(soon.ping() == "pong")
            except Unauthorized:
                return False

        wait_until(let_in, "the client is let in")


@pytest.mark.parametrize("direct", [False, True])
def test_the_key_of_the_service_is_rotated_while_clients_stay(guarded: Guarded, direct: bool) -> None:
    """The new files come before the restart to one client, and after it to the other."""
    first, second = (guarded.new(f"{name} of {direct}".replace(" ", "-")) for name in ("first", "second"))
    guarded.service.expect("own key has changed")
    with guarded.client(first.stem, direct=direct) as early, guarded.client(second.stem, direct=direct) as late:
        for client in (early, late):
            client.call("Counter", "rotated", "get_unique_number")
        old = first.read_text().split()[-3]
        guarded.keys("rotate", "--service")
        new = read_access(guarded.service.data / "access.json")
        assert new is not None
        assert new.public != old
        assert early.call("Counter", "rotated", "current") > 0  # Nothing has changed yet.
        first.write_text(first.read_text().replace(old, new.public))
        assert guarded.service.stop() == 0
        guarded.service.start(2)
        assert early.call("Counter", "rotated", "get_unique_number", timeout=60.0) > 0
        with pytest.raises(CallError):
            late.call("Counter", "rotated", "get_unique_number", timeout=2.0)
        second.write_text(second.read_text().replace(old, new.public))
        assert late.call("Counter", "rotated", "get_unique_number", timeout=60.0) > 0
    for name in ("web", "report", "bank"):
        guarded.file(name).write_text(guarded.file(name).read_text().replace(old, new.public))
