"""An object that starts processes in every way there is."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

from tidegate import DurableObject

FORK = multiprocessing.get_context("fork")


def nap() -> None:
    print("a child of multiprocessing naps", os.getpid(), flush=True)
    time.sleep(600)


def work(path: str, queue: "multiprocessing.Queue[object]") -> None:
    """What a child may do: files, its own loop, prints, a process of its own."""

    async def in_a_loop() -> int:
        await asyncio.sleep(0.01)
        reader = await asyncio.create_subprocess_exec("echo", "-n", stdout=subprocess.PIPE)
        return await reader.wait()

    with open(path, "w") as file:
        file.write("written")
    queue.put((asyncio.run(in_a_loop()), sorted(os.sched_getaffinity(0))))


def square(number: int) -> int:
    return number * number


class Awake(DurableObject):
    """Wakes with others in one turn, writes who it is, and waits once more."""

    async def write_at(self, at_s: float, path: str) -> None:
        await asyncio.sleep(at_s - time.time())
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
        await asyncio.sleep(0.01)


class Forking(DurableObject):
    async def fork_at(self, at_s: float) -> int:
        await asyncio.sleep(at_s - time.time())
        never = asyncio.get_running_loop().create_future()
        pid = os.fork()
        if pid == 0:
            await never
        return pid

    async def on_start(self) -> None:
        await self.storage.put("here", 1)

    async def multiprocessing(self) -> int:
        child = FORK.Process(target=nap)
        child.start()
        return child.pid or 0

    async def fork(self) -> int:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        return pid

    async def fork_in_thread(self) -> int:
        return await asyncio.to_thread(self._fork)

    def _fork(self) -> int:
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        return pid

    async def program(self) -> int:
        return subprocess.Popen(["sleep", "600"], close_fds=False).pid

    async def program_with_preexec(self) -> int:
        return subprocess.Popen(["sleep", "600"], close_fds=False, preexec_fn=os.setsid).pid

    async def come_back(self, how: str) -> int:
        pid = os.fork()
        if pid == 0:
            if how == "raises":
                raise ValueError("in the child")
            if how == "exits":
                sys.exit(5)
            if how == "waits":
                await asyncio.sleep(0)
            if how == "writes":
                self.storage.put("child", 1)
            return 0
        return pid

    async def come_back_in_thread(self) -> int:
        return await asyncio.to_thread(os.fork)

    async def ended(self, pid: int) -> int:
        for _ in range(2_000):
            found, status = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222  # it does not wait
            if found:
                return os.waitstatus_to_exitcode(status)
            await asyncio.sleep(0.01)
        return -1_000

    async def work(self, path: str) -> object:
        queue = FORK.Queue()
        child = FORK.Process(target=work, args=(path, queue))
        child.start()
        result = await asyncio.to_thread(queue.get, True, 10)
        await asyncio.to_thread(child.join)
        return [*result, child.exitcode]

    async def square_in_pool(self, number: int) -> int:
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=FORK) as pool:
            return await asyncio.get_running_loop().run_in_executor(pool, square, number)

    async def use_storage_in_child(self) -> str:
        ours, theirs = FORK.Pipe()

        def target() -> None:
            try:
                self.storage.put("from the child", 1)
            except RuntimeError as error:
                theirs.send(str(error))

        child = FORK.Process(target=target)
        child.start()
        await asyncio.to_thread(child.join)
        return ours.recv() if ours.poll() else "nothing"

    async def terminate_child(self) -> int:
        child = FORK.Process(target=nap)
        child.start()
        child.terminate()
        await asyncio.to_thread(child.join)
        return child.exitcode or 0

    async def keys(self) -> list[str]:
        return list(await self.storage.list())

    async def threads(self) -> int:
        return threading.active_count()
