"""CPU time of everybody, between two instants."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tidegate.benchmarks.cpu import machine_cpu_s


class Meter:
    """`read` tells the CPU seconds that each layer of a peer has used so far."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read
        self._before: Mapping[str, float] = {}
        self._machine_s = 0.0
        self.layers_s: dict[str, float] = {}
        self.machine_s = 0.0

    def start(self) -> None:
        self._before, self._machine_s = self._read(), machine_cpu_s()

    def stop(self) -> None:
        self.machine_s = machine_cpu_s() - self._machine_s
        after = self._read()
        self.layers_s = {layer: after[layer] - before for layer, before in self._before.items()}
