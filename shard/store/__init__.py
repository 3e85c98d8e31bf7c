"""What is durable, by shard: memtables over an LMDB environment, checkpoints between them, recovery after a crash.

May know: `log`. `interface` is what the floors above know of it. The order and format of keys, what is read where, when the
log may forget: here.
"""
