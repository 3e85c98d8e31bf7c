"""A worker in which CPython does not behave as assumed serves without what leans on that, or does not start."""

from __future__ import annotations

from pathlib import Path

from tests.support.service import Serve, ask

APP = """
from tidegate import DurableObject
from tidegate.shard.loop import self_test

self_test.{broken} = lambda *_: None

class Counter(DurableObject):
    async def next(self) -> int:
        value = await self.storage.get("n", 0)
        await self.storage.put("n", value + 1)
        return value
"""


def test_a_worker_that_cannot_count_references_says_so_and_serves_each_call_with_a_task_of_its_own(
    serve: Serve, tmp_path: Path
) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP.format(broken="weak_references_to"))
    service = serve(1, app=str(app))
    service.expect("each call gets a task of its own and is slower: .* weak references to a task are counted")
    assert [ask(service.endpoint, "Counter", "a", "next") for _ in range(5)] == list(range(5))
    assert len(service.output.split("gets a task of its own")) == 2, "it is said once"


def test_a_worker_whose_tasks_would_not_work_does_not_start_and_says_what_is_not_so(serve: Serve, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP.format(broken="register_task"))
    service = serve(1, app=str(app), start=False)
    service.launch(1)
    service.expect("a task that is registered is one of all_tasks")
    assert service.wait() != 0
