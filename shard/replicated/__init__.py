"""The commit log of one shard as a stream that three servers keep, and who may write it: more than one host may try.

May know: the leaves, and what stops a shard. The format of the stream's messages, what they add up to, and how an owner claims a
shard, appends, and finds out what became of an append that nobody answered: here, as rules. Nothing that serves uses it yet.
"""
