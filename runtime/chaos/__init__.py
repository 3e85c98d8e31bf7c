"""`tidegate chaos`: a service of its own is driven and hurt, everything that its callers saw is written down and judged.

`campaign` puts a run together: the `stage` is built, `calls` are made, `faults` strike, the `verdict` is given. Each is a folder
that says what lives there. May know: the client and the leaves.
"""
