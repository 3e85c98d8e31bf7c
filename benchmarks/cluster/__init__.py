"""What a cluster costs, and how soon it goes on: three nats-servers, and hosts, on this machine.

`publishes`: the replicated log beside bare publishes. `calls`: durable calls of a service on that log beside bare publishes, and
beside the local log. `losses`: hosts that are killed, shards that are moved under load, a majority that is lost. `figures`: the
whole of it, measured and shown.

All of it shares one disk and few cores: three servers sync each message, so the disk does three times what it would do on three
machines, and the network nothing.
"""
