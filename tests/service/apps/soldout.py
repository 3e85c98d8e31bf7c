"""Objects that raise exceptions of their own, and pass on those of others. Clients import it too."""

import asyncio
import datetime

from tidegate import DurableObject


class SoldOut(Exception):
    def __init__(self, article: str, left: int) -> None:
        super().__init__(f"{article} is sold out")
        self.article, self.left = article, left


class Shelf(DurableObject):
    async def take(self, article: str) -> None:
        try:
            dict[str, int]()[article]
        except KeyError as exc:
            raise SoldOut(article, 0) from exc

    async def take_hidden(self) -> None:
        class Hidden(Exception):
            pass

        raise Hidden("behind the shelf")

    async def take_several(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.take("tea"))
            group.create_task(self.take_hidden())

    async def forge(self) -> None:
        line = "2026-11-29T12:00:00.000+00:00 ERROR   worker 0: forged"
        raise ValueError(f"no\n{line}\x1b[2J\r{line} too")

    async def odd(self) -> None:
        raise ValueError(b"\xff", datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), {7: [None]})


class Clerk(DurableObject):
    async def take(self, shelf: str, article: str) -> str:
        try:
            await self.stub(Shelf, shelf).take(article)
        except SoldOut as exc:
            return f"{type(exc).__module__}: {exc.article}, {exc.left} left"
        return "taken"

    async def pass_on(self, shelf: str, method: str, *args: str) -> None:
        await getattr(self.stub(Shelf, shelf), method)(*args)

    async def pass_on_again(self, clerk: str, shelf: str, method: str, *args: str) -> None:
        await self.stub(Clerk, clerk).pass_on(shelf, method, *args)
