"""What callers and faults meet: the `service` with its `app`, on a `disk` that can be cut off, with `syncs` that can be slow or
fail, behind a `proxy` whose connections break; `sampling` says what the processes take.
"""
