"""Backups: the rows of each shard, and the log from there on, in a place elsewhere; and a data directory made of them again.

A *lineage* is a full backup, then incremental ones, each with a manifest that names its pieces. `manifest` and `pieces` are rules
only: what a backup consists of, what is missing, what its bytes mean. `depot` is where pieces are put; `log_records` reads
the log of a service that runs or not; `backup` and `restore` do it. Only the command line knows this folder.
"""
