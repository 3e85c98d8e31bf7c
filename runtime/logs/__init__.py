"""What a process of the service says: lines of its log, and what its code prints, in one form, to one place, holding up nobody.

`line` and `forms` are the rules: what a line holds, and how it is written as text, as JSON, or for journald. `tracebacks` says
which frames are shown. `writer` makes lines of one process, `capture` takes them from `logging` and `print`, `output` carries
bytes.

May know: the leaves. Whose code it is that writes is told from above: see `capture.speakers_are`.
"""
