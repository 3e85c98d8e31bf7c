"""What operators do with the objects of a real service, from the command line and past its routers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.service import FULL, Service
from tests.support.waiting import wait_until
from tidegate.runtime.cli import commanding, exporting, importing, wishing
from tidegate.runtime.cli.cli import main
from tidegate.runtime.cli.commands.objects import travelling
from tidegate.runtime.errors import Unavailable
from tidegate.runtime.ids import object_key, shard_of_slot, slot_of
from tidegate.runtime.limits import VALUE_BYTES_MAX
from tidegate.runtime.wire.object_records import read_records, whole_objects
from tidegate.runtime.wire.wishes import ListNames, LoadMany, ReadMany, Show
from tidegate.shard.core.alarms import Header, encode_header
from tidegate.shard.store.state.lmdb_state import LmdbState

APP = """
import asyncio
import datetime
from pathlib import Path
from tidegate import DurableObject

class Shop(DurableObject):
    async def set(self, key: str, value: object) -> None:
        await self.storage.put(key, value)

    async def get(self, key: str) -> object:
        return await self.storage.get(key)

    async def both(self, value: object) -> None:
        await self.storage.put("a", value)
        await self.storage.put("b", value)

    async def move(self, giver: str, taker: str, value: object) -> None:
        async with self.storage.transaction():
            await self.storage.put(giver, 0)
            await self.storage.put(taker, value)

    async def fill(self, count: int, value: object) -> None:
        for number in range(count):
            await self.storage.put(f"k{number:05}", value)

    async def at(self, after_s: float) -> None:
        await self.storage.set_alarm(datetime.timedelta(seconds=after_s))

    async def alarm(self, info) -> None:
        await self.storage.put("rung", True)

    async def boom(self, text: str) -> None:
        raise ValueError(text)

    async def hold(self, until: str) -> None:
        async with self.storage.transaction():
            Path(until + ".held").touch()
            while not Path(until).exists():
                await asyncio.sleep(0.01)
