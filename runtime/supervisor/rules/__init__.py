"""The rules of the supervisor: events come in with the time, and what its shell has to do comes back.

`supervision` joins them. A process sits on a seat (`seats`). When a failed one is started again says `restart`; how one takes the
seat of another, `replacement`; on which core it runs and which shards it has, `placement` and, in a cluster, `host_shards`; where
else calls can go, `elsewhere`. `suspicion` puts objects into quarantine, `edits` says what of an app in development has been
saved, `problems` what is wrong now. All of it is pure. May know: `data`, `options`, `wire` and the leaves.
"""
