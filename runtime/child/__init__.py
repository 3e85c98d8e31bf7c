"""Inside a child of the supervisor: how its process begins, drains and ends, what it prints, what it leaves for the post-mortem.

May know: `wire` and the leaves. Signals, the control stream, the format of log lines, the core it is pinned to: here.
"""
