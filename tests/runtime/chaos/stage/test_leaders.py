"""Lines as nats-server 2.15.1 writes them; that it still does is seen by `tests/runtime/chaos/test_hosts.py`."""

from __future__ import annotations

from tidegate.runtime.chaos.stage.leaders import META, leaders

FIRST = """\
[11] 2026/11/30 04:08:50.593149 [INF]   Name:     a
[11] 2026/11/30 04:08:50.962692 [INF] Self is new JetStream cluster metadata leader
[11] 2026/11/30 04:08:51.062605 [INF] JetStream cluster new stream leader for '$G > shop-0000'
[11] 2026/11/30 04:08:52.062605 [INF] JetStream cluster new stream leader for '$G > shop-0001'
[11] 2026/11/30 04:08:53.062605 [INF] JetStream cluster new consumer leader for '$G > shop-0001 > x'
[11] 2026/11/30 04:08:59.093223 [INF] JetStream cluster new metadata leader: b/tidegate
"""
SECOND = """\
[12] 2026/11/30 04:08:51.500000 [INF] JetStream cluster new metadata leader: a/tidegate
[12] 2026/11/30 04:08:51.948759 [INF] JetStream cluster new stream leader for '$G > shop-0001'
[12] 2026/11/30 04:08:59.093690 [INF] Self is new JetStream cluster metadata leader
[12] 2026/11/30 04:09:01.093690 [INF] JetStream cluster new stream leader for '$G > shop-0000'
"""


def test_who_said_so_last_leads() -> None:
    assert leaders({"a": FIRST, "b": ""}) == {META: "a", "shop-0000": "a", "shop-0001": "a"}
    assert leaders({"a": FIRST, "b": SECOND}) == {META: "b", "shop-0000": "b", "shop-0001": "a"}


def test_before_anybody_has_said_so_nobody_leads() -> None:
    assert leaders({"a": "", "b": "[12] 2026/11/30 04:09:01.09 [INF] Server is ready\n"}) == {}
