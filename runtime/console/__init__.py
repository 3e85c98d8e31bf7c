"""The console: a service in a browser, for operators.

May know: `cli` (what its commands ask and change is asked and changed here by the same functions), `supervisor`, `client`,
`wire`, `shard/backup` and the leaves. What a page shows and how: `static`; who is let in: `admission`. It runs in the process of
`tidegate console`, never in one of the service.
"""
