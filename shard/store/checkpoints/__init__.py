"""From memory into the states, so that the log can forget; and keeping logs and data files small, also on a full disk.

May know: `log`, `store`, `state`. When, in which steps and in whose room
something is moved, sorted, deleted or made smaller: here.
"""
