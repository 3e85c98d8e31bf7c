"""`tidegate serve | call | status | …`: a module or a folder each, with `add` for its options and `run`; that returns the code.

A new command is a module here and a line in `catalogue`. What a command does is done elsewhere.
"""
