"""Whether everything that callers saw can be true. Rules: pure, and tested alone, on wrong histories too.

`history` has every call, object by object; `linearizability` asks whether answers could have come from calls one after another,
by `models` of what each object does; `money` whether any was made or lost over objects; `tally` counts, `flatness` says whether
a line rises, `report` is the page. A new promise to be judged: a module here, a line of `report`.
"""
