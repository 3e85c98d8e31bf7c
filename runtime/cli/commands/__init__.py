"""`tidegate serve | call | status | …`: a module each, with `add` for its options and `run`, which returns the exit code.

A new command is a module here and a word in `cli`. What a command does is done elsewhere.
"""
