"""What user code sees: the class to derive from, its storage, its methods' arguments, and what it is refused.

May know: `loop`, `core`, and of the store its interface. A new operation of `self` or `self.storage`, and what a class must
be to be served: here.
"""
