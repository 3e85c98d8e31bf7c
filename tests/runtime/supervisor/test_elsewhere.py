"""Other hosts keep their places among those to which calls can be sent."""

from __future__ import annotations

from tidegate.runtime.supervisor.elsewhere import Elsewhere


def test_a_host_keeps_its_index_whether_it_is_there_or_not() -> None:
    elsewhere = Elsewhere()
    assert not elsewhere.are({}, {})
    assert elsewhere.are({3: "b"}, {"b": "tcp://b:1#1"})
    assert (elsewhere.homes, elsewhere.endpoints) == ({3: 0}, ("tcp://b:1#1",))
    assert elsewhere.are({3: "b", 4: "a"}, {"a": "tcp://a:1#1", "b": "tcp://b:1#1"})
    assert (elsewhere.homes, elsewhere.endpoints) == ({3: 0, 4: 1}, ("tcp://b:1#1", "tcp://a:1#1"))
    assert not elsewhere.are({3: "b", 4: "a"}, {"b": "tcp://b:1#1", "a": "tcp://a:1#1"})
    assert elsewhere.are({4: "a"}, {"a": "tcp://a:1#1"})
    assert (elsewhere.homes, elsewhere.endpoints) == ({4: 1}, (None, "tcp://a:1#1"))
    assert elsewhere.are({4: "a"}, {"a": "tcp://a:1#1", "b": ""}) is False
