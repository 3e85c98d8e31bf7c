"""`tidegate console` as a process of its own, and what a program sees of it over HTTP."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from tests.support.waiting import WITHIN_S


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)


class ConsoleProcess:
    def __init__(self, endpoint: str, *options: str) -> None:
        command = [
            sys.executable,
            "-m",
            "tidegate",
            "console",
            "--connect",
            endpoint,
            "--listen",
            "127.0.0.1:0",
            "--json",
            *options,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        self.link: str = json.loads(line)["link"]
        """With the secret."""
        self.address, _, self.secret = self.link.partition("#")
        self.host = urlsplit(self.address).netloc

    def __enter__(self) -> ConsoleProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Fails unless it ends in order and has nothing to say."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=WITHIN_S)
        ended = self.process.returncode, errors
        assert ended == (0, ""), ended

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """With the secret, unless other headers are given (`_` stands for `-`)."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/json", **given}
        connection = http.client.HTTPConnection(self.host, timeout=WITHIN_S)
        try:
            connection.request(method, path, body, {name: value for name, value in sent.items() if value})
            response = connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def ask(self, name: str, /, **query: Any) -> Any:
        answer = self.request("GET", f"/api/{name}?{urlencode(query)}")
        assert answer.status == 200, answer
        return answer.told

    def change(self, name: str, /, **what: Any) -> Answer:
        return self.request("POST", f"/api/{name}", json.dumps(what).encode())
