"""The process around the host: sockets, files, threads, the app, the end.

May know everything in `shard`, and of `runtime` what serving processes may. What is done once for a process, and when commits
and checkpoints are made: here.
"""
