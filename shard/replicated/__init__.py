"""The commit log of one shard as a stream that three servers keep, and who may write it: more than one host may try.

May know: the leaves, what stops a shard, and what goes wrong with a log. As rules: the format of the stream's messages, what they
add up to, how an owner claims a shard, appends, and finds out what became of an append that nobody answered. As a shell: the
same over nats-py (`tidegate[cluster]`), with the face of a log: `worker_log` is a worker's. Imported with `serve --cluster` only.
"""
