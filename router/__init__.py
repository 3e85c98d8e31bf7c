"""The router process: hashes an object id to a slot and forwards to the worker of its shard. It never decodes bodies.

May know: of `runtime` the leaves, `wire`, `sockets` and `child`. `machine` has the rules, `server` the sockets, `system` the
calls to the service itself.
"""
