"""The command line: `tidegate serve | call | status | alarms | bench`, a module each, with `add` for its options and `run`.

May know everything in `runtime`. A new command is a module here and a word in `cli`; `arguments` reads what is given, `asking`
asks a running service, `pages` writes what a person reads. What a command does is done elsewhere.
"""
