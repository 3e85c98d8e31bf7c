"""How the code of objects is run: every step of it passes its object's input gate.

May know: `core`. What the loop needs of the object whose code it runs is the protocol in `context`. Tasks, callbacks, transports,
and everything that leans on how CPython and asyncio work inside: here.
"""
