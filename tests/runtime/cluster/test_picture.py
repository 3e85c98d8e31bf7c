"""What operators are shown of a cluster."""

from __future__ import annotations

import msgspec

from tests.runtime.cluster.test_machine import beat_of, placed
from tidegate.runtime.cluster.picture import LogShown, picture
from tidegate.runtime.cluster.records import Loss


def test_a_cluster_in_which_all_is_well_has_no_problem() -> None:
    live = {"a": beat_of("a", serves=(0, 1), version="1"), "b": beat_of("b", serves=(2, 3), version="1")}
    seen = picture(placed("aabb", pins={3: "b"}), live)
    assert seen.problems == ()
    assert [(each.name, each.state, each.serves, each.should_serve) for each in seen.hosts] == [
        ("host a", "here", 2, 2),
        ("host b", "here", 2, 2),
    ]
    assert [(each.shard, each.serves, each.should, each.pinned) for each in seen.shards][2:] == [
        (2, "host b", "host b", False),
        (3, "host b", "host b", True),
    ]


def test_what_the_servers_keep_of_a_shard_is_shown_as_far_as_it_is_known() -> None:
    log = LogShown(100, 100, None)
    seen = picture(placed("aa"), {"a": beat_of("a", serves=(0, 1))}, {1: log})
    assert [each.log for each in seen.shards] == [None, log]


def test_what_is_wrong_is_said_with_the_host_and_the_next_step() -> None:
    live = {"a": beat_of("a", serves=(0,), version="1"), "b": beat_of("b", version="2")}
    losses = {"c": Loss("host c", "run-c", 1)}
    seen = picture(placed("aabb", "a", "b", losses=losses), live)
    assert [(each.where, each.what) for each in seen.problems] == [
        ("host host c", "is lost; others serve its shards"),
        ("host host a, which should", "nobody serves shard 1; calls of their objects wait"),
        ("host host b, which should", "nobody serves shard 2, 3; calls of their objects wait"),
        ("the cluster", "hosts run different versions of the app (host a: 1, host b: 2)"),
    ]
    assert all(each.next for each in seen.problems)
    assert [(each.name, each.state) for each in seen.hosts][2] == ("host c", "lost")


def test_hosts_that_drain_or_wait_are_told_from_the_others() -> None:
    live = {"a": beat_of("a"), "b": beat_of("b"), "c": beat_of("c")}
    seen = picture(placed("aaaa", "a", "b", draining=frozenset({"b"})), live)
    assert [each.state for each in seen.hosts] == ["here", "drains", "waits"]


def test_two_hosts_of_one_name_are_told_apart() -> None:
    live = {id: msgspec.structs.replace(beat_of(id, serves=(at,)), name="shop") for at, id in enumerate("ab")}
    seen = picture(placed("abab"), live)
    assert [each.name for each in seen.hosts] == ["shop (a)", "shop (b)"]
    assert [each.serves for each in seen.shards] == ["shop (a)", "shop (b)", "", ""]


def test_of_two_that_say_they_serve_a_shard_the_one_that_should_is_shown() -> None:
    live = {"a": beat_of("a", serves=(0,)), "b": beat_of("b", serves=(0, 99))}
    assert picture(placed("bbbb", "a", "b"), live).shards[0].serves == "host b"


def test_a_shard_is_shown_that_the_host_which_should_serve_it_reads_first() -> None:
    live = {"a": beat_of("a", serves=(0, 1), reads=(1,)), "b": beat_of("b", reads=(1,))}
    assert [each.reads for each in picture(placed("abaa", "a", "b"), live).shards] == [False, True, False, False]
