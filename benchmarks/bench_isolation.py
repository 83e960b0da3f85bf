"""What a process of its own costs a step: from its start to its end on record, without and with a warm interpreter.

An embedded server runs a task of one ``python.run`` that does nothing, one after the other. The first of each round
finds no warm interpreter; before each further one it is waited until there are two.

    python benchmarks/bench_isolation.py [STEPS]
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

import anyio

from aura.embed import EmbeddedServer, open_server
from aura.isolation import warm
from aura.isolation.messages import UNMARKED
from aura.processes import leftovers

TASK = 'steps: {a: {action: python.run, params: {code: "result = 1"}}}\n'


def idle() -> int:
    """How many warm interpreters this process has."""
    mine = [seen for seen in leftovers.look_at_all() if seen.parent == os.getpid() and not seen.zombie]
    return sum(seen.marks.get(leftovers.CID) == UNMARKED for seen in mine)


async def milliseconds(server: EmbeddedServer) -> float:
    run = await server.wait((await server.submit("lab", "t")).cid)
    (step,) = run.steps
    assert step.state == "succeeded", step.error
    assert step.duration_s is not None
    return 1000 * step.duration_s


async def measure(folder: Path, steps: int, kept: int) -> list[float]:
    warm.KEPT = kept
    (folder / "lab/tasks").mkdir(parents=True)
    (folder / "lab/tasks/t.yaml").write_text(TASK)
    found = []
    async with open_server(folder, data=folder / "data") as server:
        for _ in range(steps + 1):
            found.append(await milliseconds(server))
            while idle() < kept:  # noqa: ASYNC110 - the kernel tells nobody
                await anyio.sleep(0.02)
    return found[1:]


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for name, kept in (("cold", 0), ("warm", warm.KEPT)):
        with tempfile.TemporaryDirectory() as scratch:
            found = anyio.run(measure, Path(scratch).resolve(), count, kept)
        spread = f"{min(found):.0f} to {max(found):.0f}"
        print(f"python.run, {name}: {statistics.median(found):.0f} ms in the median of {count} ({spread})")
