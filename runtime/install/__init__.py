"""Tidegate as a service of systemd: put on a machine, and taken off it.

`plan` says what is to be written, run and removed, and refuses what would not work; `units` writes the units and what goes with
them; both are rules, without a file. `machine` looks what is there and carries a plan out. May know the leaves; nothing that
runs a service is needed to install one.
"""
