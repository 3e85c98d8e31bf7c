"""What is done to the service: one module for each kind of fault, `all` has them by name.

A fault knows the stage (service, disk, syncs, proxy) and is struck again and again; it returns when the service has been given
back what was taken from it, not when it has recovered: the callers go on all the while. Pure: `catalogue` (the faults by name),
`schedule` (which one next: a seed's). A new fault: a module here, and its lines in `catalogue` and `all`.
"""
