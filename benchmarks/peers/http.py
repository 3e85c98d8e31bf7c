"""Peers that are called over HTTP: aiohttp with sqlite, workerd, Restate. Each as its own documentation sets it up.

workerd and Restate come from npm; `--npm FOLDER` names where `npm install workerd @restatedev/restate-server
@restatedev/restate-sdk` was run.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidegate.benchmarks.cpu import cpu_s_by_layer
from tidegate.benchmarks.load.generators import run_processes
from tidegate.benchmarks.load.http import HttpJob
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.meter import Meter
from tidegate.benchmarks.plan import Load, Plan, Route
from tidegate.benchmarks.processes import log_tail, start_module, stop, wait_for_port
from tidegate.runtime.addresses import free_port

_RUN_S = 2.0
_REGISTER_S_MAX = 30.0


class HttpPeer:
    """Runs are bounded by time, because these differ in speed by a hundred times."""

    def __init__(self, name: str, port: int, path: str, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.name = name
        self._port = port
        self._path = path
        self._processes = list(processes)

    def can(self, plan: Plan) -> bool:
        return plan.workload.name in ("unique", "hot") and plan.route == "direct" and not (plan.rate or plan.zipf)

    def run(self, plan: Plan, meter: Meter) -> Load:
        job = HttpJob(
            port=self._port,
            path=self._path,
            concurrency=plan.concurrency,
            requests=plan.requests,
            seconds=_RUN_S,
            objects=plan.objects,
            prefix=f"{secrets.token_hex(4)}-",
        )
        (load,) = run_processes("tidegate.benchmarks.load.http", [msgspec.json.encode(job)], plan, meter)
        return load

    def cpu_s(self, route: Route) -> dict[str, float]:
        return cpu_s_by_layer({"workers": self.durable_pids()})

    def durable_pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def close(self) -> None:
        for process in self._processes:
            stop(process)


def start_naive(folder: Path) -> HttpPeer:
    port, log = free_port(), folder / "log"
    with log.open("wb") as output:
        arguments = ("--port", str(port), "--file", str(folder / "db"))
        process = start_module("tidegate.benchmarks.peers.naive_server", *arguments, stderr=output)
    return _ready(HttpPeer("aiohttp + sqlite", port, "/{}", [process]), port, log)


_WORKERD_JS = """
export class Counter {
  constructor(state) { this.storage = state.storage; }
  async fetch() {
    const value = (await this.storage.get("counter")) ?? 0;
    await this.storage.put("counter", value + 1);
    return new Response(String(value));
  }
}
export default {
  async fetch(request, env) {
    return env.counters.get(env.counters.idFromName(new URL(request.url).pathname)).fetch(request);
  }
};
"""
_WORKERD_CAPNP = """
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .counters),
    (name = "disk", disk = (path = "%(folder)s/objects", writable = true)),
  ],
  sockets = [(name = "http", address = "127.0.0.1:%(port)d", http = (), service = "main")],
);
const counters :Workerd.Worker = (
  modules = [(name = "worker", esModule = embed "worker.js")],
  compatibilityDate = "2025-01-01",
  durableObjectNamespaces = [(className = "Counter", uniqueKey = "counters", enableSql = true)],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [(name = "counters", durableObjectNamespace = "Counter")],
);
"""


def start_workerd(folder: Path, npm: Path) -> HttpPeer:
    program = _program(npm, "@cloudflare/workerd-linux-*/bin/workerd")
    port, log = free_port(), folder / "log"
    (folder / "objects").mkdir()
    (folder / "worker.js").write_text(_WORKERD_JS)
    (folder / "config.capnp").write_text(_WORKERD_CAPNP % {"folder": folder, "port": port})
    process = _start([str(program), "serve", str(folder / "config.capnp")], log)
    return _ready(HttpPeer("workerd", port, "/{}", [process]), port, log)


_RESTATE_JS = """
import * as restate from "@restatedev/restate-sdk";
Promise.withResolvers ??= () => {  // The SDK wants Node 22; Debian has 20.
  let resolve, reject;
  const promise = new Promise((...both) => { [resolve, reject] = both; });
  return { promise, resolve, reject };
};
const counter = restate.object({
  name: "Counter",
  handlers: {
    getUniqueNumber: async (context) => {
      const value = (await context.get("counter")) ?? 0;
      context.set("counter", value + 1);
      return value;
    },
  },
});
restate.serve({ services: [counter], port: Number(process.argv[2]) });
"""


def start_restate(folder: Path, npm: Path) -> HttpPeer:
    program = _program(npm, "@restatedev/restate-server-linux-*/bin/restate-server")
    ingress, admin, fabric, service = (free_port() for _ in range(4))
    log = folder / "log"
    script = folder / "counter.mjs"
    script.write_text(_RESTATE_JS)
    (folder / "node_modules").symlink_to(npm / "node_modules")  # Where the script looks for the SDK.
    settings = {
        "RESTATE_INGRESS__BIND_PORT": str(ingress),
        "RESTATE_ADMIN__BIND_PORT": str(admin),
        "RESTATE_DISABLE_TELEMETRY": "true",
    }
    command = [str(program), "--base-dir", str(folder / "data"), "--listen-mode", "tcp", "--bind-ip", "127.0.0.1"]
    server = _start([*command, "--bind-port", str(fabric), "--node-name", "one", "--no-logo"], log, settings)
    code = _start(["node", str(script), str(service)], folder / "service.log")
    peer = _ready(HttpPeer("Restate", ingress, "/Counter/{}/getUniqueNumber", [server, code]), ingress, log)
    try:
        wait_for_port(service, code, folder / "service.log")
        _register(admin, service, log)
    except BenchmarkFailed:
        peer.close()
        raise
    return peer


def _register(admin: int, service: int, log: Path) -> None:
    """Tells Restate where the code runs; refused until it has elected itself."""
    body = json.dumps({"uri": f"http://127.0.0.1:{service}"}).encode()
    url, deadline = f"http://127.0.0.1:{admin}/deployments", time.monotonic() + _REGISTER_S_MAX
    while time.monotonic() < deadline:
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(request, timeout=5):
            return
        time.sleep(0.2)
    raise BenchmarkFailed(f"Restate does not accept the service: {log_tail(log)}")


def _program(npm: Path, pattern: str) -> Path:
    found = sorted((npm / "node_modules").glob(pattern))
    if not found:
        raise BenchmarkFailed(f"not installed in {npm} (npm install workerd @restatedev/restate-server @restatedev/restate-sdk)")
    return found[0]


def _start(command: Sequence[str], log: Path, settings: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        environment = {**os.environ, **(settings or {})}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=log.parent)


def _ready(peer: HttpPeer, port: int, log: Path) -> HttpPeer:
    try:
        wait_for_port(port, peer._processes[0], log)
    except BenchmarkFailed:
        peer.close()
        raise
    return peer
