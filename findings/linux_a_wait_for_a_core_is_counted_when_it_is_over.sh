#!/usr/bin/env bash
# Linux: the second number of /proc/PID/schedstat, the time a task has waited for a core, stands still while it waits, and jumps when
# it runs again. Who asks twice within one long wait reads that the task has neither run nor waited, as of one that sleeps. Whether
# it wants a core says only the state in /proc/PID/stat: `R`, as for one that runs.
#
# Seen on 2026-11-29, Linux 6.18.44, Python 3.11.7 (times by the machine's load):
#   in 195 of 200 looks, 10 ms apart, it had neither run nor waited; in 195 of these its state was R
#   what it had waited grew in steps of up to 852 ms
set -euo pipefail
python3 - <<'PYTHON'
import os
import subprocess
import sys
import time
from pathlib import Path

LOOKS, PAUSE_S = 200, 0.01
core = min(os.sched_getaffinity(0))
spin = f"import os; os.sched_setaffinity(0, [{core}]); os.nice(int(os.environ['NICE']))\nwhile True: pass"
waiting, *preferred = (
    subprocess.Popen([sys.executable, "-c", spin], env={**os.environ, "NICE": nice}) for nice in ("19", "0", "0", "0")
)


def look() -> tuple[int, int, str]:
    ran, waited, _ = map(int, Path(f"/proc/{waiting.pid}/schedstat").read_text().split())
    state = Path(f"/proc/{waiting.pid}/stat").read_text().rpartition(") ")[2][0]
    return ran, waited, state


try:
    time.sleep(0.5)
    seen = []
    for _ in range(LOOKS):
        seen.append(look())
        time.sleep(PAUSE_S)
finally:
    for process in (waiting, *preferred):
        process.kill()
        process.wait()
neither = [after[2] for before, after in zip(seen, seen[1:]) if after[:2] == before[:2]]
wanting = neither.count("R")
step_ms = max(after[1] - before[1] for before, after in zip(seen, seen[1:])) / 1e6
print(f"in {len(neither)} of {LOOKS} looks, 10 ms apart, it had neither run nor waited; in {wanting} of these its state was R")
print(f"what it had waited grew in steps of up to {step_ms:.0f} ms")
sys.exit(0 if wanting > LOOKS / 10 and step_ms > 3 * PAUSE_S * 1e3 else "this has changed")
PYTHON
