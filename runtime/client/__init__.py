"""Callers: the rules of a client (`machine`, `links`), the shell that moves its bytes, and two thin faces, asynchronous and
synchronous, with the records that a service's answers are read into (`answers`).

May know: `sockets`, `wire` and the leaves. When a call is sent again, where it goes, how a client learns the topology: `machine`.
How links are opened, names looked up, time kept: `shell`, for both faces at once. A question to the service itself: both faces.
"""
