"""What worlds cost, in which plans are tested: simulated years, opening and closing one, and polls that nobody needs.

Processor time of the process, the best and the median of the rounds; nothing stands in for anything but time and disk:

- *a year hourly, each fails*: 8,760 runs of a step that fails, is tried again after 500 ms and succeeds;
- *a year hourly, one in ten*: the same, but the step of nine runs in ten succeeds at once;
- *a month hourly, each fails*: the first of 30 days, 720 runs; a run costs no more when there are many before it;
- *a year daily*: 365 runs of one step that does nothing;
- *a world*: one that is opened, runs one task and is closed, one after another in one process;
- *an idle week with polls*: seven days in which five polls are asked every 30 s and never fire, 100,800 questions.

    python benchmarks/bench_worlds.py [ROUNDS [WORLDS]]

``make bench`` hands the same numbers to all benchmarks, and a round takes half a minute: more than 5 rounds are 5.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aura.testing.virtual_time import VirtualLoop
from aura.testing.world import World, open_world

ACTIONS = """
from aura import action
asked = 0
@action
async def flaky() -> int:
    global asked
    asked += 1
    if asked % 2:
        raise ConnectionError("not yet")
    return asked
@action
async def mostly() -> None:
    global asked
    asked += 1
    if asked % 11 == 0:
        raise ConnectionError("not yet")
@action
async def nothing() -> None: ...
@action
async def never() -> bool:
    return False
"""
TASKS = {
    "retried": "steps: {try: {action: flaky, retry: {attempts: 3, delay: 500ms, jitter: false}}}",
    "mostly": "steps: {try: {action: mostly, retry: {attempts: 3, delay: 500ms, jitter: false}}}",
    "plain": "steps: {do: {action: nothing}}",
}
POLL = "poll{n}: {{task: plain, triggers: [{{poll: {{action: never, every: 30s}}}}]}}"
ITEMS = {
    "hourly": 'item: {task: retried, triggers: [{cron: "0 * * * *"}]}',
    "mostly": 'item: {task: mostly, triggers: [{cron: "0 * * * *"}]}',
    "daily": 'item: {task: plain, triggers: [{cron: "0 3 * * *"}]}',
    "polls": ", ".join(POLL.format(n=n) for n in range(5)),
    "none": "",
}


#: More rounds are so many.
MOST_ROUNDS = 5


def write_plan(folder: Path, items: str) -> Path:
    """Write a plan whose schedule has these items."""
    (folder / "tasks").mkdir(parents=True)
    (folder / "actions.py").write_text(ACTIONS)
    (folder / "schedule.yaml").write_text(f"items: {{{items}}}\n")
    for name, text in TASKS.items():
        (folder / "tasks" / f"{name}.yaml").write_text(f"{text}\n")
    return folder


def seconds(plan: Path, live: Callable[[World], Awaitable[object]], whole: bool = False) -> float:
    """Processor time of what is lived in a world; of the ``whole`` world, with opening and closing it."""
    found = 0.0

    async def lived() -> None:
        nonlocal found
        async with open_world(plan) as world:
            begin = time.process_time()
            await live(world)
            found = time.process_time() - begin

    begin = time.process_time()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(lived())
    return time.process_time() - begin if whole else found


def days(count: int, runs: int) -> Callable[[World], Awaitable[object]]:
    """Live so many days, and check that there were so many runs."""

    async def live(world: World) -> None:
        before = world.engine.runtime.seq
        await world.advance(days=count)
        assert world.engine.runtime.seq - before == runs, world.engine.runtime.seq - before

    return live


async def run_one(world: World) -> None:
    """Run one task to its end."""
    run = await world.run("plain")
    assert run.state == "succeeded"


def say(what: str, took: list[float], unit: str = "s", scale: float = 1.0) -> None:
    shown = f"{min(took) * scale:8.2f} {unit} at best, {statistics.median(took) * scale:8.2f} {unit} at the median"
    print(f"{what:28} {shown}", flush=True)


def main(rounds: int = 3, worlds: int = 200) -> None:
    rounds = min(rounds, MOST_ROUNDS)
    with tempfile.TemporaryDirectory(prefix="bench-worlds-") as scratch:
        plans = {name: write_plan(Path(scratch) / name / "lab", items) for name, items in ITEMS.items()}
        seconds(plans["none"], run_one)  # what is made once in a process
        say("a year hourly, each fails", [seconds(plans["hourly"], days(365, 8760)) for _ in range(rounds)])
        say("a year hourly, one in ten", [seconds(plans["mostly"], days(365, 8760)) for _ in range(rounds)])
        say("a month hourly, each fails", [seconds(plans["hourly"], days(30, 720)) for _ in range(rounds)])
        say("a year daily", [seconds(plans["daily"], days(365, 365)) for _ in range(rounds)])
        say(f"a world, of {worlds}", [seconds(plans["none"], run_one, whole=True) for _ in range(worlds)], "ms", 1e3)
        say("an idle week with polls", [seconds(plans["polls"], days(7, 0)) for _ in range(rounds)])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
