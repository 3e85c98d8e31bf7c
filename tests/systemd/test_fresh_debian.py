"""The README's own commands on a fresh Debian 12, booted, without this tree: installed, called by others, hurt, booted again,
removed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wheel import ROOT, build, copy_tree
from tests.systemd.booted import Booted, run, skip_unless_bootable
from tests.systemd.debian import DEBIAN, MADE_S_MAX, make_debian

HERE = Path(__file__).parent

VAULT = """
import hashlib
import os
from pathlib import Path

from tidegate import DurableObject


class Vault(DurableObject):
    async def digest(self) -> str:
        secret = Path(os.environ["CREDENTIALS_DIRECTORY"], "db").read_text()
        print("the secret has", len(secret), "letters")
        return hashlib.sha256(secret.encode()).hexdigest()

    async def variable(self) -> str | None:
        return os.environ.get("OF_THE_APP")
"""
SECRET = "correct horse battery staple"

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def readme_blocks(language: str, word: str) -> list[str]:
    """Of the install section, those in which the word is."""
    section = re.split(r"^## ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    (install,) = [text for text in section if text.startswith("Install on a server\n")]
    blocks = re.findall(rf"^```{language}\n(.*?)^```", install, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if word in block]


def readme_commands(word: str) -> list[str]:
    """The lines to type of the one block in which the word is."""
    (block,) = readme_blocks("sh", word)
    return list(block.splitlines())


def commands_of(page: str, word: str) -> list[str]:
    """The same, of a page of the docs."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if word in block]
    return list(block.splitlines())


