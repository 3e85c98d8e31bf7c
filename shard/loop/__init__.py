"""How the code of objects is run: every step of it passes its object's input gate.

May know: `core`. Tasks, callbacks, transports, and everything that leans on how CPython and asyncio work inside: here.
"""
