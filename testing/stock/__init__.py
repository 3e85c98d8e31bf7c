"""`tidegate test`: the classes of an app are tried without a test of theirs. Scripts of calls are drawn from type hints and run
under mishaps; what they are answered and leave stored is compared with a twin of the run to which nothing happened.

From the bottom to the top: `values` (of a type), `scripts` (calls, one after another), `trial` (one run of a script),
`comparison` (of two runs: pure), `stock` (which runs, and what is found), `report` (how it is told: pure); `loading` (the app).
"""
