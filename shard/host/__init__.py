"""Calls to objects: from a request to its reply, and the lives of the objects in between.

May know: `objects`, `loop`, `core`, and of the store its interface. No socket, thread or file.

The way of a call: `host` takes it, `activator` brings its object, `waiting` keeps it and `call_book` counts it until it can
start (the bounds are in `runtime/limits`), `chained_calls` lets it back into a section, `outcomes` makes its answer,
`deadlines` does if it takes too long; `call` is what all of them pass on, and `outbound` what object code calls. The life of an
object: `activation`, `start`, `critical_section`, `disk_wait`, `resets`, and `table`, which decides who stays in memory.
Alarms: `alarm_clock`, `ring`, `given_up`. Clock and end of a turn: `turn`. What the operator is told: `settings`, `object_log`,
`gate_watch`.
"""
