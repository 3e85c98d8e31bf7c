"""The rules of one object: gates, cache, transactions, alarms, values. Pure: no socket, thread, file, clock or coroutine.

May know: the interface of the store. What is let in, what is let out, what a read answers, how values are stored, when an
alarm is tried again: here.
"""
