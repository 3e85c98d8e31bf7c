"""The installed wheel: what is in it, and that it takes no name from its users but `tidegate`."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.service import Service
from tests.support.wheel import ROOT, build, run
from tidegate.runtime.addresses import free_port

OURS = ("benchmarks", "router", "runtime", "shard", "testing")
APP = """
import runtime
import tidegate
from benchmarks import SIZE
from router.way import WAY
from shard import SHARD


class Names(tidegate.DurableObject):
    async def all_of_them(self) -> list[str]:
        await self.storage.put("names", [runtime.RUNTIME, WAY, SHARD, SIZE])
        return await self.storage.get("names", [], type=list[str])
"""
CLIENT = """
import asyncio
import sys

import runtime
import tidegate
from app import Names
from benchmarks import SIZE
from router.way import WAY
from shard import SHARD

OWN = [runtime.RUNTIME, WAY, SHARD, SIZE]


async def ask():
    async with tidegate.connect(sys.argv[1]) as client:
        return await client.stub(Names, "a").all_of_them()


with tidegate.connect_sync(sys.argv[1]) as client:
    assert client.stub("Names", "b").all_of_them() == OWN
assert asyncio.run(ask()) == OWN
print(tidegate.__file__)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An app and a client beside modules and packages of the user's own that have the names of folders of ours."""
    folder = tmp_path / "project"
    for name, text in {
        "app.py": APP,
        "client.py": CLIENT,
        "runtime.py": "RUNTIME = 'my runtime'",
        "shard/__init__.py": "SHARD = 'my shard'",
        "router/way.py": "WAY = 'my router'",
        "benchmarks/__init__.py": "SIZE = 'my benchmarks'",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_wheel_installs_one_name_typed_with_the_unit_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {name for name in names if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in code} == {"tidegate"}
    modules = {f"tidegate/{path.relative_to(ROOT)}" for folder in OURS for path in (ROOT / folder).rglob("*.py")}
    assert len(modules) > 150
    assert code == modules | {
        "tidegate/__init__.py",
        "tidegate/__main__.py",
        "tidegate/public.py",
        "tidegate/pytest_plugin.py",
        "tidegate/py.typed",
        "tidegate/systemd/tidegate.service",
        "tidegate/systemd/tidegate-backup.service",
        "tidegate/systemd/tidegate-backup.timer",
        "tidegate/systemd/tidegate.socket",
        "tidegate/systemd/tidegate.toml",
        "tidegate/systemd/nats-server.conf",
        "tidegate/systemd/nats-server.service",
        "tidegate/systemd/monitoring/tidegate-alerts.yml",
        "tidegate/systemd/monitoring/tidegate-dashboard.json",
        "tidegate/systemd/sysusers.d/tidegate.conf",
        "tidegate/systemd/tmpfiles.d/tidegate.conf",
        *(
            f"tidegate/{path.relative_to(ROOT)}"
            for path in (ROOT / "template").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ),
        "tidegate/runtime/chaos/stage/no_orders.h",
        "tidegate/runtime/chaos/stage/sync_shim.c",
        *(f"tidegate/{path.relative_to(ROOT)}" for path in (ROOT / "runtime" / "console" / "static").iterdir()),
    }


def test_a_wheel_made_from_a_source_distribution_has_the_same_in_it(copy: Path, wheel: Path, tmp_path: Path) -> None:
    """In which the links of the tree are plain folders."""
    program = f"import setuptools.build_meta as backend; backend.build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", program, cwd=copy)
    (packed,) = tmp_path.glob("*.tar.gz")
    again = build(packed, tmp_path / "wheel")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_the_unit_is_found_where_the_pages_say(installed: Path) -> None:
    program = "from importlib.resources import files; print((files('tidegate') / 'systemd' / 'tidegate.service').read_text())"
    assert run(installed / "python", "-c", program).strip() == (ROOT / "systemd" / "tidegate.service").read_text().strip()


def test_no_folder_of_ours_can_be_imported_by_its_bare_name(installed: Path, tmp_path: Path) -> None:
    program = f"import importlib.util as u, tidegate.shard.worker.worker; print([u.find_spec(name) for name in {OURS}])"
    assert run(installed / "python", "-c", program, cwd=tmp_path) == "[None, None, None, None, None]\n"


def test_an_app_and_a_client_may_have_modules_with_the_names_of_our_folders(installed: Path, project: Path) -> None:
    service = Service(project / "data", str(project / "app.py"), free_port(), (str(installed / "tidegate"),), {})
    try:
        service.start(2)
        where = run(installed / "python", "client.py", service.endpoint, cwd=project)
        assert Path(where.strip()).is_relative_to(installed.parent)
        called = run(installed / "tidegate", "call", "Names", "c", "all_of_them", "--connect", service.endpoint, cwd=project)
        assert called == '["my runtime","my router","my shard","my benchmarks"]\n'
    finally:
        problems = service.close()
    assert not problems
