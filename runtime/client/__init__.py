"""Callers: the rules of a client, its links, and its two faces, asynchronous and synchronous.

May know: `sockets`, `wire` and the leaves. When a call is sent again, where it goes, how a client learns the topology: here.
"""