"""


@pytest.fixture
def service(serve: Callable[..., Service], tmp_path: Path) -> Service:
    (tmp_path / "shop.py").write_text(APP)
    return serve(2, app=str(tmp_path / "shop.py"))


class Operator:
    """Types commands."""

    def __init__(self, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
        self.service = service
        self.capsys = capsys

    def type(self, *words: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = main([*words, "--connect", self.service.endpoint])
        return code, *self.capsys.readouterr()

    def json(self, *words: str) -> Any:
        code, out, err = self.type(*words, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def operator(service: Service, capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(service, capsys)


def test_an_object_is_looked_at_changed_and_changed_back_as_the_command_says(service: Service, operator: Operator) -> None:
    service.call("Shop", "alice", "set", "n", 1)
    assert operator.type("objects", "get", "Shop", "alice", "n") == (0, "1\n", "")
    code, out, _ = operator.type("objects", "put", "Shop", "alice", "n", "2", "--if-value", "1")
    assert code == 0
    assert out.startswith("Shop/alice 'n': 1 -> 2\nundo: tidegate ")
    assert service.call("Shop", "alice", "get", "n") == 2, "the object's cache has it, too"
    code, _, err = operator.type("objects", "put", "Shop", "alice", "n", "3", "--if-value", "1")
    assert (code, "nothing was changed" in err) == (3, True)
    undo = out.splitlines()[1].removeprefix("undo: tidegate ").split()
    assert main(undo) == 0, "it goes to the same service, as it stands"
    assert service.call("Shop", "alice", "get", "n") == 1
    page = operator.json("objects", "show", "Shop", "alice")
    assert [(row["key"], row["value"]) for row in page["rows"]] == [("n", 1)]
    code, _, err = operator.type("objects", "show", "Shop", "nobody")
    assert (code, "there is no object Shop/nobody" in err) == (3, True)
    assert operator.type("objects", "delete", "Shop", "alice")[0] == 2
    assert operator.type("objects", "delete", "Shop", "alice", "--yes")[0] == 0
    assert service.call("Shop", "alice", "get", "n") is None
    told = [json.loads(line) for line in (service.data / "audit.jsonl").read_text().splitlines()]
    assert [line["what"] for line in told if line["state"] == "asked"] == ["put", "put", "put", "delete"]
    assert [line["state"] for line in told if line["state"] != "asked"] == ["done", "refused", "done", "done"]
    assert told[0]["by"]["pid"] == os.getpid()


def test_what_was_changed_is_listed_and_taken_back_once_it_was_forgotten(service: Service, operator: Operator) -> None:
    service.call("Shop", "alice", "set", "n", {"a": [1, "x"]})
    alice = ("Shop", "alice")
    assert operator.type("objects", "history", *alice)[1] == "no edits in the audit log\n"
    assert operator.type("objects", "undo", *alice)[0] == 3
    assert operator.type("objects", "put", *alice, "n", "2")[0] == 0
    assert operator.type("objects", "put", *alice, "new", "3")[0] == 0
    assert operator.type("objects", "put", *alice, "n", "4", "--if-value", "9")[0] == 3
    assert operator.type("objects", "evict", *alice)[0] == 0
    edits = operator.json("objects", "history", *alice)["edits"]
    assert [(each["what"], each.get("key"), each["state"]) for each in edits] == [
        ("evict", None, "done"),
        ("put", "n", "refused"),
        ("put", "new", "done"),
        ("put", "n", "done"),
    ]
    assert edits[3]["before"]["value"] == {"a": [1, "x"]}
    assert operator.json("objects", "history", *alice, "new", "--limit", "1")["edits"] == [edits[2]]
    code, out, _ = operator.type("objects", "undo", *alice)
    assert (code, out.splitlines()[:2]) == (
        0,
        [f"edit {edits[2]['edit']} of {edits[2]['time']} is taken back", "Shop/alice 'new': 3 -> none"],
    )
    assert service.call("Shop", "alice", "get", "new") is None
    assert operator.type("objects", "undo", *alice)[0] == 0, "that is an edit, too"
    assert service.call("Shop", "alice", "get", "new") == 3
    assert operator.json("objects", "undo", *alice, "n")["undone"] == edits[3]["edit"]
    assert service.call("Shop", "alice", "get", "n") == {"a": [1, "x"]}
    service.call("Shop", "alice", "set", "new", 5)
    code, _, err = operator.type("objects", "undo", *alice, "new")
    assert (code, "nothing was changed" in err) == (3, True), "somebody else has changed it since"
    assert service.call("Shop", "alice", "get", "new") == 5
    assert operator.type("objects", "undo", *alice, "--edit", "9-9")[0] == 3


def test_what_the_audit_log_does_not_have_is_said_when_it_is_to_be_taken_back(service: Service, operator: Operator) -> None:
    service.call("Shop", "alice", "set", "n", "x" * 20_000)
    alice = ("Shop", "alice")
    assert operator.type("objects", "put", *alice, "n", "2")[0] == 0
    code, _, err = operator.type("objects", "undo", *alice)
    assert code == 3
    assert "does not have the value that 'n' had before" in err
    assert "20003 bytes" in err
    assert "tidegate restore DEST --object Shop/alice --at" in err
    assert operator.type("objects", "put", *alice, "n", "3", "--audit-values", "none")[0] == 0
    assert "does not have the value" in operator.type("objects", "undo", *alice)[2]
    assert operator.type("objects", "delete", *alice, "--yes")[0] == 0
    code, _, err = operator.type("objects", "undo", *alice)
    assert (code, "(delete) cannot be taken back: the audit log has no value of it" in err) == (3, True)
    assert "bytes" in operator.type("objects", "history", *alice)[1]


@pytest.mark.parametrize(
    "value", ["\x01" * (VALUE_BYTES_MAX - 5), [False] * (VALUE_BYTES_MAX - 5)], ids=["control characters", "bools"]
)
def test_the_largest_value_is_got_put_exported_and_imported(
    service: Service, operator: Operator, tmp_path: Path, value: Any
) -> None:
    assert len(msgspec.msgpack.encode(value)) == VALUE_BYTES_MAX
    service.expect("held up its worker")  # Two million of them take their time on a busy machine.
    (tmp_path / "value.json").write_bytes(msgspec.json.encode(value))
    target = "Shop", "large", "k"
    made = operator.json("objects", "put", *target, "--file", str(tmp_path / "value.json"), "--create", "--audit-values", "all")
    assert made["after"]["value"] == value
    assert service.call("Shop", "large", "get", "k") == value
    got = operator.json("objects", "get", *target)
    assert (got["value"], got["digest"]) == (value, made["after"]["digest"])
    again = operator.json("objects", "put", *target, "--file", str(tmp_path / "value.json"), "--if-digest", got["digest"])
    assert again["before"] == again["after"] == made["after"]
    out = str(tmp_path / "large.jsonl")
    assert operator.type("objects", "export", "Shop", "large", "--out", out)[0] == 0
    assert operator.type("objects", "import", out, "--as", "Shop/copy")[0] == 0
    assert operator.json("objects", "get", "Shop", "copy", "k")["digest"] == got["digest"]
    (tmp_path / "larger.json").write_bytes(msgspec.json.encode("x" * VALUE_BYTES_MAX))
    code, _, err = operator.type("objects", "put", *target, "--file", str(tmp_path / "larger.json"))
    assert (code, f"the limit is {VALUE_BYTES_MAX}" in err) == (1, True)


def test_an_object_whose_gate_is_closed_is_waited_for_and_not_changed_later(
    service: Service, operator: Operator, tmp_path: Path
) -> None:
    service.call("Shop", "alice", "set", "n", 1)
    until = tmp_path / "until"
    holding = threading.Thread(target=service.call, args=("Shop", "alice", "hold", str(until)))
    holding.start()
    wait_until(Path(f"{until}.held").exists, "the transaction")
    code, _, err = operator.type("objects", "put", "Shop", "alice", "n", "2", "--timeout", "0.3")
    assert (code, "gate of the object has not let it in" in err, "not executed" in err) == (1, True, True)
    code, out, _ = operator.type("inspect", "Shop", "alice")
    assert (code, "by an open transaction, which waits for shop.py:" in out, "hold" in out) == (0, True, True)
    until.touch()
    holding.join()
    assert service.call("Shop", "alice", "get", "n") == 1
    assert operator.type("objects", "put", "Shop", "alice", "n", "2")[0] == 0


def test_objects_are_listed_page_by_page_whatever_happens_meanwhile(service: Service, operator: Operator) -> None:
    service.expect("killed by SIGKILL", "is ready again")
    everybody = [f"user{number:03}" for number in range(150)]
    for name in everybody:
        service.call("Shop", name, "set", "n", 1)
    assert [each["name"] for each in operator.json("objects", "ls", "Shop", "--limit", "40")["objects"]] == everybody[:40]
    code, out, _ = operator.type("objects", "ls", "Shop", "--prefix", "user1", "--limit", "3", "--after", "user110")
    assert (code, out.splitlines()[1].split()[0]) == (0, "Shop/user111")
    assert out.splitlines()[-1] == "there are more: --after user113, or --all"
    worker = next(each["pid"] for each in service.status()["processes"] if each["name"] == "worker 0")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: operator.type("objects", "ls", "Shop")[0] == 0, "the worker")
    code, out, _ = operator.type("objects", "ls", "--all", "--json")
    assert [json.loads(line)["name"] for line in out.splitlines()] == everybody
    service.call("Shop", "user077", "set", "big", "x" * 10_000)
    wait_until(lambda: operator.json("objects", "ls", "Shop", "--biggest", "1")["objects"][0]["bytes"] > 10_000, "the sizes")
    assert operator.json("objects", "ls", "Shop", "--biggest", "1")["objects"][0]["name"] == "user077"
    assert operator.json("classes")["classes"]["Shop"]["objects"] == 150
    code, _, err = operator.type("objects", "ls", "Shpo")
    assert (code, "did you mean Shop?" in err) == (3, True)


@pytest.mark.slow
def test_a_page_of_very_many_objects_costs_what_it_holds(
    serve: Callable[..., Service], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`TIDEGATE_FULL=1`: a million."""
    (tmp_path / "shop.py").write_text(APP)
    objects = 1_000_000 if FULL else 20_000
    service = serve(2, app=str(tmp_path / "shop.py"))
    service.stop()
    _fill(service.data, objects)
    operator = Operator(service.start(2), capsys)
    assert operator.json("classes")["classes"]["Shop"]["objects"] == objects
    pages = []
    for number in (0, objects // 3, objects - 150):
        began_s = time.perf_counter()
        page = operator.json("objects", "ls", "Shop", "--after", f"user{number:08}")
        pages.append(time.perf_counter() - began_s)
        assert [each["name"] for each in page["objects"]] == [f"user{number + 1 + each:08}" for each in range(100)]
    assert [each["name"] for each in operator.json("objects", "ls", "Shop", "--prefix", f"user{objects - 1:08}")["objects"]] == [
        f"user{objects - 1:08}"
    ]
    print(f"pages of {objects:,} objects: {', '.join(f'{each * 1_000:.1f} ms' for each in pages)}")
    assert min(pages) < 0.2, "the promise is 0.1 s, on a machine that does nothing else"
    service.call("Shop", "biggest", "set", "k", "x" * 1_000)
    service.stop()
    operator = Operator(service.start(2), capsys)
    assert operator.json("objects", "ls", "Shop", "--biggest", "1")["objects"][0]["name"] == "biggest"


def _fill(data: Path, objects: int) -> None:
    """As if they had been made and checkpointed."""
    shards = sorted((data / "shards").iterdir())
    rows: list[list[tuple[bytes, bytes]]] = [[] for _ in shards]
    for number in range(objects):
        name = f"user{number:08}"
        key, mine = object_key("Shop", name), rows[shard_of_slot(slot_of("Shop", name), len(shards))]
        mine += [(key, encode_header(Header("Shop", name))), (key + b"n", msgspec.msgpack.encode(number))]
    for shard, path in enumerate(shards):
        state = LmdbState(path, shard)
        batch = state.begin()
        batch.put_many(sorted(rows[shard]))
        batch.set_applied_seq(state.applied_seq)
        batch.commit()
        state.close()


def test_objects_of_a_class_that_was_deleted_are_listed_looked_at_and_deleted(
    serve: Callable[..., Service], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = tmp_path / "shop.py"
    app.write_text(APP)
    service = serve(1, app=str(app))
    service.call("Shop", "alice", "set", "n", 1)
    service.stop()
    app.write_text(APP.replace("class Shop", "class Store"))
    operator = Operator(service.start(1), capsys)
    assert operator.json("classes")["classes"]["Shop"] == {"objects": 1, "in_memory": 0, "in_app": False}
    assert [each["name"] for each in operator.json("objects", "ls", "--orphans")["objects"]] == ["alice"]
    assert operator.json("objects", "get", "Shop", "alice", "n")["value"] == 1
    service.stop()
    app.write_text(APP.replace("class Shop(DurableObject)", 'class Store(DurableObject, aliases=("Shop",))'))
    operator = Operator(service.start(1), capsys)
    assert service.call("Shop", "alice", "get", "n") == 1, "a renamed class keeps its objects"
    assert operator.json("objects", "ls", "--orphans")["objects"] == []
    with pytest.raises(AssertionError, match="its objects are called 'Shop', an alias"):
        service.call("Store", "alice", "get", "n")
    service.stop()
    app.write_text(APP.replace("class Shop", "class Store"))
    operator = Operator(service.start(1), capsys)
    assert operator.type("objects", "delete", "Shop", "alice", "--yes")[0] == 0
    assert operator.json("objects", "ls", "--orphans")["objects"] == []


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_an_object_moves_to_another_name_as_it_is(service: Service, operator: Operator, tmp_path: Path, form: str) -> None:
    for number in range(30):
        service.call("Shop", "alice", "set", f"k{number:02}", [number, "x" * 20_000, b"\0"])
    file = str(tmp_path / "alice")
    code, out, _ = operator.type("objects", "export", "Shop", "alice", "--format", form, "--out", file)
    assert (code, out) == (0, f"Shop/alice: 30 keys written to {file}\n")
    assert operator.type("objects", "import", file)[0] == 3, "it exists"
    assert operator.json("objects", "import", file, "--as", "Shop/bob") == {"objects": 1, "keys": 30}
    digests = [
        [(row["key"], row["digest"]) for row in operator.json("objects", "show", "Shop", name, "--all")["rows"]]
        for name in ("alice", "bob")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 30
    assert operator.type("objects", "import", file, "--replace")[0] == 0
    cut = tmp_path / "cut"
    cut.write_bytes(Path(file).read_bytes()[:-3])
    code, _, err = operator.type("objects", "import", str(cut), "--as", "Shop/carol")
    assert code == 1
    assert "not whole" in err or "record" in err


def exported(file: Path) -> dict[str, dict[str, Any]]:
    """Values by key by object, in the order in which they are in the file."""
    with file.open("rb") as opened:
        return {head.object: {pair.key: pair.value for pair in pairs} for head, pairs in whole_objects(read_records(opened))}


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_all_of_a_class_move_from_a_service_that_works_into_another(
    serve: Callable[..., Service], service: Service, operator: Operator, capsys: Any, tmp_path: Path, form: str
) -> None:
    names = [f"c{number:03}" for number in range(60)]
    for name in names:
        service.call("Shop", name, "both", 0)
    service.call("Shop", "c000", "at", 3_600)
    service.call("Shop", "large", "fill", 1_300, "x" * 20)
    ended = threading.Event()

    def work() -> None:
        for number in itertools.count(1):
            if ended.is_set():
                return
            service.call("Shop", names[number % len(names)], "both", number)

    working = threading.Thread(target=work)
    working.start()
    file = tmp_path / "shops"
    try:
        code, out, err = operator.type("objects", "export", "Shop", "--format", form, "--out", str(file))
        assert (code, out, err) == (0, f"61 objects written to {file}\n", "")
    finally:
        ended.set()
        working.join()
    found = exported(file)
    assert list(found) == [f"Shop/{name}" for name in (*names, "large")], "in the order of their names"
    assert all(found[f"Shop/{name}"]["a"] == found[f"Shop/{name}"]["b"] for name in names), "each as it was at one instant"
    assert len(found["Shop/large"]) == 1_300
    other = Operator(serve(1, app=str(tmp_path / "shop.py"), data=tmp_path / "other"), capsys)
    assert other.json("objects", "import", str(file)) == {"objects": 61, "keys": 60 * 2 + 1_300}
    assert other.type("objects", "export", "Shop", "--format", form, "--out", str(tmp_path / "again"))[0] == 0
    assert (tmp_path / "again").read_bytes() == file.read_bytes(), "alarms too"
    assert operator.type("objects", "export", "Shop", "--prefix", "c05", "--out", str(file))[0] == 0
    assert list(exported(file)) == [f"Shop/c05{number}" for number in range(10)]
    assert operator.type("objects", "export", "--all", "--out", str(file))[0] == 0
    assert len(exported(file)) == 61
    code, _, err = operator.type("objects", "export", "Shpo", "--out", str(file))
    assert (code, "did you mean Shop?" in err) == (3, True)
    assert len(exported(file)) == 61, "what was there is as it was"
    for wrong in ([], ["Shop", "--all"], ["Shop", "c000", "--prefix", "c"]):
        assert operator.type("objects", "export", *wrong)[0] == 2


def test_a_data_directory_that_is_in_use_is_exported_through_its_service(service: Service, operator: Operator) -> None:
    for name in ("alice", "bob"):
        service.call("Shop", name, "both", name)
    file = service.data.parent / "all"
    command = ["export", str(service.data), "--class", "Shop", "--out", str(file)]
    assert main(command) == 0
    assert "2 objects written" in operator.capsys.readouterr().err
    assert (running := exported(file)) == {"Shop/alice": {"a": "alice", "b": "alice"}, "Shop/bob": {"a": "bob", "b": "bob"}}
    service.stop()
    assert main(command) == 0
    assert exported(file) == running
    service.start(1)
    assert main([*command, "--class", "Nobody"]) == 0
    assert main(["export", str(service.data), "--class", "Nobody", "--out", str(file)]) == 1
    assert exported(file) == running, "what was there is as it was"


def test_what_changes_each_time_is_named_and_what_is_deleted_meanwhile_is_not_there(
    service: Service, operator: Operator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("alice", "bob", "carol"):
        service.call("Shop", name, "fill", 600, name)
    real = commanding.wish_for

    def asked(options: Any, wish: Show | ReadMany, target: str) -> Any:
        if isinstance(wish, Show) and target == "Shop/alice" and wish.after:
            service.call("Shop", "alice", "set", "n", time.monotonic())
        if isinstance(wish, ReadMany):
            operator_delete()
        return real(options, wish, target)

    def operator_delete() -> None:
        subprocess.run(
            [sys.executable, "-m", "tidegate", "objects", "delete", "Shop", "bob", "--yes", "--connect", service.endpoint],
            capture_output=True,
            check=False,
        )

    monkeypatch.setattr(exporting, "wish_for", asked)
    file = tmp_path / "shops"
    code, out, err = operator.type("objects", "export", "Shop", "--out", str(file), "--json")
    assert (code, json.loads(out)) == (1, {"objects": 1, "left_out": ["Shop/alice"]})
    assert "export Shop/alice: it was changed each time while it was read" in err
    assert list(exported(file)) == ["Shop/carol"]


def test_what_goes_from_one_page_to_another_and_back_is_not_exported_twice(
    service: Service, operator: Operator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service.call("Shop", "alice", "fill", 1_200, 0)
    real = commanding.wish_for

    def asked(options: Any, wish: Show, target: str) -> Any:
        has, has_not = ("k01199", "k00000") if wish.after else ("k00000", "k01199")
        service.call("Shop", "alice", "move", has_not, has, 5)
        return real(options, wish, target)

    monkeypatch.setattr(exporting, "wish_for", asked)
    file = tmp_path / "alice"
    code, _, err = operator.type("objects", "export", "Shop", "alice", "--out", str(file))
    assert (code, "it was changed each time while it was read" in err) == (1, True)
    asked_for = []
    monkeypatch.setattr(exporting, "wish_for", lambda *given: (asked_for.append(given), real(*given))[1])
    assert operator.type("objects", "export", "Shop", "alice", "--out", str(file))[0] == 0
    assert sum(exported(file)["Shop/alice"].values()) == 5
    assert len(asked_for) == 3, "what is left alone is read once"


@pytest.mark.parametrize("how", ["killed", "reloaded"])
def test_an_export_goes_on_over_workers_that_are_replaced(
    service: Service, operator: Operator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    names = [f"c{number:03}" for number in range(40)]
    for name in names:
        service.call("Shop", name, "both", name)
    service.call("Shop", "large", "fill", 1_300, 1)
    if how == "killed":
        service.expect("killed by SIGKILL", "is ready again")
    real, replacing = commanding.wish_for, threading.Lock()
    begun: set[str] = set()

    def replace(what: str) -> None:
        """Once for each."""
        with replacing:
            if what in begun:
                return
            begun.add(what)
        if how == "killed":
            for pid in service.worker_pids():
                os.kill(pid, signal.SIGKILL)
        else:
            assert main(["reload", "--connect", service.endpoint]) == 0

    def shown(options: Any, wish: Any, target: str) -> Any:
        if target == "Shop/large" and wish.after:
            replace("between its pages")
        return real(options, wish, target)

    def listed(options: Any, wish: Any, target: str, **more: Any) -> Any:
        if isinstance(wish, ListNames) and wish.after is not None:
            replace("between pages of names")
        return real(options, wish, target, **more)

    monkeypatch.setattr(exporting, "wish_for", shown)
    monkeypatch.setattr(wishing, "wish_for", listed)
    monkeypatch.setattr(travelling, "PAGE", 30)
    file = tmp_path / "shops"
    code, _, err = operator.type("objects", "export", "Shop", "--out", str(file), "--timeout", "60")
    assert code == 0, err
    assert len(begun) == 2
    assert list(exported(file)) == [f"Shop/{name}" for name in (*names, "large")]


def test_of_large_objects_little_is_kept_before_their_turn(
    service: Service, operator: Operator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = [f"c{number:02}" for number in range(20)]
    for name in names:
        service.call("Shop", name, "fill", 16, name * 70_000)
    real, kept = exporting.object_records, []

    def read(options: Any, target: str) -> Any:
        kept.append(target)
        return real(options, target)

    monkeypatch.setattr(exporting, "object_records", read)
    file = tmp_path / "shops"
    assert operator.type("objects", "export", "Shop", "--out", str(file))[0] == 0
    assert kept == [f"Shop/{name}" for name in names], "each whole one in its turn"
    assert exported(file)["Shop/c07"] == {f"k{number:05}": "c07" * 70_000 for number in range(16)}


def test_an_object_that_does_not_answer_ends_an_export_with_its_reason(
    service: Service, operator: Operator, tmp_path: Path
) -> None:
    for name in ("alice", "bob"):
        service.call("Shop", name, "both", 1)
    until = tmp_path / "until"
    holding = threading.Thread(target=service.call, args=("Shop", "alice", "hold", str(until)))
    holding.start()
    wait_until(Path(f"{until}.held").exists, "the transaction")
    file = tmp_path / "shops"
    file.write_text("of yesterday")
    code, _, err = operator.type("objects", "export", "Shop", "--out", str(file), "--timeout", "0.3")
    assert (code, "gate of the object has not let it in" in err) == (1, True)
    assert file.read_text() == "of yesterday"
    assert [path.name for path in tmp_path.glob("shops*")] == ["shops"]
    until.touch()
    holding.join()
    assert operator.type("objects", "export", "Shop", "--out", str(file))[0] == 0
    assert list(exported(file)) == ["Shop/alice", "Shop/bob"]


def test_of_an_import_what_was_refused_is_told_with_how_many_are_there(
    service: Service, operator: Operator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importing, "MANY_OBJECTS_MAX", 2)
    names = [f"c{number:02}" for number in range(20)]
    for name in names:
        service.call("Shop", name, "both", name)
    service.call("Shop", "c05", "fill", 3, "x" * 500_000)  # Comes in two steps.
    file, again = tmp_path / "shops", tmp_path / "again"
    assert operator.type("objects", "export", "Shop", "--out", str(file))[0] == 0
    for name in (*names[:8], *names[10:]):
        assert operator.type("objects", "delete", "Shop", name, "--yes")[0] == 0
    code, _, err = operator.type("objects", "import", str(file))
    assert (code, "Shop/c08 exists; nothing was changed" in err) == (3, True)
    done = int(err.partition("; ")[2].rpartition("; ")[2].split()[0])
    there = [each["name"] for each in operator.json("objects", "ls", "Shop")["objects"]]
    assert 8 <= done == len(there) - 2 < 18
    assert operator.json("objects", "import", str(file), "--replace")["objects"] == 20
    assert operator.type("objects", "export", "Shop", "--out", str(again))[0] == 0
    assert again.read_bytes() == file.read_bytes()
    edits = [json.loads(line) for line in (service.data / "audit.jsonl").read_text().splitlines()]
    loaded = {name for edit in edits if edit.get("what") == "load" for name in edit.get("objects", [edit.get("object")])}
    assert loaded == {f"Shop/{name}" for name in names}


def test_of_two_objects_of_one_name_the_later_is_imported_later(service: Service, operator: Operator, tmp_path: Path) -> None:
    file = tmp_path / "shops"
    one = '{"object": "Shop/alice", "alarm_ms": null}\n{"key": "n", "value": %d}\n{"end": "Shop/alice", "keys": 1}\n'
    file.write_text("".join(one % number for number in range(5)))
    assert operator.json("objects", "import", str(file), "--replace") == {"objects": 5, "keys": 5}
    assert operator.json("objects", "get", "Shop", "alice", "n")["value"] == 4
    file.write_text(one % 7 + one.replace("alice", "bob") % 8 + "nothing")
    code, _, err = operator.type("objects", "import", str(file), "--replace")
    assert (code, "2 objects of it are imported" in err) == (1, True)
    assert operator.json("objects", "get", "Shop", "bob", "n")["value"] == 8


def test_an_import_goes_on_over_a_worker_that_is_not_there_for_a_moment(
    service: Service, operator: Operator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service.call("Shop", "alice", "set", "n", 1)
    file = tmp_path / "alice"
    assert operator.type("objects", "export", "Shop", "alice", "--out", str(file))[0] == 0
    real, asked = commanding.wish_for, []
    unavailable = Unavailable("the worker is being started").to_wire()

    def wished(options: Any, wish: LoadMany, target: str) -> Any:
        asked.append(wish)
        return {"pages": [{"error": unavailable}]} if len(asked) < 3 else real(options, wish, target)

    monkeypatch.setattr(importing, "wish_for", wished)
    assert operator.json("objects", "import", str(file), "--as", "Shop/bob") == {"objects": 1, "keys": 1}
    assert len(asked) == 3


def test_alarms_are_listed_with_how_late_they_are_run_and_dropped(service: Service, operator: Operator) -> None:
    service.call("Shop", "alice", "at", 3_600)
    service.call("Shop", "bob", "at", 7_200)
    assert [each["name"] for each in operator.json("objects", "alarms")["alarms"]] == ["alice", "bob"]
    assert operator.json("objects", "alarms", "--late")["alarms"] == []
    assert operator.type("objects", "alarms", "--late")[:2] == (0, "no alarm is late\n")
    for words in (["Shop"], ["list", "Shop"]):
        assert [each["name"] for each in operator.json("objects", "alarms", *words)["alarms"]] == ["alice", "bob"]
    assert operator.json("objects", "alarms", "Nobody")["alarms"] == []
    for wrong in (["Shop", "alice"], ["run", "Shop"], ["drop"], ["run", "Shop", "alice", "bob"]):
        assert operator.type("objects", "alarms", *wrong)[0] == 2
    assert operator.type("objects", "alarms", "run", "Shop", "alice")[:2] == (0, "Shop/alice: its alarm rings now\n")
    wait_until(lambda: service.call("Shop", "alice", "get", "rung"), "the alarm")
    assert operator.type("objects", "alarms", "drop", "Shop", "bob")[0] == 0
    assert operator.json("objects", "alarms")["alarms"] == []
    assert operator.type("objects", "alarms", "drop", "Shop", "bob")[0] == 3


def test_a_router_that_hangs_is_in_nobodys_way(service: Service, operator: Operator) -> None:
    service.call("Shop", "alice", "set", "n", 1)
    router = next(each["pid"] for each in service.status()["processes"] if each["name"].startswith("router"))
    os.kill(router, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        assert operator.type("objects", "get", "Shop", "alice", "n") == (0, "1\n", "")
        assert operator.type("objects", "call", "Shop", "alice", "get", '"n"') == (0, "1\n", "")
        assert time.monotonic() - began_s < 5.0
    finally:
        os.kill(router, signal.SIGCONT)


def test_edits_that_were_confirmed_survive_the_death_of_the_worker_and_others_are_told(
    service: Service, operator: Operator
) -> None:
    service.expect("killed by SIGKILL", "is ready again")
    confirmed = 0
    operator.json("objects", "put", "Shop", "alice", "n", "0", "--create")
    stop = threading.Event()

    def kill() -> None:
        for _ in range(3):
            stop.wait(1.0)
            for each in service.status()["processes"]:
                if each["name"].startswith("worker") and each["pid"]:
                    os.kill(each["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    refused = 0
    while killer.is_alive():
        code, _, _ = operator.type("objects", "put", "Shop", "alice", "n", str(confirmed + 1), "--if-value", str(confirmed))
        if code == 0:
            confirmed += 1
        else:
            refused += 1
            there = wait_until(lambda: _number_there(operator), "the worker")[0]
            assert there in (confirmed, confirmed + 1), "what was confirmed is there; what was not may be"
            confirmed = there
    killer.join()
    assert confirmed > 0
    assert wait_until(lambda: _number_there(operator), "the worker") == [confirmed]


def _number_there(operator: Operator) -> list[int]:
    """Empty: the worker does not say."""
    code, out, _ = operator.type("objects", "get", "Shop", "alice", "n")
    return [int(out)] if code == 0 else []


def test_the_newest_errors_of_all_objects_are_listed_and_who_is_called_most(service: Service, operator: Operator) -> None:
    service.expect("raised: ValueError", "Traceback", "ValueError: no")
    assert operator.type("objects", "errors")[1] == "no errors\n"
    for name in ("bob", "alice"):
        assert operator.type("call", "Shop", name, "boom", f'"no {name}"')[0] == 1
    errors = operator.json("objects", "errors")["errors"]
    assert [(each["name"], each["code"], each["what"]) for each in errors] == [
        ("alice", "boom", "raised: ValueError: no alice"),
        ("bob", "boom", "raised: ValueError: no bob"),
    ]
    assert len(operator.json("objects", "errors", "--limit", "1")["errors"]) == 1
    assert "no bob" in operator.type("objects", "errors")[1]

    def is_alice() -> bool:
        service.call("Shop", "alice", "get", "key")
        return [name for name, _ in _hot(operator)][:1] == ["alice"]

    wait_until(is_alice, "who is called most")
    assert "called most" in operator.type("status")[1]
    hot = operator.json("objects", "hot")["objects"]
    assert {each["name"] for each in hot} == {"alice", "bob"}
    minute = {each["name"]: each["minute_per_s"] for each in hot}
    assert minute["alice"] > minute["bob"] > 0, "bob was called in the last minute"
    assert "in the last minute" in operator.type("objects", "hot", "--limit", "1")[1]
    assert operator.json("inspect", "Shop", "alice")["calls_per_s"]["minute"] > 0
    assert "in the last minute" in operator.type("inspect", "Shop", "alice")[1]


def _hot(operator: Operator) -> list[tuple[str, float]]:
    processes = operator.json("status")["processes"]
    found = [each for process in processes for each in process.get("statistics", {}).get("hot_objects", [])]
    return [(each["name"], each["calls_per_s"]) for each in sorted(found, key=lambda each: -float(each["calls_per_s"]))]
