"""A worker process: objects, their gates and caches, their log and store.

From top to bottom: `worker` (the process), `host` (calls to objects), `objects` (what user code sees), `loop` (how object
code is run), `core` (rules of one object), `store` (what is durable), `log` (the bytes that survive). Imports run downwards
only; `tests/meta/test_layers.py` has the arrows.
"""
