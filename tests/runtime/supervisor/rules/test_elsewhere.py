"""Other hosts keep their places among those to which calls can be sent."""

from __future__ import annotations

from tidegate.runtime.supervisor.rules.elsewhere import Elsewhere


def test_however_many_hosts_come_and_go_there_are_no_more_places_than_hosts_at_a_time() -> None:
    elsewhere = Elsewhere()
    for number in range(100):
        assert elsewhere.are({}, {f"a{number}": "tcp://a:1", "b": "tcp://b:1"})
        assert len(elsewhere.endpoints) == 2
        assert elsewhere.are({}, {"b": "tcp://b:1"})


def test_a_place_is_given_to_another_only_when_everybody_knows_that_nobody_is_there() -> None:
    elsewhere = Elsewhere()
    elsewhere.are({3: "a"}, {"a": "tcp://a:1"})
    elsewhere.are({3: "a"}, {})
    assert elsewhere.are({3: "a"}, {"b": "tcp://b:1"})
    assert (elsewhere.homes, elsewhere.endpoints) == ({3: 0}, (None, "tcp://b:1"))
    elsewhere.are({}, {"c": "tcp://c:1"})
    assert (elsewhere.homes, elsewhere.endpoints) == ({}, (None, None, "tcp://c:1")), "of calls to a nobody has been told yet"
    assert elsewhere.are({4: "d"}, {"c": "tcp://c:1", "d": "tcp://d:1"})
    assert (elsewhere.homes, elsewhere.endpoints) == ({4: 0}, ("tcp://d:1", None, "tcp://c:1"))


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
