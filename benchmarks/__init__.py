"""One harness for every figure we quote: named workloads, peers to compare with, results that are kept.

A run counts only if its answers are right: a number given twice, a gap or an error fails it. Figures of different runs of
one machine drift by tens of percent, so peers are compared in interleaved rounds of one run, by medians and ratios.

`load` makes calls and checks answers, `peers` is who is called, `figures` what came out: put together, kept, shown. Here: what a
command measures (`runner`, by `plan`), meters of CPU and syncs, and what measures by itself: `micro` (layer by layer),
`scaling` with its `model` (more cores), `overload` (more than a service can do), `growth` (more data).

`python -m tidegate.benchmarks --help` lists the commands.
"""
