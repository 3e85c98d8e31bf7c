"""Who is called: each peer started for a run, set up as its own documentation says, called at a door, stopped.

`ours` has the product and the bare `pipeline` (the design's I/O without the product), and says what a peer is. A new peer: its
class in a module here, its name in `runner`.
"""
