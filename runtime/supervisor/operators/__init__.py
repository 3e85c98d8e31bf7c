"""How operators, and what watches a service for them, reach the supervisor, and what they are told.

Commands come in by `command_socket`; `errands` carries those that are for objects to workers and back. Who watches comes in by
`http_door`, and `monitoring` answers with what `measuring` has put together. `status` is what `tidegate status` shows. Nothing is
decided here. May know: `rules`, `config`, `data`, `metrics`, `wire` and the leaves.
"""
