"""Inside a child of the supervisor: how its process begins, drains and ends, what it leaves for the post-mortem.

May know: `wire`, `logs` and the leaves. Signals, the control stream, the core it is pinned to: here.
"""
