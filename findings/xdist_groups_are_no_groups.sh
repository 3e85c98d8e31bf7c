#!/usr/bin/env bash
# pytest-xdist 3.8.0 under pytest 9.2.0: `--dist loadgroup` keeps no group together. A worker tells the controller of a test's
# `xdist_group` mark by a suffix that it writes to `item._nodeid`; pytest no longer reads that attribute, so that all tests arrive
# without a suffix, and each is sent wherever there is room. Nothing is said about it; tests that rely on the order within a
# group fail now and then.
#
# Seen on 2026-11-28, Python 3.11.7:
#   pytest 9.2.0: 8 tests of one group ran in 2 processes
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pytest==9.2.0 pytest-xdist==3.8.0
cd "$folder"
cat >test_group.py <<'PYTHON'
import os
import time

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_where(number: int) -> None:
    time.sleep(0.2)
    with open("pids", "a") as file:
        file.write(f"{os.getpid()}\n")
PYTHON
"$folder/venv/bin/python" -m pytest -q -n 2 --dist loadgroup test_group.py >log || { cat log; exit 1; }
processes=$(sort -u pids | wc -l)
echo "$("$folder/venv/bin/python" -m pytest --version): $(wc -l <pids) tests of one group ran in $processes processes"
[ "$processes" = 2 ] || { echo "this has changed" >&2; exit 1; }
