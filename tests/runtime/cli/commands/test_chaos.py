"""`tidegate chaos` on the command line; what it does is tested with `runtime/chaos`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tidegate.runtime.chaos.campaign import strikers
from tidegate.runtime.chaos.faults.all import STRIKERS
from tidegate.runtime.chaos.faults.catalogue import FAULTS
from tidegate.runtime.cli.cli import main


def test_every_fault_of_the_catalogue_is_in_the_help_and_does_something(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["chaos", "--help"])
    assert ended.value.code == 0
    page = capsys.readouterr().out
    assert all(f"  {name} " in page and fault.says in page for name, fault in FAULTS.items())
    assert strikers(hosts=False) is STRIKERS, "what needs NATS is not loaded"
    assert FAULTS.keys() == strikers(hosts=True).keys()
    assert {name for name, fault in FAULTS.items() if fault.where != "hosts"} == STRIKERS.keys()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--faults", "kil"], "there is none of that name (choose from kill,"),
        (["--faults", "power"], "it needs a disk of its own (name its file system with --fs, as root)"),
        (["--faults", "sleep"], "it needs hosts (say how many with --hosts)"),
        (["--hosts", "3", "--faults", "slow"], "it is one of a single machine (leave it or --hosts out)"),
        (["--hosts", "3", "--fs", "ext4"], "it is the disk of a single machine (leave it or --hosts out)"),
        (["--hosts", "3", "--faults", "full", "--keys"], "callers see errors of it, also with keys (leave it, or --keys and"),
        (["--hosts", "3", "--no-network", "--faults", "cut"], "it needs a network of its own: --no-network (run it as root"),
        (["--data", "full"], "it is not empty (name a folder that is not there yet with --data)"),
        (["--data", "full/file"], "Not a directory (name a folder that is not there yet with --data)"),
        (["--data", "full/file/deeper"], "Not a directory (name a folder that is not there yet with --data)"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line_with_the_next_step(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(["chaos", *options]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize("wrong", ["--duration soon", "--duration 0s", "--times 0", "--fs fat", "--clients 0", "--hosts 1"])
def test_a_wrong_option_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["chaos", *wrong.split()])
    assert ended.value.code == 2
    assert wrong.split()[0] in capsys.readouterr().err


def test_a_short_run_prints_its_report_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chaos", "--faults", "none", "--duration", "1s", "--seed", "5", "--json", "--data", str(tmp_path / "run")]) == 0
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert (report["seed"], report["violations"], output.err) == (5, [], "")
    assert report["calls"]["answered"] > 100
    assert (tmp_path / "run" / "service.log").exists()
