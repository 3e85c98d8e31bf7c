"""Calls to objects: from a request to its reply, and the lives of the objects in between.

May know: `objects`, `loop`, `core`, and of the store its interface. No socket, thread or file. What becomes of a call, when
objects start, are reset or leave memory, alarms that ring, deadlines, bounds of what waits: here.
"""
