"""An object that prints, fails, and does to the standard streams what libraries do."""

import io
import os
import subprocess
import sys

from tidegate import DurableObject


class Refusing(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "this stream takes nothing")


class Noise(DurableObject):
    async def say(self, text: str, times: int = 1) -> int:
        for number in range(times):
            print(text, number)
        return times

    async def fail(self, text: str) -> None:
        raise ValueError(text)

    async def run(self, text: str) -> int:
        return subprocess.run(["echo", text], check=False).returncode

    async def close_stderr(self) -> None:
        sys.stderr.close()
        sys.stdout.close()

    async def replace_stderr(self) -> None:
        sys.stderr = Refusing()

    async def close_descriptors(self) -> None:
        os.close(1)
        os.close(2)

    async def die(self, text: str) -> None:
        print(text)
        os._exit(7)
