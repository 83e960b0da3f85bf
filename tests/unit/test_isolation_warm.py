"""Interpreters that are kept warm: two at most, each for one job, marked as the job's, gone with their server."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.fakes.children import has_ended, running_of, until
from tests.fakes.context import Bench

from aura.builtin import shipped
from aura.isolation import warm as module
from aura.isolation.messages import NOT_READY, UNMARKED
from aura.isolation.warm import Warm
from aura.processes import leftovers


def idle(boot: str) -> list[int]:
    """The living processes of a server's start that have no job."""
    seen = [seen for cid in (UNMARKED, NOT_READY) for seen in running_of(cid)]
    return [one.pid for one in seen if one.marks[leftovers.BOOT] == boot]


class Served:
    """A bench whose server keeps interpreters warm."""

    def __init__(self, folder: Path) -> None:
        self.bench = Bench(folder, shipped())
        self.boot = f"{uuid.uuid4().hex}.1"
        self.bench.host.process_environment = {**self.bench.host.process_environment, "AURA_BOOT": self.boot}
        self.warm = Warm(self.boot)

    async def run(self, code: str, **inputs: Any) -> Any:
        return await self.bench.call("python.run", code=code, inputs=inputs)

    async def filled(self) -> list[int]:
        await until(lambda: len(self.warm.kept) == module.KEPT, 60)
        return [one.child.pid for one in self.warm.kept]


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Served]:
    made = Served(folder)
    # what keeps them; cancelled below
    async with anyio.create_task_group() as group:
        group.start_soon(made.warm.serve)
        await anyio.lowlevel.checkpoint()
        yield made
        group.cancel_scope.cancel()
    assert not idle(made.boot)


async def test_none_is_started_before_the_first_job_and_two_after_it(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        assert not idle(server.boot)
        await server.run("")
        kept = await server.filled()
        assert sorted(idle(server.boot)) == sorted(kept)


async def test_each_has_one_job(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        await server.run("")
        code = "import os, builtins\nresult = [os.getpid(), hasattr(builtins, 'left')]\nbuiltins.left = 1"
        pids = []
        for _ in range(3):
            kept = await server.filled()
            pid, was_used = await server.run(code)
            assert pid in kept
            assert not was_used
            pids.append(pid)
        assert len(set(pids)) == 3
        assert all(map(has_ended, pids))


async def test_job_gives_it_the_marks_of_its_run_for_all_to_see(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys
def marks(pid):
    while not (shown := open(f"/proc/{pid}/environ").read()):  # it is being executed: there is none for a moment
        pass
    return shown.split("\\0")
fork = os.fork()
if fork == 0:
    os.read(0, 1) or __import__("time").sleep(100)
child = subprocess.Popen(["sleep", "100"])
result = [marks(os.getpid()), marks(fork), marks(child.pid), os.environ["AURA_STEP"], os.getcwd()]
"""
    async with served(tmp_path) as server:
        await server.run("")
        kept = await server.filled()
        *shown, step, folder = await server.run(code)
        wanted = f"AURA_CID={server.bench.host.process_environment['AURA_CID']}"
        assert [wanted in marks for marks in shown] == [True, True, True]
        assert (step, folder) == ("step", str(tmp_path))
        cid = server.bench.host.process_environment["AURA_CID"]
        assert await leftovers.end_run_leftovers(server.boot, cid)
        assert kept


async def test_one_that_was_killed_while_it_waited_is_not_taken(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        await server.run("")
        for pid in await server.filled():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: all(one.child.returncode is not None for one in server.warm.kept))
        assert await server.run("result = 1") == 1
        await server.filled()


async def test_one_that_dies_with_the_job_in_its_hands_is_replaced(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        await server.run("")
        stopped = await server.filled()
        for pid in stopped:  # it hears nothing more
            os.kill(pid, signal.SIGSTOP)
        # the job alone; ends by itself
        async with anyio.create_task_group() as group:
            group.start_soon(server.run, "open('done', 'w').write('\\n')")
            await until(lambda: len(server.warm.kept) < module.KEPT or server.warm.kept[0].child.pid not in stopped)
            for pid in stopped:
                os.kill(pid, signal.SIGKILL)
        assert (tmp_path / "done").exists()


async def test_they_go_when_no_job_comes_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path) as server:
        await server.run("")
        assert await server.filled()
        monkeypatch.setattr(module, "IDLE_TIME", 0.05)  # from the next job on
        await server.run("")
        await until(lambda: not server.warm.kept and not idle(server.boot), 60)
        assert await server.run("result = 1") == 1


async def test_many_jobs_at_once_have_their_own(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        await server.run("")
        await server.filled()
        found: list[int] = []

        async def one(number: int) -> None:
            found.append(await server.run("result = inputs['n'] ** 2", n=number))

        # the jobs; each ends by itself
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
        assert sorted(found) == [number**2 for number in range(20)]


async def test_end_while_one_starts_leaves_none(tmp_path: Path) -> None:
    for pause in (0.0, 0.01, 0.03, 0.1):
        async with served(tmp_path) as server:
            server.warm.take()
            await anyio.sleep(pause)


async def test_cold_one_is_used_where_marks_cannot_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOT_READY", "short")
    async with served(tmp_path) as server:
        await server.run("")
        await anyio.lowlevel.checkpoint()
        assert await server.run("result = 1") == 1
        assert not server.warm.kept


ORPHAN = """
import sys
import anyio
import anyio.lowlevel
from pathlib import Path
from tests.unit.test_isolation_warm import Served
async def main():
    server = Served(Path(sys.argv[1]))
    async with anyio.create_task_group() as group:
        group.start_soon(server.warm.serve)
        await anyio.lowlevel.checkpoint()
        await server.run("")
        await server.filled()
        group.start_soon(server.run, "import time, os\\nif os.fork() == 0: time.sleep(100), os._exit(0)\\n"
            "open('ready', 'w').write('\\\\n')\\nend = time.monotonic() + 100\\nwhile time.monotonic() < end: pass")
        await server.filled()
        print(server.boot, flush=True)
        await anyio.sleep(100)
anyio.run(main)
"""


def alive(boot: str) -> list[leftovers.Seen]:
    """The processes that a start of the server has left and that have not ended."""
    found = [seen for seen in leftovers.look_at_all() if seen.marks.get(leftovers.BOOT) == boot]
    return [seen for seen in found if not seen.zombie]


async def test_server_that_is_killed_leaves_none(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(  # noqa: ASYNC220 - a moment
        [sys.executable, "-c", ORPHAN, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            assert server.stdout is not None
            boot = (await anyio.to_thread.run_sync(server.stdout.readline)).strip()
            await until(lambda: (tmp_path / "ready").exists())
            # one for each that is kept, the one that runs, and its child: as soon as the kernel shows their marks
            await until(lambda: len(alive(boot)) == module.KEPT + 2)
            mine = alive(boot)
        finally:
            server.kill()  # or the test would wait for it for ever
    await until(lambda: all(has_ended(seen.pid) for seen in mine))
