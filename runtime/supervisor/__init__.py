"""Starts and watches the processes of a service, and tells them of each other.

May know: `data`, `child`, `sockets`, `wire` and the leaves. Who is started when and where, when one is killed, options of the
configuration, systemd, the snapshot that `tidegate status` shows: here.
"""
