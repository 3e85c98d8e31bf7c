"""What every process of a service and every client shares.

The modules that stand here are leaves: errors, bounds, names of objects and the slots they hash to, addresses, file
descriptors. Everything else is in a folder; `tests/meta/test_layers.py` has the arrows between them.
"""
