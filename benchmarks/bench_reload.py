"""How long a saved plan takes to be served, by watching alone, and what the time goes into.

A server watches a plan of 20 files, by itself and beside 100 others of 20 files; a file of it is saved again and again,
in place and by a rename, and the time runs from the end of the save to the new version being served.

    python benchmarks/bench_reload.py [SAVES]
"""

import gc
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import anyio

from aura.config import load_settings
from aura.server import Server
from aura.serving import GC_THRESHOLDS, SWITCH_INTERVAL
from aura.watching.reloader import look_at_plans

TASK = "title: {title}\nsteps:\n" + "".join(
    f"  - name: s{n}\n    action: log\n    params: {{message: 'step {n} of {{{{ run.cid }}}}'}}\n" for n in range(5)
)
CODE = "from aura import action\n\n\n@action\nasync def version() -> int:\n    return 1\n"
FILES = 20


def write_plan(home: Path) -> None:
    (home / "tasks").mkdir(parents=True)
    for number in range(FILES - 3):
        (home / f"tasks/t{number}.yaml").write_text(TASK.replace("{title}", "first"))
    (home / "plan.yaml").write_text("title: a plan of twenty files\n")
    (home / "actions.py").write_text(CODE)
    (home / "schedule.yaml").write_text("items:\n  hourly: {task: t0, triggers: [{every: 1h}]}\n")


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


def by_rename(file: Path, text: str) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, file)


async def measure(server: Server, root: Path, save: Callable[[Path, str], None], saves: int) -> None:
    """Save again and again, and print what the times were."""
    engine = server.engine
    delays: list[float] = []
    loads: list[float] = []
    load: Callable[[Any], Awaitable[None]] = engine.reloader._load

    async def timed(ripe: Any) -> None:
        begin = time.perf_counter()
        await load(ripe)
        loads.append((time.perf_counter() - begin) * 1000)

    engine.reloader._load = timed  # type: ignore[method-assign]
    for number in range(saves):
        former = engine.generations.current("lab")
        await anyio.sleep(0.05 + number % 7 * 0.03)  # at any point of the watcher's steps
        save(root / "lab/tasks/t3.yaml", TASK.replace("{title}", f"{save.__name__} {number}"))
        begin = time.perf_counter()
        while engine.generations.current("lab") is former:  # noqa: ASYNC110 - nothing may be told sooner or later
            await anyio.sleep(0.002)
        delays.append((time.perf_counter() - begin) * 1000)
    engine.reloader._load = load  # type: ignore[method-assign]
    print(f"  saved {save.__name__:9}: served after {spread(delays)}; of that the load {spread(loads)}")


def spread(times: list[float]) -> str:
    *_, p99 = quantiles(times, n=100)
    return f"p50 {median(times):.0f} ms, p99 {p99:.0f} ms, max {max(times):.0f} ms"


async def serve(folder: Path, others: int, saves: int) -> None:
    root = folder / "plans"
    write_plan(root / "lab")
    for number in range(others):
        write_plan(root / f"other{number}")
    settings = load_settings({"plans": root, "data": folder / "data", "port": 0}, {}, None, folder)
    server = Server(settings)
    async with anyio.create_task_group() as group:  # the server; ends by ``request_stop``
        await group.start(server.serve)
        await anyio.sleep(2)
        begin = time.perf_counter()
        _, looks = await anyio.to_thread.run_sync(look_at_plans, root)
        look = (time.perf_counter() - begin) * 1000
        print(f"{others} other plans; a look at all {len(looks)} plans takes {look:.1f} ms")
        for save in (in_place, by_rename):
            await measure(server, root, save, saves)
        begin = time.perf_counter()
        await server.engine.reload()
        print(f"  a reload of all of them, of which none has changed: {(time.perf_counter() - begin) * 1000:.0f} ms")
        server.request_stop()


def main() -> None:
    saves = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL)
    for others in (0, 100):
        with tempfile.TemporaryDirectory() as folder:
            anyio.run(serve, Path(folder), others, saves)


if __name__ == "__main__":
    main()
