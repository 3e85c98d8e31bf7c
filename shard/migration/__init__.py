"""A data directory that is put into a new cluster, and a cluster that becomes a data directory again: `tidegate migrate`.

May know: the log and its servers (`shard/replicated`), the store of a worker, and directories that no service uses
(`shard/offline`). `commits` has the rules: which rows travel, in which commits, and what they add up to. Only the command line
knows this folder.
"""
