"""Connections break, by a reset: of the callers that come through the proxy, all or some."""

from __future__ import annotations

from random import Random

from tidegate.runtime.chaos.faults.fault import Stage


class Drop:
    def strike(self, stage: Stage, chance: Random) -> str:
        share = chance.choice((0.3, 0.7, 1.0))
        return f"{sum(proxy.drop(share, chance) for proxy in stage.proxies)} connections"
