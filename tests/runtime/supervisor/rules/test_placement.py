import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.supervisor.rules.placement import Cores, place, routers_for, shards_for


def cores(count: int, quota: float | None = None) -> Cores:
    return Cores(tuple(range(count)), quota)


@pytest.mark.parametrize(("quota", "usable"), [(None, 8), (0.1, 1), (1.0, 1), (1.4, 1), (1.5, 2), (2.0, 2), (7.9, 8), (64.0, 8)])
def test_the_quota_bounds_the_cores(quota: float | None, usable: int) -> None:
    assert cores(8, quota).usable == usable


@pytest.mark.parametrize(("count", "shards"), [(1, 4), (2, 8), (3, 16), (4, 16), (5, 32), (64, 256), (4_000, 4_096)])
def test_a_new_data_directory_gets_four_shards_a_core_rounded_up_to_a_power_of_two(count: int, shards: int) -> None:
    assert shards_for(cores(count), workers=None) == shards


def test_a_new_data_directory_has_room_for_the_workers_asked_for() -> None:
    assert shards_for(cores(2), workers=64) == 256


@pytest.mark.parametrize(("count", "routers"), [(1, 1), (2, 1), (31, 1), (32, 2), (128, 8)])
def test_auto_is_one_router_for_each_16_cores_and_at_least_one(count: int, routers: int) -> None:
    assert routers_for(cores(count), "tcp://127.0.0.1:7711") == routers
    assert routers_for(cores(count), "ipc:///run/t.sock") == 1


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
def test_every_shard_has_exactly_one_owner_whatever_the_number_of_workers(workers: int) -> None:
    placement = place(cores(2), 8, workers)
    assert sorted(shard for worker in placement.workers for shard in worker.shards) == list(range(8))
    assert all(placement.owners[shard] == worker.index for worker in placement.workers for shard in worker.shards)
    assert placement.owners == tuple(shard % workers for shard in range(8))


def test_auto_is_one_worker_for_each_usable_core() -> None:
    assert len(place(cores(4), 16, None).workers) == 4
    assert len(place(cores(4, quota=2.0), 16, None).workers) == 2


def test_auto_never_exceeds_the_shards_of_a_directory_made_on_a_smaller_machine() -> None:
    assert len(place(cores(64), 8, None).workers) == 8


def test_more_workers_than_shards_are_refused_with_the_number_that_works() -> None:
    with pytest.raises(OperatorError, match="use --workers 8 or fewer"):
        place(cores(2), 8, 9)


def test_more_workers_than_cores_share_the_cores_evenly() -> None:
    assert [worker.cpu for worker in place(Cores((3, 5), None), 8, 5).workers] == [3, 5, 3, 5, 3]


def test_fewer_workers_than_cores_are_spread() -> None:
    assert [worker.cpu for worker in place(cores(8), 32, 2).workers] == [0, 4]


def test_under_a_quota_below_the_cores_nothing_is_pinned() -> None:
    assert [worker.cpu for worker in place(cores(8, quota=2.0), 32, None).workers] == [None, None]
