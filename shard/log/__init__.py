"""The commit log: bytes that survive. Segments of frames with checksums, appended and synced, read once after a crash.

May know: the leaves. The format of the log, and what a torn or damaged one means: here.
"""
