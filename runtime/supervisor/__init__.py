"""Starts and watches the processes of a service, and tells them of each other.

What is to be done is decided in `rules`; `supervisor` does it, by way of each `process`, which hears `specs` first. `operators`
lets in who commands or watches, and tells them. Here: the `service` as it is handed in, the configuration (`config`,
`configurations`), what is looked at (`cores`, `access_watch`, `dev_reload`, `orphans`), systemd (`notify`, `start_again`), where
the sockets are (`run_directory`). May know: `data`, `metrics`, `lint`, `child`, `logs`, `sockets`, `wire` and the leaves.
"""
