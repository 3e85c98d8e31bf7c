"""`except SoldOut` between objects and in clients, whatever its module is called there; no forged lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import ROOT, Serve, Service

APP = ROOT / "tests" / "service" / "apps" / "soldout.py"
EXPECTED = (" raised: ", "Traceback", "KeyError")
NAMES = [f"s{number}" for number in range(6)]
"""Of objects of both workers."""

ASYNC = """
import asyncio, sys
import tidegate
async def main():
    async with tidegate.connect(sys.argv[1]) as client:
        for name in {names}:
            direct, clerk = client.stub(Shelf, name), client.stub("Clerk", name)
            for call in (direct.take("tea"), clerk.pass_on_again("other", name, "take", "tea")):
                try:
                    await call
                except SoldOut as exc:
                    print(type(exc).__name__, exc, exc.article, exc.left, exc.__cause__.cause)
asyncio.run(main())
"""
SYNC = """
import sys
import tidegate
with tidegate.connect_sync(sys.argv[1]) as client:
    for name in {names}:
        direct, clerk = client.stub(Shelf, name), client.stub("Clerk", name)
        for call in (lambda: direct.take("tea"), lambda: clerk.pass_on_again("other", name, "take", "tea")):
            try:
                call()
            except SoldOut as exc:
                print(type(exc).__name__, exc, exc.article, exc.left, exc.__cause__.cause)
"""
IMPORTS = {
    "the same name": "import sys; sys.path.insert(0, {folder!r})\nfrom soldout import Shelf, SoldOut\n",
    "a package": "import sys; sys.path.insert(0, {root!r})\nfrom tests.service.apps.soldout import Shelf, SoldOut\n",
}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


@pytest.fixture
def service(serve: Serve) -> Service:
    service = serve(2, app=str(APP))
    service.expect(*EXPECTED)
    return service


@pytest.mark.parametrize("how", IMPORTS)
def test_clients_catch_an_exception_of_the_app_over_one_hop_and_over_three(service: Service, how: str) -> None:
    head = IMPORTS[how].format(folder=str(APP.parent), root=str(ROOT))
    for program in (ASYNC, SYNC):
        code = head + program.format(names=NAMES)
        done = run(sys.executable, "-c", code, service.endpoint)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "SoldOut tea is sold out tea 0 KeyError: 'tea'\n" * 2 * len(NAMES)


def test_a_program_that_is_the_app_s_own_file_catches_it(service: Service, tmp_path: Path) -> None:
    program = tmp_path / "soldout.py"
    program.write_text(APP.read_text() + SYNC.format(names=NAMES[:2]))
    done = run(sys.executable, str(program), service.endpoint)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("SoldOut tea is sold out tea 0") == 4


def test_objects_catch_an_exception_of_the_app_on_their_own_worker_and_on_another(service: Service) -> None:
    assert {service.call("Clerk", "one", "take", name, "tea") for name in NAMES} == {"soldout: tea, 0 left"}


def test_what_nobody_can_import_keeps_its_name_over_any_number_of_hops(service: Service) -> None:
    from tidegate import MethodRaised, connect_sync

    with connect_sync(service.endpoint) as client:
        for name in NAMES:
            for call in ("pass_on", "pass_on_again"):
                via = [name] if call == "pass_on_again" else []
                with pytest.raises(MethodRaised, match="behind the shelf") as caught:
                    getattr(client.stub("Clerk", "one"), call)(*via, name, "take_hidden")
                assert caught.value.type == "Hidden"
        with pytest.raises(ExceptionGroup, match="unhandled errors in a TaskGroup") as group:
            client.stub("Clerk", "one").pass_on_again("two", "s1", "take_several")
        parts: Any = group.value.exceptions
        assert sorted(part.type for part in parts) == ["Hidden", "SoldOut"]


def test_arguments_of_an_exception_that_are_no_json_are_shown_as_json(service: Service) -> None:
    done = run(sys.executable, "-m", "tidegate", "call", "Shelf", "s", "odd", "--json", "--connect", service.endpoint)
    assert json.loads(done.stdout)["error"]["args"] == ["/w==", "2026-01-01T00:00:00Z", {"7": [None]}]


def test_an_exception_cannot_forge_a_line_of_the_log_nor_of_the_command(service: Service) -> None:
    done = run(sys.executable, "-m", "tidegate", "call", "Shelf", "s", "forge", "--connect", service.endpoint)
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr
    service.wait_for_output("forged too")
    lines = [line for line in service.output.split("\n") if "forged" in line]
    assert lines
    assert all(line.startswith("    ") and "\x1b" not in line and "\r" not in line for line in lines), lines
