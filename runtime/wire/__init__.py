"""Messages: what they are, how they are written and read, and what callers hold of them. Rules only: no socket, no clock.

May know: the leaves. A new field of a message, another encoding of values or errors, a new message between supervisor and its
children, the table of which worker has which slots: here.
"""
