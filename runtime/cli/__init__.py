"""The command line: `tidegate serve | call | status | …`.

May know everything in `runtime`. A new command or option, and what is printed: here. What a command does is done elsewhere.
"""
