"""What each process of the service is told at its start: all that it will ever know of its configuration and its place.

What comes later are changes of that, in messages of their own.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from tidegate.runtime.logs import settings as log_settings
from tidegate.runtime.logs.capture import is_journal
from tidegate.runtime.supervisor.config import APP_VARIABLES, Config, budget_bytes, cache_bytes, key_bounds
from tidegate.runtime.supervisor.configurations import Configurations
from tidegate.runtime.supervisor.member import hosts_access
from tidegate.runtime.supervisor.notify import environment_for_children
from tidegate.runtime.supervisor.rules.seats import ROUTER, Spawn
from tidegate.runtime.supervisor.service import Service
from tidegate.runtime.wire.supervisor_messages import KEPT_SOURCE, Access, QuarantinedObject, RouterSpec, WorkerSpec


class Specs:
    """By generation of the app, as the configuration is."""

    def __init__(self, service: Service, configurations: Configurations) -> None:
        self._service = service
        self._configurations = configurations
        self._secret = secrets.token_hex(16)
        self.hosts_secret = ""
        """By which the hosts of a cluster know each other; once it is known."""
        # What object code starts need not know the secrets of the app.
        self._environment = {k: v for k, v in environment_for_children().items() if not k.startswith(APP_VARIABLES)}

    def environment(self, generation: int) -> dict[str, str]:
        """Of a router or a worker."""
        told = msgspec.structs.replace(self._config_of(generation).log.settings(), journal=(is_journal(1), is_journal(2)))
        return {**self._environment, log_settings.VARIABLE: log_settings.encode(told).decode()}

    def of_worker(
        self, index: int, started: Spawn, witness: Path, *, watched: bool, quarantined: tuple[QuarantinedObject, ...]
    ) -> WorkerSpec:
        service, config = self._service, self._config_of(started.generation)
        place = service.placement.workers[index]
        return WorkerSpec(
            index=index,
            workers=len(service.placement.workers),
            incarnation=started.incarnation,
            start=service.directory.start,
            cpu=place.cpu,
            shards=place.shards,
            shards_total=service.directory.shards,
            data_dir=str(service.directory.path),
            run_dir=str(service.run_directory.path),
            app=config.service.app,
            source=str(service.run_directory.path / KEPT_SOURCE / str(started.generation)),
            cache_bytes=cache_bytes(config.storage, service.memory_bytes, len(service.placement.workers)),
            idle_evict_s=config.storage.idle_evict_s,
            dev=config.service.dev,
            witness=str(witness),
            watched=watched,
            quarantined=quarantined,
            held_up_s=None if config.service.dev else config.service.held_up_s,  # A worker may wait for a debugger.
            offload_processes=config.service.offload_processes,
            offload_s=config.service.offload_s,
            slow_call_s=config.log.slow_call_s,
            keys=key_bounds(config.storage),
            budget_bytes=self._budget_bytes(config),
            secret=self._secret,
            settings=self._configurations.of(started.generation).app,
            access=_access(service),
            cluster=service.cluster,
            hosts_secret=self.hosts_secret,
        )

    def of_router(self, seat: int, generation: int, listen_fds: tuple[int, ...], *, is_door: bool, name: str) -> RouterSpec:
        service = self._service
        return RouterSpec(
            index=ROUTER - seat,
            listen=service.port_of(is_door=is_door).endpoint,
            run_dir=str(service.run_directory.path),
            shards_total=service.directory.shards,
            workers=len(service.placement.workers),
            name=name,
            listen_fds=listen_fds,
            budget_bytes=self._budget_bytes(self._config_of(generation)),
            secret=self._secret,
            access=hosts_access(self.hosts_secret) if is_door else _access(service),
            hosts_secret=self.hosts_secret,
            is_door=is_door,
            is_clustered=service.cluster is not None,
        )

    def _config_of(self, generation: int) -> Config:
        return self._configurations.of(generation).config

    def _budget_bytes(self, config: Config) -> int:
        service = self._service
        processes = len(service.placement.workers) + service.routers + (service.door is not None)
        return budget_bytes(config.service, service.memory_bytes, processes)


def _access(service: Service) -> Access | None:
    return None if service.access is None else service.access.now
