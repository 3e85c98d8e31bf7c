"""`tidegate chaos`: a service of its own is driven and hurt, everything that its callers saw is written down and judged.

Pure, and tested alone: `linearizability` (could these answers have come from calls one after another?), `models` (what each
object of the driven `app` does to its state), `history` (which call when, object by object), `money` (nothing made, nothing lost,
over objects), `workload` (which call next), `schedule` (which fault next: a seed's), `catalogue` (the faults by name), `tally`,
`flatness` (does a line rise?), `report`.

Shells: `recorder` and `callers` (threads that call, as different users do), `own_calls`, `service` (its processes), `disk` (a
file system in a file), `syncs` (slow and failing ones), `proxy` (connections that break), `sampling` (what the processes take),
`faults` (one module for each kind of fault), and `campaign`, which puts a run together. May know: the client and the leaves.
A new fault: a module in `faults`, and its lines in `catalogue` and `faults/all.py`.
"""
