from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tidegate.benchmarks.cpu import cpu_s, cpu_s_by_layer, machine_cpu_s
from tidegate.benchmarks.load.workloads import BenchmarkFailed

pytestmark = pytest.mark.alone

SPIN_S = 0.05


def test_the_cpu_time_of_another_process_is_that_which_it_sees_itself() -> None:
    program = f"import time\nwhile time.process_time() < {SPIN_S}: pass\nprint(time.process_time(), flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        own_s = float(process.stdout.readline())
        assert own_s <= cpu_s(process.pid) < own_s + SPIN_S
        process.communicate("\n")


def test_a_layer_has_the_time_of_all_its_processes() -> None:
    before_s = time.process_time()
    layers = cpu_s_by_layer({"both": [0, 0], "none": []})  # 0 is the process that asks.
    assert layers["none"] == 0
    assert layers["both"] >= 2 * before_s


def test_the_machine_is_busy_at_least_as_long_as_this_process() -> None:
    tick_s, own_s, machine_s = 0.01, time.process_time(), machine_cpu_s()
    while time.process_time() - own_s < SPIN_S:
        pass
    assert machine_cpu_s() - machine_s >= SPIN_S - 2 * tick_s


def test_a_process_that_has_gone_is_an_error_and_no_zero() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(OSError, match=r"Invalid argument|No such process"):
        cpu_s(process.pid)
    with pytest.raises(BenchmarkFailed, match="a process of the service ended while it was measured"):
        cpu_s_by_layer({"workers": [0, process.pid]})
