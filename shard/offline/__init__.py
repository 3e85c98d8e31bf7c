"""Looking after a data directory that no service uses: checked, repaired, made smaller.

May know: log, store, the rows of objects and alarms. Commands are in `tidegate.runtime.cli`; whoever calls anything here has the
directory's lock. Nothing here is imported by what serves.
"""
