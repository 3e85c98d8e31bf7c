import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.control_groups import CORES, MEMORY_BYTES, limited_group
from tidegate.runtime.supervisor.cores import memory_bytes, read_cores, read_memory_bytes, read_quota


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_the_cores_are_those_of_the_affinity() -> None:
    assert read_cores().cpus == tuple(sorted(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000", None), ("150000 100000", 1.5), ("50000 100000", 0.5), ("nonsense", None), ("1 0", None)]
)
def test_the_quota_of_cgroup_v2_is_read(tmp_path: Path, text: str, quota: float | None) -> None:
    write(tmp_path / "membership", "0::/service")
    write(tmp_path / "cgroup/service/cpu.max", text)
    assert read_quota(tmp_path / "cgroup", tmp_path / "membership") == quota


def test_the_smallest_quota_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    write(tmp_path / "membership", "0::/slice/service")
    write(tmp_path / "cgroup/slice/cpu.max", "200000 100000")
    write(tmp_path / "cgroup/slice/service/cpu.max", "400000 100000")
    assert read_quota(tmp_path / "cgroup", tmp_path / "membership") == 2.0


def test_in_a_container_whose_path_is_the_hosts_the_quota_at_the_root_counts(tmp_path: Path) -> None:
    write(tmp_path / "membership", "0::/docker/0123")
    write(tmp_path / "cgroup/cpu.max", "300000 100000")
    assert read_quota(tmp_path / "cgroup", tmp_path / "membership") == 3.0


@pytest.mark.parametrize(("quota_us", "quota"), [("-1", None), ("250000", 2.5)])
def test_the_quota_of_cgroup_v1_is_read(tmp_path: Path, quota_us: str, quota: float | None) -> None:
    write(tmp_path / "membership", "4:cpu,cpuacct:/service\n2:memory:/service")
    write(tmp_path / "cgroup/cpu/service/cpu.cfs_quota_us", quota_us)
    write(tmp_path / "cgroup/cpu/service/cpu.cfs_period_us", "100000")
    assert read_quota(tmp_path / "cgroup", tmp_path / "membership") == quota


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert read_quota(tmp_path / "none", tmp_path / "nowhere") is None


@pytest.mark.parametrize(("limit", "memory"), [("max", 8 << 30), (str(2 << 30), 2 << 30), (str(1 << 62), 8 << 30), ("", 8 << 30)])
def test_the_memory_is_that_of_the_machine_or_the_smallest_limit(tmp_path: Path, limit: str, memory: int) -> None:
    write(tmp_path / "meminfo", f"MemTotal:  {8 << 20} kB\nMemFree:  1 kB")
    write(tmp_path / "membership", "0::/slice/service")
    write(tmp_path / "cgroup/slice/memory.max", limit)
    write(tmp_path / "cgroup/slice/service/memory.max", "max")
    assert memory_bytes(tmp_path / "cgroup", tmp_path / "membership", tmp_path / "meminfo") == memory


def test_this_machine_has_memory() -> None:
    assert read_memory_bytes() > 64 << 20


@pytest.mark.root
def test_in_a_control_group_of_this_machine_its_limits_count_and_not_the_machine() -> None:
    module = read_cores.__module__
    program = f"from {module} import read_cores, read_memory_bytes; print(read_cores().usable, read_memory_bytes())"
    with limited_group() as within:
        told = subprocess.run([*within, sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == f"{CORES} {MEMORY_BYTES}\n"
