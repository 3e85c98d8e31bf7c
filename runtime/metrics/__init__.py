"""What is measured of a service, as Prometheus sees it: which metrics there are, and how the counts of many processes become one.

May know: `wire` and the leaves. A new metric: a line in `catalogue`, and whoever counts it tells it in its pongs (see
`runtime/wire/counts.py`). `ledger` keeps what processes have counted, those that are gone too; `rates` is what it becomes for
`tidegate status`. Pure, all of it; the supervisor asks and serves.
"""
