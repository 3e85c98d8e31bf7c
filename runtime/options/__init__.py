"""What may be set: how options are declared, explained and read, with everything that is wrong told at once.

`option` makes options of the fields of a Struct or dataclass, `words` says what a type takes, `reading` reads layers of values
(file, credentials, environment, command line) over each other, `texts` finds them in what they are written in. The service's own
options are in `runtime/supervisor/config.py`; an app declares its own. May know: the leaves. Nothing here looks anything up.
"""
