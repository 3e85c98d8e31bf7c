"""Who calls: processes that make calls and check every answer.

`workloads` says which calls, and what each must be answered; `app` has the objects. `generators` starts the processes, lets them
go at once and puts together what they measured; `generator` is such a process, with `client` for calls by the Python client;
`http` is one for peers over HTTP; `job` is what they are told. A new workload: its class in `workloads`, its object in `app`.
"""
