#!/usr/bin/env bash
# Python 3.11: ast.parse raises SystemError ("AST constructor recursion depth mismatch") for source that is right, if the garbage
# collector runs while it makes the nodes and a finalizer there parses something itself. Finalizers do that without knowing it: a
# coroutine that ends by the collector and logs its GeneratorExit has its traceback formatted, and traceback.py parses each line to
# know what to underline. So a linter, or pytest's rewriting of asserts, fails once in a while in a process that leaves coroutines
# behind. Newer ones do not. Who parses in such a process collects before, or takes the SystemError for a reason to try again.
#
# Seen on 2026-11-30, Python 3.11.7 (of 20 runs 18 to 20), 3.12.1 and 3.13.0 (none):
#   3.11: SystemError
set -euo pipefail
python=$(command -v python3.11) || { echo "skipped: there is no python3.11 here"; exit 0; }
told=$("$python" - <<'PYTHON'
import ast
import gc


class Parses:
    """What is freed by the collector, and parses."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        ast.parse("x = [f(a + b) for a in c]")


source = "x = (1 + (2 + (3 + [a for a in b])))\n" * 2_000
ast.parse(source)
gc.set_threshold(200, 2, 2)
said = "parsed"
for _ in range(20):
    for _ in range(50):
        Parses()
    try:
        ast.parse(source)
    except SystemError as error:
        assert "recursion depth mismatch" in str(error), error
        said = "SystemError"
print(f"3.11: {said}")
PYTHON
)
echo "$told"
[ "$told" = "3.11: SystemError" ]
