"""The checkpointed state of one shard: its LMDB file, the file's format and pages, who reads it when it is not in memory.

May know: `log`, and of `store` what a state is to it. What a byte in `data.mdb` means, and what must not block the loop: here.
"""
