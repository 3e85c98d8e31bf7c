"""A real supervisor over stand-in children: `stand_in_service.py DATA WORKERS BEHAVIOUR [OPTION=NUMBER…]`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from tidegate.runtime.data.directory import open_directory
from tidegate.runtime.logs.capture import start_log
from tidegate.runtime.sockets.port import keep_port
from tidegate.runtime.supervisor.config import Config, merge
from tidegate.runtime.supervisor.rules.placement import Cores, place
from tidegate.runtime.supervisor.run_directory import open_run_directory
from tidegate.runtime.supervisor.service import Service
from tidegate.runtime.supervisor.supervisor import supervise

CHILD = (sys.executable, str(Path(__file__).with_name("stand_in_child.py")))


def main() -> int:
    data, workers, behaviour, *options = sys.argv[1:]
    numbers = {name: float(number) for name, number in (option.split("=") for option in options)}
    config = merge(Config(), {"service": {"app": behaviour, **numbers}, "log": {"level": "debug"}}, "test")
    outputs = start_log("supervisor", config.log.settings())
    directory = open_directory(Path(data), 8)
    placement = place(Cores((0,), None), directory.shards, int(workers))
    port = keep_port("tcp://127.0.0.1:0")
    service = Service(config, directory, open_run_directory(directory.path, None), placement, "0", 1 << 30, port, CHILD, CHILD)
    service = replace(service, outputs=outputs)
    failure = supervise(service, os.environ, lambda _: print("READY", flush=True))
    print(f"FINISHED {failure.problem if failure else 'well'}", flush=True)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
