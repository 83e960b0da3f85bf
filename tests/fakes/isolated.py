"""A world of a plan whose action runs in a process of its own, for tests of that."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from tests.fakes.children import running_of, until_file

from aura.lifecycle import Stop
from aura.testing.run import Run
from aura.testing.world import World, open_world

HEAD = """\
import asyncio, os, signal, subprocess, sys, threading, time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
import anyio
import msgspec
from aura import Context, action
from .cut import halves, spin

@action(isolation="process")
"""
CUT = """\
import time

def halves(text: str) -> list[str]:
    return [text[: len(text) // 2], text[len(text) // 2 :]]

def spin() -> None:
    end = time.monotonic() + 100  # so that a test that fails leaves nothing that computes for ever
    while time.monotonic() < end:
        pass
"""


@asynccontextmanager
async def world_of(
    folder: Path, code: str, task: str = "steps: {a: {action: do}}", **files: str
) -> AsyncIterator[World]:
    """A world of a plan with one isolated action, ``do``."""
    plan = folder / "lab"
    (plan / "tasks").mkdir(parents=True)
    (plan / "actions").mkdir()
    (plan / "actions/__init__.py").write_text("")
    (plan / "actions/cut.py").write_text(CUT)
    (plan / "actions/main.py").write_text(HEAD + code)
    (plan / "tasks/t.yaml").write_text(task)
    for name, text in files.items():
        (plan / name.replace("__", "/")).with_suffix(".yaml").write_text(text)
    async with open_world(plan) as world:
        yield world


async def begun(world: World, file: str = "ready") -> Run:
    """A run whose action has written a file, in really passing time."""
    run = await world.start("t")
    with anyio.fail_after(60):
        await until_file(world.engine.runtime.workdirs / run.cid / file)
    return run


def stop(world: World, run: Run, kind: Stop = Stop.CANCEL, grace: float = 5.0) -> None:
    assert run.live is not None
    world.engine.stops.request_stop(run.live, kind, kind.label, grace)


async def ended(world: World, run: Run) -> Run:
    await world.engine.history.wait_run(run.cid)
    assert not running_of(run.cid)
    return run


#: The line of an action that says that it has begun.
READY = "    Path('ready').write_text('\\n')\n"
