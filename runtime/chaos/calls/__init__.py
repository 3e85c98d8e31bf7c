"""Who calls, as different users do, and how it is written down.

`workload` (pure) says which call next, `callers` are threads that call, `own_calls` are chaos's own, `recorder` tells
the history.
"""
