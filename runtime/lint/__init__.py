"""What can be seen of a mistake in the source of an app, without running it.

`module` reads one module: what its names stand for, which of its classes are object classes, which functions their code calls.
`awaits`, `blocking` and `memory` are the rules. `findings` asks them all, and leaves out what a comment says is meant.

Rules only: text in, findings out; nothing is imported or run. What is said is likely wrong, and says what to write instead.
"""
