"""Several hosts that share the shards of one service: who is there, who should serve which shard, and who does.

May know: the leaves, `wire`, and how one connects to the servers of the log (`shard/replicated`). Rules: what hosts tell each
other (`records`), who should have which shard (`placement`), and what one host makes of what it hears (`machine`). The shell over
NATS is `membership`. Nothing here is about safety: who may append to the log of a shard is decided by the log alone.

Imported with `serve --cluster`, and by `tidegate cluster`.
"""
