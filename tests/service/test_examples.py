"""The examples run as their readers would run them, and the bank keeps its promise while everything is killed."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import tidegate
from tests.support.load import read_many
from tests.support.service import KILLED_BY_TEST, ROOT, Serve, Service, exchange
from tests.support.waiting import wait_until
from tidegate import CallError, SyncClient
from tidegate.runtime.ids import shard_of_slot, slot_of

ACCOUNTS = [f"account-{number}" for number in range(12)]
OPENING = 100
RAISED = " raised: |^ *Traceback"
"""Exceptions of methods go to the caller, and to the log."""
EXAMPLES = ROOT / "examples"


def test_an_example_fits_on_a_screen_and_passes_the_type_checker() -> None:
    files = [str(EXAMPLES / name) for name in ("counter.py", "bank.py", "chat.py")]
    assert all(len(Path(file).read_text().splitlines()) <= 80 for file in files)
    checked = subprocess.run([sys.executable, "-m", "mypy", "--strict", *files], capture_output=True, text=True, cwd=ROOT)
    assert checked.returncode == 0, checked.stdout


@pytest.fixture
def bank(serve: Serve) -> Service:
    service = serve(2, app=str(EXAMPLES / "bank.py"))
    service.expect(RAISED)
    for account in ACCOUNTS:
        assert service.call("Bank", "main", "open", account, OPENING) == OPENING
    return service


def balances(service: Service) -> dict[str, int]:
    return dict(zip(ACCOUNTS, read_many(service.endpoint, ACCOUNTS, "Account", "balance"), strict=True))


def test_money_goes_from_one_account_to_another_and_only_once(bank: Service) -> None:
    for _ in range(3):
        bank.call("Bank", "main", "transfer", ACCOUNTS[0], ACCOUNTS[1], 30, "rent")
    bank.call("Bank", "main", "transfer", ACCOUNTS[1], ACCOUNTS[2], 5)
    bank.call("Bank", "main", "transfer", ACCOUNTS[1], ACCOUNTS[2], 5)
    assert list(balances(bank).values())[:4] == [70, 120, 110, 100]
    assert bank.call("Bank", "main", "open", ACCOUNTS[0], OPENING) == 70
    assert bank.call("Bank", "main", "total") == OPENING * len(ACCOUNTS)


def test_a_transfer_that_cannot_be_is_refused_and_changes_nothing(bank: Service) -> None:
    for target, amount in ((ACCOUNTS[1], 101), (ACCOUNTS[1], 0), (ACCOUNTS[1], -5), (ACCOUNTS[0], 5)):
        status, error = exchange(bank.endpoint, "Bank", "main", "transfer", [ACCOUNTS[0], target, amount, "odd"])
        assert (status, error["code"], error["type"]) == (1, "exception", "ValueError"), (target, amount)
    assert set(balances(bank).values()) == {OPENING}


def test_accounts_that_pay_each_other_at_the_same_time_do_not_wait_for_each_other(bank: Service) -> None:
    with tidegate.connect_sync(bank.endpoint) as client:
        pay_in_circles(client, transfers=200, threads=4, seed=1)
        assert client.stub("Bank", "main").total() == OPENING * len(ACCOUNTS)
    assert sum(balances(bank).values()) == OPENING * len(ACCOUNTS)


def pay_in_circles(client: SyncClient, transfers: int, threads: int, seed: int) -> dict[str, tuple[str, str, int]]:
    """Random transfers, each asked for until its fate is known; those that were made."""
    made: dict[str, tuple[str, str, int]] = {}

    def pay(thread: int) -> None:
        generator = random.Random(seed * 100 + thread)
        for number in range(transfers // threads):
            (source, target), amount = generator.sample(ACCOUNTS, 2), generator.randint(1, 60)
            transfer = f"{seed}-{thread}-{number}"
            give_up_at = time.monotonic() + 60
            while time.monotonic() < give_up_at:
                try:
                    client.stub("Bank", "main").transfer(source, target, amount, transfer)
                    made[transfer] = (source, target, amount)
                    break
                except ValueError:  # Not enough money.
                    break
                except CallError:  # Of the bank or, as an exception of its method, of an account: the fate is unknown.
                    continue

    workers = [threading.Thread(target=pay, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return made


@pytest.mark.timeout(240)
def test_no_money_is_lost_doubled_or_made_while_workers_are_killed(bank: Service) -> None:
    bank.expect(KILLED_BY_TEST, "FLAPPING")
    finished, generator = threading.Event(), random.Random(3)

    def kill() -> None:
        kills = 0
        while kills < 9 and not finished.wait(0.3):
            if pids := bank.worker_pids():
                os.kill(generator.choice(pids), signal.SIGKILL)
                kills += 1

    killer = threading.Thread(target=kill)
    killer.start()
    with tidegate.connect_sync(bank.endpoint) as client:
        made = pay_in_circles(client, transfers=400, threads=4, seed=2)
    finished.set()
    killer.join()
    bank.kill_everything()
    bank.start(2)
    # What a caller gave up is delivered by alarms; then the balances are what the transfers made say.
    wait_until(lambda: sum(balances(bank).values()) == OPENING * len(ACCOUNTS), "all money in accounts")
    expected = dict.fromkeys(ACCOUNTS, OPENING)
    for source, target, amount in made.values():
        expected[source] -= amount
        expected[target] += amount
    assert balances(bank) == expected
    assert min(expected.values()) >= 0
    assert len(made) > 100


def test_money_left_in_an_outbox_is_delivered_though_nobody_asks_again(bank: Service) -> None:
    """The receiving worker is stopped, so the delivery hangs; then everything is killed, and only the alarm is left."""
    source, target = two_on_different_workers(bank)
    os.kill(target[1], signal.SIGSTOP)
    asking = threading.Thread(target=lambda: exchange_quietly(bank, source[0], target[0]))
    asking.start()
    wait_until(lambda: read_many(bank.endpoint, [source[0]], "Account", "balance") == [OPENING - 40], "money on its way")
    bank.kill_everything()
    bank.start(1)
    wait_until(lambda: balances(bank)[target[0]] == OPENING + 40, "a delivery that nobody asked for")
    assert read_many(bank.endpoint, [source[0]], "Account", "holdings") == [OPENING - 40]
    asking.join()


def exchange_quietly(bank: Service, source: str, target: str) -> None:
    try:
        exchange(bank.endpoint, "Account", source, "send", [target, 40, "slow"], timeout_s=3)
    except AssertionError:  # Nobody answers, as nobody is left.
        pass


def two_on_different_workers(bank: Service) -> tuple[tuple[str, int], tuple[str, int]]:
    """Two accounts, each with the process that has it."""
    status = bank.status()
    workers = status["processes"][2:]
    found: dict[int, str] = {}
    for account in ACCOUNTS:
        shard = shard_of_slot(slot_of("Account", account), status["shards"])
        worker = next(worker for worker in workers if shard in worker["shards"])
        found.setdefault(worker["pid"], account)
    (pid, source), (other_pid, target) = found.items()
    return (source, pid), (target, other_pid)


@pytest.fixture
def chat(serve: Serve) -> Service:
    service = serve(2, app=str(EXAMPLES / "chat.py"))
    service.expect(RAISED)
    return service


def texts(page: list[dict[str, object]]) -> list[object]:
    return [message["text"] for message in page]


def test_a_room_gives_its_newest_messages_and_any_older_page(chat: Service) -> None:
    for number in range(50):
        assert chat.call("Room", "lobby", "post", "alice", f"m{number}") == number
    assert texts(chat.call("Room", "lobby", "history")) == [f"m{number}" for number in range(30, 50)]
    assert texts(chat.call("Room", "lobby", "history", 3)) == ["m47", "m48", "m49"]
    assert texts(chat.call("Room", "lobby", "history", 3, 47)) == ["m44", "m45", "m46"]
    assert texts(chat.call("Room", "lobby", "history", 20, 2)) == ["m0", "m1"]
    assert chat.call("Room", "lobby", "history", 20, 0) == []
    assert chat.call("Room", "elsewhere", "history") == []


def test_a_room_keeps_its_history_when_everything_is_killed(chat: Service) -> None:
    chat.call("Room", "lobby", "post", "alice", "before")
    chat.kill_everything()
    chat.start(1)
    assert chat.call("Room", "lobby", "post", "bob", "after") == 1
    assert texts(chat.call("Room", "lobby", "history")) == ["before", "after"]


def test_readers_wait_for_the_next_message_and_the_room_is_open_meanwhile(chat: Service) -> None:
    heard: list[list[object]] = []
    readers = [threading.Thread(target=lambda: heard.append(texts(chat.call("Room", "lobby", "wait", -1)))) for _ in range(3)]
    for reader in readers:
        reader.start()
    wait_until(lambda: sum(chat.status()["router"]["in_flight"]) == 3, "three who wait")
    assert chat.call("Room", "lobby", "history") == []
    chat.call("Room", "lobby", "post", "alice", "hello")
    for reader in readers:
        reader.join(10)
    assert heard == [["hello"]] * 3
    assert chat.call("Room", "lobby", "wait", 0, 0.1) == []


def test_a_message_without_text_is_refused(chat: Service) -> None:
    status, error = exchange(chat.endpoint, "Room", "lobby", "post", ["alice", ""])
    assert (status, error["type"]) == (1, "ValueError")
    assert chat.call("Room", "lobby", "history") == []


def test_the_commands_of_the_examples_work_as_written(serve: Serve, tmp_path: Path) -> None:
    for example in ("counter.py", "bank.py", "chat.py"):
        text = (EXAMPLES / example).read_text()
        commands = [line.strip() for line in text.splitlines() if line.startswith("    tidegate call")]
        assert commands
        assert f"    tidegate serve examples/{example}\n" in text
        service = serve(1, app=f"examples/{example}", data=tmp_path / example)
        for command in commands:
            shell = command.replace("tidegate", f"{sys.executable} -m tidegate", 1) + f" --connect {service.endpoint}"
            done = subprocess.run(shell, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60)
            assert (done.returncode, done.stderr) == (0, ""), command
        assert service.stop() == 0
