"""Objects of the class Stock, one for each article: Stock/tea, Stock/milk, ...

tidegate serve shop.py --dev
tidegate call Stock tea add 10
"""

from dataclasses import dataclass

from tidegate import DurableObject


@dataclass(frozen=True)
class Settings:
    """What differs from one installation to the next: [app] in the configuration."""

    pieces_max: int = 1_000


class Stock(DurableObject):
    """How many pieces of an article there are. Nobody is sold a piece that is not there, or that somebody else has bought."""

    settings: Settings = Settings()

    async def add(self, pieces: int) -> int:
        """How many there are now. Raises ValueError, and adds nothing, if there would be too many."""
        left: int = await self.storage.get("left", 0) + pieces
        if left > self.settings.pieces_max:
            raise ValueError(f"no room for {left} pieces")
        await self.storage.put("left", left)
        return left

    async def sell(self, pieces: int = 1) -> int:
        """How many are left. Raises ValueError, and sells nothing, if there are not as many."""
        left: int = await self.storage.get("left", 0)
        if not 0 < pieces <= left:
            raise ValueError(f"cannot sell {pieces} of {left}")
        await self.storage.put("left", left - pieces)
        return left - pieces

    async def left(self) -> int:
        """How many there are."""
        left: int = await self.storage.get("left", 0)
        return left
