"""A data directory, apart from what `shard` keeps in it: its format, its lock, and the small files beside logs and states.

`directory` is the directory itself, `lock` keeps others out; `access_file`, `audit` with `audit_history`, and `backup_notes` with
`backups` are files in it, small ones changed by `replacing`. By `successor` another directory takes its place: over the
folder that it is in (`folder_above`), or within (`own_mount`) where a file system is mounted at it. May know: `wire`, the leaves.
The command line uses what is here while no service runs.
"""
