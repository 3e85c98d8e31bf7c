"""What a user's type checker says about tests. A line that ends in `# wrong` must be reported by each checker, no other may."""

import datetime
from typing import assert_type

from tidegate import DurableObject
from tidegate.testing import HttpReply, HttpRequest, Objects, PendingAlarm, explore
from tidegate.testing.judges import conserved, keeps_all_in_storage, unique_and_gap_free


class Counter(DurableObject):
    value = 0

    async def add(self, amount: int = 1) -> int:
        return amount


async def test_counts(objects: Objects) -> None:
    counter = objects(Counter, "a")
    assert_type(counter, Counter)
    assert_type(await counter.add(2), int)
    await counter.add("two")  # wrong
    assert_type(objects.instance(counter).value, int)
    objects.storage(counter)["n"] = 3
    assert_type(objects.storage(counter).read("n", int), int)
    assert_type(objects.alarms(), list[PendingAlarm])
    assert_type(objects.clock.now, datetime.datetime)
    await objects.clock.advance("30d")
    await objects.clock.advance(datetime.timedelta(hours=1))
    await objects.clock.advance(None)  # wrong
    objects.evict(counter)
    assert_type(objects.crash(at="before_commit", of=Counter).happened, bool)
    objects.crash(of=counter)
    objects.crash(at="somewhere")  # wrong
    objects.fail_next_commit(of=counter, skip=1)
    assert_type(await objects.run_in(counter, look, 2), str)
    await objects.run_in(counter, look, "2")  # wrong
    objects.http.answer("https://api.example/*", reply, method="GET")


async def look(counter: Counter, times: int) -> str:
    return f"{counter.value * times}"


def reply(request: HttpRequest) -> HttpReply:
    return HttpReply({"method": request.method}, status=201)


@explore(schedules=100, crashes=2)
async def test_explored(objects: Objects) -> None:
    assert_type(await objects.attempt(objects(Counter, "a").add()), int | None)


explore(crashes="many")  # wrong


def test_without_a_coroutine(objects: Objects) -> None:
    assert_type(objects.run(objects(Counter, "a").add()), int)
    with Objects(workers=2, idle_evict="1m") as own:
        assert_type(own(Counter, "b"), Counter)
        own.serve(Counter, int)  # wrong


async def test_judged(objects: Objects) -> None:
    async def twice(counter: Counter) -> list[int]:
        return [await counter.add(), await counter.add(3)]

    await keeps_all_in_storage(objects, Counter, twice)
    await keeps_all_in_storage(objects, Counter, look)  # wrong
    unique_and_gap_free([0, 1])
    unique_and_gap_free(["a"])  # wrong
    conserved(objects, Counter, "n", 4)
    assert_type(objects(Counter, "a", retry=True, timeout="1m"), Counter)
