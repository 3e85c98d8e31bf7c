"""ZeroMQ: doors and links, their readiness, and the bounds of what waits in them.

May know: `wire` and the leaves. How bytes get in and out, who is let in, what is kept for a slow reader, which calls are in
flight to a worker: here. What the bytes mean is decided elsewhere.
"""
