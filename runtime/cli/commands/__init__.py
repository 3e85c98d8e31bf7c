"""`tidegate serve | call | status | …`: a module each, or a folder, with `add` for its options and `run`, which returns the exit code.

A new command is a module here and a line in `catalogue`. What a command does is done elsewhere.
"""
