"""The command line: what was asked, one line when it failed, an exit code.

`commands` has a module for each; here is what they share: `arguments` reads what is given, `asking` asks a running service,
`commanding` commands its supervisor, `pages` writes what a person reads, `exits` ends. May know everything in `runtime`.
"""
