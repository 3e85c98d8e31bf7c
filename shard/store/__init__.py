"""What is durable, by shard: memtables over an LMDB environment, checkpoints between them, recovery after a crash.

May know: `log`. `interface` is what the floors above know of it; `state` has the files that LMDB writes, `checkpoints` what moves
rows into them; `worker_store` puts all of it together. What a commit says, what is read where, what is recovered: here.
"""