def readme_app() -> str:
    (text,) = re.findall(r"^```python\n(# counter\.py\n.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(text)


class Server(Booted):
    """On which ann may use sudo, and bob may not."""

    depth = 3

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "-n", "150").stdout if self.init else super().journal()

    def kill(self, signal: str) -> None:
        """The supervisor."""
        self.run("systemctl", "kill", "--kill-whom=main", f"--signal={signal}", "tidegate")

    def type(self, user: str, line: str) -> subprocess.CompletedProcess[str]:
        """As in a terminal, at home."""
        return self.run("su", "-", user, "-c", line)

    def typed(self, user: str, line: str) -> str:
        """What it prints; it has to succeed."""
        done = self.type(user, line)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def files(self) -> set[str]:
        """That an installation may make, or leave behind."""
        listed = self.run(
            "find", "/etc", "/srv", "/var/lib", "/run", "/usr/local", "-xdev", "-not", "-path", "/run/systemd/*"
        ).stdout
        ours = ("tidegate", "vault")
        return {path for path in listed.splitlines() if any(name in path for name in ours)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    skip_unless_bootable()
    make_debian()
    home = tmp_path_factory.mktemp("home")
    build(copy_tree(tmp_path_factory.mktemp("copy")), home)
    (home / "counter.py").write_text(readme_app())
    (home / "vault.py").write_text(VAULT)
    boot = [str(HERE / "fresh.sh"), str(DEBIAN), str(home)]
    server = Server(boot, tmp_path_factory.mktemp("server") / "boot.log", "multi-user.target")
    try:
        server.wait_until_booted()
        yield server
    finally:
        server.close()


# The tests share the server, and run in this order.


@pytest.mark.timeout(MADE_S_MAX + 300)
def test_the_commands_of_the_readme_install_and_start_the_service(server: Server) -> None:
    for line in readme_commands("venv"):
        print(server.typed("ann", line))
    state = server.state()
    assert (state["ActiveState"], state["NRestarts"]) == ("active", "0")
    assert state["StatusText"].startswith("serving 1 class on tcp://127.0.0.1:7711")


def test_a_second_user_calls_it_as_the_readme_says(server: Server) -> None:
    (transcript,) = readme_blocks("console", "get_unique_number")
    steps = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", transcript, re.MULTILINE)
    assert len(steps) > 1
    for command, expected in steps:
        assert server.typed("bob", command) == expected


def test_a_command_that_lacks_a_package_says_a_line_that_installs_it_as_it_stands(server: Server) -> None:
    lacking = server.type("bob", "tidegate completion bash")
    assert lacking.returncode == 1
    (line,) = re.findall(r"\((sudo \S+ -m pip install .*)\)$", lacking.stderr.strip())
    server.typed("ann", line)
    assert "_tidegate_classes" in server.typed("bob", "tidegate completion bash")


def test_with_access_keys_a_second_user_calls_it_with_a_key_and_not_without(server: Server) -> None:
    server.typed("ann", "sudo tidegate keys new bob --data /var/lib/tidegate && sudo systemctl restart tidegate")
    server.typed("ann", "sudo install -o bob -m 600 bob.key ~bob/")
    call = "tidegate call Counter carol get_unique_number --timeout 20"
    assert server.type("bob", call).returncode == 1
    assert server.typed("bob", f"{call} --key-file bob.key") == "0\n"
    server.typed("ann", "sudo rm /var/lib/tidegate/access.json && sudo systemctl restart tidegate")
    assert server.typed("bob", call) == "1\n"


def test_other_users_neither_read_the_data_nor_command_the_service(server: Server) -> None:
    assert "Permission denied" in server.type("bob", "ls /var/lib/tidegate").stderr
    assert "Permission denied" in server.type("bob", "ls /etc/tidegate/credentials").stderr
    assert server.type("bob", "tidegate reload").returncode != 0
    assert server.type("bob", "tidegate install-service /srv/counter/counter.py").stderr.count("needs root") == 1


def test_the_unit_is_judged_as_tight_by_the_systemd_that_runs_it(server: Server) -> None:
    judged = server.run("systemd-analyze", "security", "--threshold=15", "--no-pager", "tidegate.service")
    assert judged.returncode == 0, judged.stdout


def test_a_dry_run_says_what_an_installation_does_and_does_nothing(server: Server) -> None:
    before, pid = server.files(), server.state()["MainPID"]
    said = server.typed("bob", "tidegate install-service /srv/counter/counter.py --name other --dry-run")
    assert "would write /etc/systemd/system/other.service\n" in said
    steps = json.loads(server.typed("bob", "tidegate install-service /srv/counter/counter.py --name other --dry-run --json"))
    assert [step["step"] for step in steps["steps"]] == [line.removeprefix("would ") for line in said.splitlines()]
    assert "would remove /etc/systemd/system/tidegate.service\n" in server.typed("bob", "tidegate uninstall-service --dry-run")
    assert (server.files(), server.state()["MainPID"]) == (before, pid)


def test_an_app_at_home_is_refused_before_anything_is_done(server: Server) -> None:
    refused = server.type("ann", "sudo tidegate install-service vault.py --name vault")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "services see no files of /home" in refused.stderr


def test_a_second_service_gets_its_secrets_and_serves_its_group_only(server: Server) -> None:
    server.typed("ann", f"sudo install -D -m 644 vault.py /srv/vault/vault.py && (umask 077; printf '{SECRET}' > db)")
    listen = "ipc:///run/vault.sock"
    command = f"sudo tidegate install-service /srv/vault/vault.py --name vault --listen {listen} --secret db=db"
    assert SECRET not in server.typed("ann", command)
    server.typed("ann", "sudo usermod --append --groups vault bob")
    call = f"tidegate call Vault a digest --connect {listen} --timeout 5"
    assert server.typed("bob", call) == f'"{run("sh", "-c", f"printf %s {SECRET!r} | sha256sum").stdout.split()[0]}"\n'
    assert "Permission denied" in server.type("ann", call).stderr
    assert server.run("stat", "-c", "%U %a", "/etc/vault/credentials/db").stdout == "root 600\n"
    journal = server.run("journalctl", "--no-pager").stdout
    assert f"the secret has {len(SECRET)} letters" in journal
    assert SECRET not in journal


def test_variables_reach_the_app_with_the_next_start(server: Server) -> None:
    server.typed("ann", "echo OF_THE_APP=blue | sudo tee -a /etc/vault/environment && sudo systemctl restart vault")
    assert server.typed("bob", "tidegate call Vault a variable --connect ipc:///run/vault.sock") == '"blue"\n'


def test_what_objects_write_is_an_entry_of_the_journal_with_its_object(server: Server) -> None:
    entries = server.run("journalctl", "-u", "vault", "-o", "json", "--no-pager").stdout.splitlines()
    (entry, *_) = [each for each in map(json.loads, entries) if "the secret has" in each["MESSAGE"]]
    assert (entry["TIDEGATE_OBJECT"], entry["TIDEGATE_METHOD"]) == ("Vault/a", "digest")


def test_a_supervisor_that_crashes_is_started_again(server: Server) -> None:
    server.kill("KILL")
    server.wait_until(lambda: server.state()["NRestarts"] == "1", "the restart")
    server.wait_until_active()
    assert server.typed("bob", "tidegate call Counter alice get_unique_number") == "2\n"


def test_a_supervisor_that_hangs_is_killed_by_the_watchdog_and_started_again(server: Server) -> None:
    server.run("mkdir", "-p", "/run/systemd/system/tidegate.service.d")
    drop_in = "[Service]\\nWatchdogSec=3\\nTimeoutAbortSec=1\\nRestartSec=1\\n"
    server.run("sh", "-c", f"printf '{drop_in}' > /run/systemd/system/tidegate.service.d/soon.conf")
    server.typed("ann", "sudo systemctl daemon-reload && sudo systemctl restart tidegate")
    hung = server.state()["MainPID"]
    server.kill("STOP")
    server.wait_until(lambda: server.state()["NRestarts"] == "1", "the kill by the watchdog")
    server.wait_until_active()
    assert "Watchdog timeout" in server.journal()
    assert server.state()["MainPID"] != hung
    assert server.typed("bob", "tidegate call Counter alice get_unique_number") == "3\n"
    server.run("rm", "-r", "/run/systemd/system/tidegate.service.d")
    server.run("systemctl", "daemon-reload")


def test_a_reload_as_the_readme_says_runs_the_new_app_in_the_same_service(server: Server) -> None:
    pid = server.state()["MainPID"]
    server.typed("ann", "sed -i 's/value + 1/value + 100/' counter.py")
    for line in readme_commands("systemctl reload"):
        server.typed("ann", line)
    numbers = [server.typed("bob", "tidegate call Counter alice get_unique_number") for _ in range(2)]
    assert numbers == ["4\n", "104\n"]
    assert server.state()["MainPID"] == pid


def test_the_upgrade_of_the_readme_keeps_the_data_and_what_is_the_operators(server: Server) -> None:
    server.typed("ann", "echo '# mine' | sudo tee -a /etc/tidegate/tidegate.toml")
    for line in readme_commands("--upgrade"):
        server.typed("ann", line)
    assert server.run("tail", "-1", "/etc/tidegate/tidegate.toml").stdout == "# mine\n"
    assert server.typed("bob", "tidegate call Counter alice get_unique_number") == "204\n"


def test_a_timer_makes_backups_of_the_running_service_and_the_newest_is_restored_beside_it(server: Server) -> None:
    place, app = "/var/backups/tidegate", "/srv/counter/counter.py"
    server.typed("ann", f"sudo tidegate install-service {app} --backup {place} --backup-every '*:*:0/3'")
    server.wait_until_active()
    server.run("mkdir", "-p", "/run/systemd/system/tidegate-backup.timer.d")
    drop_in = "[Timer]\\nRandomizedDelaySec=0\\nAccuracySec=100ms\\n"
    server.run("sh", "-c", f"printf '{drop_in}' > /run/systemd/system/tidegate-backup.timer.d/soon.conf")
    server.typed("ann", "sudo systemctl daemon-reload && sudo systemctl restart tidegate-backup.timer")

    def backups() -> int:
        listed = server.type("ann", f"sudo tidegate restore {place} --list --json")
        return sum(lineage["backups"] for lineage in json.loads(listed.stdout)["lineages"])

    server.wait_until(lambda: backups() >= 2, "a full backup and one more")
    assert server.run("stat", "-c", "%U %a", place).stdout == "tidegate 700\n"
    assert server.typed("bob", "tidegate call Counter alice get_unique_number") == "304\n"
    made = backups()
    server.wait_until(lambda: backups() > made + 1, "one that began after that")
    assert server.state("tidegate-backup.service")["Result"] == "success"

    def told() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(server.typed("ann", "sudo tidegate status --json"))["backups"]
        return found

    server.wait_until(lambda: bool(told()), "that the service knows of them")
    assert [(each["place"], each["error"], each["due_s"]) for each in told()] == [(place, "", 7_200.0)]
    assert server.run("stat", "-c", "%U %a", "/var/lib/tidegate/backups.json").stdout == "tidegate 600\n"
    server.typed("ann", f"sudo tidegate restore {place} --data /var/lib/restored && sudo tidegate check /var/lib/restored")
    exported = server.typed("ann", "sudo tidegate export /var/lib/restored --class Counter")
    assert '{"key":"counter","value":404}' in exported  # The next number.
    secret = "a $HOME; (of) 'none' && \"more\" #1"
    quoted = secret.replace('"', '\\"')
    server.run("sh", "-c", f"cat > /etc/tidegate/backup-environment <<'END'\nAWS_SECRET_ACCESS_KEY=\"{quoted}\"\nEND")
    for line in commands_of("docs/backup.md", "systemd-run"):
        with_variables, command = line.replace("/etc/shop/", "/etc/tidegate/").split(" tidegate ")
        assert server.typed("ann", f"{with_variables} printenv AWS_SECRET_ACCESS_KEY") == f"{secret}\n"
        command = command.replace("s3://backups/shop", place).replace("/var/lib/shop", "/var/lib/restored")
        server.typed("ann", f"{with_variables} tidegate {command}")
    assert "tidegate.json" in server.run("ls", "/var/lib/restored").stdout
    server.run("rm", "/etc/tidegate/backup-environment")
    server.run("sh", "-c", "rm -r /var/lib/restored*")
    server.run("rm", "-r", "/run/systemd/system/tidegate-backup.timer.d")
    server.typed("ann", f"sudo systemctl daemon-reload && sudo tidegate install-service {app}")
    assert "OnCalendar=*:*:0/3\n" in server.run("cat", "/etc/systemd/system/tidegate-backup.timer").stdout
    assert server.run("systemctl", "is-active", "tidegate-backup.timer").stdout == "active\n"
    server.typed("ann", f"sudo tidegate install-service {app} --no-backup")
    assert "tidegate-backup" not in server.run("systemctl", "list-unit-files").stdout
    server.wait_until(lambda: not told(), "that none are expected")
    assert len(server.run("ls", place).stdout.split()) == 1, "what was made stays"


def test_a_stop_is_clean_and_whoever_connects_then_starts_it_again(server: Server) -> None:
    assert server.run("systemctl", "stop", "tidegate.service").returncode == 0
    state = server.state()
    assert (state["ActiveState"], state["Result"], state["ExecMainStatus"]) == ("inactive", "success", "0")
    # A client waits a few seconds for an answer from who has accepted its connection; the service may need longer here.
    server.wait_until(lambda: server.type("bob", "tidegate call Counter alice get_unique_number").stdout == "404\n", "an answer")


def test_a_start_without_room_waits_for_it_and_meets_no_start_limit(server: Server) -> None:
    """On a disk of its own, which is full."""
    server.run("systemctl", "stop", "vault.socket", "vault.service")
    server.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/var/lib/vault")
    server.run("sh", "-c", "head -c 1M /dev/zero > /var/lib/vault/lost+found")
    server.run("systemctl", "start", "--no-block", "vault.service")
    server.wait_until(lambda: server.state("vault")["StatusText"].startswith("cannot start, tries again"), "the wait")
    state = server.state("vault")
    assert (state["ActiveState"], state["NRestarts"]) == ("activating", "0")
    assert "make room" in state["StatusText"]
    server.run("rm", "/var/lib/vault/lost+found")
    server.run("mount", "-o", "remount,size=512m", "/var/lib/vault")
    server.wait_until(lambda: server.state("vault")["ActiveState"] == "active", "the start", within_s=120)
    assert server.run("systemctl", "is-active", "vault.socket").stdout == "active\n"
    server.run("systemctl", "stop", "vault.socket", "vault.service")
    server.run("umount", "/var/lib/vault")


def test_after_a_boot_the_service_runs_with_what_it_had(server: Server) -> None:
    server.run("systemctl", "reboot")
    server.wait_until_booted()
    server.wait_until_active()
    assert server.typed("bob", "tidegate call Counter alice get_unique_number") == "504\n"
    assert server.typed("bob", "tidegate call Vault a variable --connect ipc:///run/vault.sock") == '"blue"\n'


def test_an_app_that_cannot_be_loaded_is_told_with_its_reason_and_installed_when_it_is_mended(server: Server) -> None:
    """In the place of the second service, whose configuration is broken too when it goes."""
    server.typed("ann", "echo broken | sudo tee /etc/vault/tidegate.toml && sudo tidegate uninstall-service --name vault --purge")
    server.typed("ann", "(echo import no_such_module; cat vault.py) > broken.py")
    server.typed("ann", "sudo install -m 644 broken.py /srv/vault/vault.py")
    command = "sudo tidegate install-service /srv/vault/vault.py --name vault --listen tcp://127.0.0.1:7712"
    failed = server.type("ann", command)
    assert failed.returncode == 1
    assert "No module named 'no_such_module'" in failed.stdout
    assert "journalctl -u vault.service" in failed.stderr
    server.typed("ann", "sudo install -m 644 vault.py /srv/vault/vault.py")
    assert server.typed("ann", command).endswith("vault is ready; how it is: tidegate status --connect tcp://127.0.0.1:7712\n")


def test_a_service_whose_port_is_taken_is_told_so_and_starts_when_it_is_free(server: Server) -> None:
    """By the first service; a shorter patience than that of people."""
    server.typed("ann", "sudo tidegate uninstall-service --name vault --purge")
    program = (
        "from tidegate.runtime.install import machine; machine.COMMAND_S_MAX = 20; from tidegate.runtime.cli.cli import main"
    )
    command = '["install-service", "/srv/vault/vault.py", "--name", "vault"]'
    failed = server.type("ann", f"sudo /opt/tidegate/bin/python -c '{program}; raise SystemExit(main({command}))'")
    assert failed.returncode == 1
    assert "Address already in use" in failed.stdout
    assert "systemctl status vault.service says what it waits for" in failed.stderr
    server.run("systemctl", "stop", "tidegate.socket", "tidegate.service")
    server.wait_until(lambda: server.state("vault")["ActiveState"] == "active", "the start", within_s=120)
    server.typed("ann", "sudo tidegate uninstall-service --name vault")
    server.typed("ann", "sudo systemctl start tidegate.socket tidegate.service")


def test_a_service_for_other_machines_as_operations_say_asks_for_the_key_that_was_made_before_it(server: Server) -> None:
    for line in commands_of("docs/operations.md", "--name net"):
        server.typed("ann", line)
    call = "tidegate call Counter alice get_unique_number --timeout 5 --connect"
    assert server.type("ann", f"{call} tcp://127.0.0.1:7713").returncode == 1
    assert server.typed("ann", f"sudo {call} tcp://127.0.0.1:7713 --key-file web.key") == "0\n"
    assert server.run("stat", "-c", "%U", "/var/lib/net/access.json").stdout == "net\n"
    server.typed("ann", "sudo sed -i 's/:7713/:7714/' /etc/net/tidegate.toml && sudo systemctl restart net")
    warned = "listens on tcp://0.0.0.0:7713, which systemd has opened, and not on tcp://0.0.0.0:7714"
    assert warned in server.run("journalctl", "--no-pager", "-u", "net").stdout
    server.typed("ann", "sudo tidegate install-service /srv/counter/counter.py --name net")
    assert server.typed("ann", f"sudo {call} tcp://127.0.0.1:7714 --key-file web.key") == "100\n"
    server.typed("ann", "sudo mkdir /var/lib/net.before-20261130T040000Z")
    kept = server.typed("ann", "sudo tidegate uninstall-service --name net --dry-run")
    assert "would keep /var/lib/net.before-20261130T040000Z" in kept
    server.typed("ann", "sudo tidegate uninstall-service --name net --purge")
    assert server.run("sh", "-c", "ls -d /etc/net /var/lib/net /var/lib/net.*").stdout == ""


def test_an_uninstallation_as_the_readme_says_keeps_data_and_a_purge_leaves_nothing(server: Server) -> None:
    for line in readme_commands("uninstall-service"):
        server.typed("ann", line)
    assert server.state()["ActiveState"] == "inactive"
    assert "tidegate.service" not in server.run("systemctl", "list-unit-files").stdout
    assert {"/etc/tidegate/tidegate.toml", "/var/lib/tidegate/tidegate.json"} <= server.files()
    server.typed("ann", "sudo tidegate uninstall-service --purge && sudo tidegate uninstall-service --name vault --purge")
    assert server.files() == {"/usr/local/bin/tidegate", "/srv/vault", "/srv/vault/vault.py"}
    for base in ("passwd", "group"):
        assert server.run("getent", base, "tidegate", "vault").stdout == ""
    assert server.type("ann", "sudo tidegate uninstall-service").stdout == "no service tidegate is installed\n"
