"""The Containerfile, carried out line by line on a fresh Debian 12, and run as process 1 of a container.

By systemd-nspawn: an engine for containers is more than these machines have. What it is given is what the Containerfile says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.control_groups import CORES, MEMORY_BYTES, limited_group
from tests.support.waiting import wait_until
from tests.support.wheel import ROOT, build, copy_tree
from tests.systemd.booted import ALONE, only_child, run, skip_unless_bootable
from tests.systemd.debian import DEBIAN, MADE_S_MAX, make_debian

HERE = Path(__file__).parent
UID = 7711
SAYINGS = {"FROM", "ENV", "USER", "WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
CALL = "tidegate call Counter alice get_unique_number"

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@dataclass
class Image:
    """What a Containerfile says."""

    steps: list[str] = field(default_factory=list)
    """Lines of a script for what changes files."""
    says: dict[str, str] = field(default_factory=dict)


def read_containerfile(text: str) -> Image:
    image = Image()
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word == "RUN":
            nspawn = 'systemd-nspawn --quiet -D "$ROOT" --register=no --keep-unit --console=pipe --private-network'
            image.steps.append(f"{nspawn} -- /bin/sh -euc {shlex.quote(rest)}")
        elif word == "COPY":
            source, target = rest.split()
            image.steps.append(f'cp {source} "$ROOT{target}"')
        else:
            assert word in {
                "FROM",
                "ENV",
                "USER",
                "WORKDIR",
                "VOLUME",
                "EXPOSE",
                "STOPSIGNAL",
                "HEALTHCHECK",
                "ENTRYPOINT",
                "CMD",
            }
            image.says[word] = rest
    return image


IMAGE = read_containerfile((ROOT / "Containerfile").read_text())
HEALTHY = " ".join(json.loads(re.sub(r"^.*CMD ", "", IMAGE.says["HEALTHCHECK"])))


class Container:
    def __init__(
        self,
        context: Path,
        data: Path,
        log: Path,
        *,
        more: Sequence[str] = (),
        argv: Sequence[str] = (),
        within: Sequence[str] = (),
    ) -> None:
        """`more`: for systemd-nspawn; `argv`: in the place of what the image says as CMD; `within`: what goes before all."""
        script = context / "build.sh"
        script.write_text("\n".join(IMAGE.steps))
        command = json.loads(IMAGE.says["ENTRYPOINT"]) + (list(argv) or json.loads(IMAGE.says["CMD"]))
        as_said = [f"--user={IMAGE.says['USER']}", f"--setenv={IMAGE.says['ENV']}", f"--chdir={IMAGE.says['WORKDIR']}"]
        contain = [str(HERE / "contain.sh"), str(DEBIAN), str(context), str(data), str(script), *as_said, *more, "--", *command]
        self._log = log
        with open(log, "w") as output:
            self.process = subprocess.Popen([*within, *ALONE, *contain], stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def output(self) -> str:
        return self._log.read_text()

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.output()
            return "is ready on" in self.output()

        wait_until(ready, "the service to be ready", within_s=200, seen=self.output, pause_s=0.1)

    @property
    def init(self) -> str:
        return only_child(only_child(str(self.process.pid)))

    def execute(self, command: str) -> subprocess.CompletedProcess[str]:
        """In the container, as its user."""
        said = Path(f"/proc/{self.init}/environ").read_text().split("\0")
        own = [each for each in said if each.startswith("TIDEGATE_")]
        enter = ["nsenter", "-t", self.init, "-m", "-u", "-i", "-p", "-n", "-S", str(UID), "-G", str(UID), "--"]
        return run(*enter, "env", "-i", IMAGE.says["ENV"], *own, "sh", "-c", command)

    def stop(self) -> int:
        """As an engine does; the exit code."""
        os.kill(int(self.init), signal.Signals[IMAGE.says["STOPSIGNAL"]])
        return self.process.wait(60)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_unless_bootable()
    make_debian()
    context = copy_tree(tmp_path_factory.mktemp("context"))
    (context / "dist").mkdir()
    build(context, context / "dist")
    shutil.copytree(ROOT / "examples", context / "examples", ignore=shutil.ignore_patterns("node_modules"))
    return context


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A volume."""
    folder = tmp_path / "data"
    folder.mkdir(0o700)
    os.chown(folder, UID, UID)
    return folder


@pytest.fixture
def start(context: Path, data: Path, tmp_path: Path) -> Iterator[list[Container]]:
    """Of those that were started, none is left running."""
    started: list[Container] = []
    yield started
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.mark.timeout(MADE_S_MAX + 300)
def test_the_image_serves_as_process_1_is_healthy_stops_when_asked_and_keeps_its_volume(
    context: Path, data: Path, tmp_path: Path, start: list[Container]
) -> None:
    for number in (0, 1):
        start.append(container := Container(context, data, tmp_path / f"log{number}"))
        container.wait_until_ready()
        called = container.execute(CALL)
        assert called.stdout == f"{number}\n", called.stderr + container.output()
        assert container.execute("cat /proc/1/cmdline").stdout.split("\0")[1:4] == [
            "/opt/tidegate/bin/tidegate",
            "serve",
            "--data",
        ]
        healthy = container.execute(HEALTHY)
        assert healthy.returncode == 0, healthy.stderr
        assert container.stop() == 0, container.output()
        assert "stopping: answering what is in flight" in container.output()


def test_the_recipe_of_a_unix_socket_is_healthy(context: Path, data: Path, tmp_path: Path, start: list[Container]) -> None:
    """The words of the page, but for the folder."""
    page = (ROOT / "docs" / "containers.md").read_text()
    (shared, variable, listen) = re.findall(r"--volume (\S+):\S+ --env (\S+) … /srv/app.py --listen (\S+)`", page)[0]
    folder = tmp_path / "shared"
    folder.mkdir(0o700)
    os.chown(folder, UID, UID)
    more = [f"--bind={folder}:{shared}", f"--setenv={variable}"]
    argv = [*json.loads(IMAGE.says["CMD"]), "--listen", listen]
    start.append(container := Container(context, data, tmp_path / "log", more=more, argv=argv))
    container.wait_until_ready()
    healthy = container.execute(HEALTHY)
    assert healthy.returncode == 0, healthy.stderr
    assert container.execute(CALL).stdout == "0\n"
    assert (folder / Path(listen).name).is_socket()


def test_the_limits_of_the_container_are_what_the_service_goes_by(
    context: Path, data: Path, tmp_path: Path, start: list[Container]
) -> None:
    with limited_group() as within:
        start.append(container := Container(context, data, tmp_path / "log", within=within))
        container.wait_until_ready()
        status = json.loads(container.execute("tidegate status --json").stdout)
        assert container.stop() == 0, container.output()
    assert status["may_use"] == {"cores": CORES, "memory_bytes": MEMORY_BYTES}
    workers = [each for each in status["processes"] if each["name"].startswith("worker")]
    assert [(each["name"], each["core"]) for each in workers] == [("worker 0", None)]


def test_the_page_names_the_user_and_the_files_of_the_image() -> None:
    page = (ROOT / "docs" / "containers.md").read_text()
    assert f"user {UID}" in page
    assert any(f"--uid {UID} " in step for step in IMAGE.steps)
    assert json.loads(IMAGE.says["CMD"])[0] in page
