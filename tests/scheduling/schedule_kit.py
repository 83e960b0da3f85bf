"""Plans with schedules for tests, written from a few words, and what such tests ask of a world.

``open_lab`` writes the plan ``lab`` and opens a world over it: its task ``work`` does nothing and takes any text
``day``, ``slow`` holds for ten seconds. ``schedule`` writes schedule.yaml from the keys of its items.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from anyio import create_task_group
from anyio.lowlevel import checkpoint
from tests.fakes.kernel import copy_of

from aura.config import Settings, load_settings
from aura.records.why import WhyFilter, list_why
from aura.scheduling.liveitem import LiveItem
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import START, VirtualClock
from aura.testing.world import World, open_world
from aura.why import Why

WORK = """
inputs: {day: {type: string, default: ""}}
steps:
  only: {action: log, params: {message: "{{ inputs.day }}"}}
returns: {day: "{{ inputs.day }}", event: "{{ event }}"}
"""
SLOW = """
steps:
  only: {action: sleep, params: {duration: 10s}}
"""


def schedule(**items: str) -> str:
    """The text of schedule.yaml with these items, each the keys ``k: v, k: v``; the task is work if it names none."""
    lines = [f"  {name}: {{{keys}{'' if 'task:' in keys else ', task: work'}}}\n" for name, keys in items.items()]
    return "items:\n" + "".join(lines)


def write_plan(folder: Path, name: str = "lab", *, items: str | None = None, plan: str = "", **tasks: str) -> Path:
    """Write the plan ``folder/plans/name`` and give its folder; what is written over an older one replaces these files.

    ``items`` is its schedule.yaml, ``plan`` its plan.yaml; each other keyword is the text of a task, ``actions`` that
    of actions.py.
    """
    home = folder / "plans" / name
    (home / "tasks").mkdir(parents=True, exist_ok=True)
    actions = tasks.pop("actions", None)
    files = {f"tasks/{task}.yaml": text for task, text in {"work": WORK, "slow": SLOW, **tasks}.items()}
    files |= {"schedule.yaml": items} if items is not None else {}
    files |= {"plan.yaml": plan} if plan else {}
    files |= {"actions.py": actions} if actions else {}
    for path, text in files.items():
        (home / path).write_text(text, encoding="utf-8")
    return home


def at(text: str) -> float:
    """A time as RFC 3339, or the hour of the world's first day (``09:30``), in Unix seconds."""
    if len(text) <= 8:
        text = f"2026-01-01T{text}{'' if len(text) == 8 else ':00'}Z"
    return datetime.fromisoformat(text).timestamp()


def clock_at(text: str, recheck: float = 86_400.0) -> VirtualClock:
    """A clock that shows a time now; one that is to jump needs a ``recheck`` of a few seconds."""
    return VirtualClock(at(text) - (asyncio.get_running_loop().time() - START), recheck)


@asynccontextmanager
async def counted_turns() -> AsyncIterator[list[None]]:
    """Others beside what is done here: as many as their turns of the loop is the length of the list."""
    turns = list[None]()

    async def others() -> None:
        while True:
            turns.append(None)
            await checkpoint()

    async with create_task_group() as group:  # one child, cancelled when this has been left
        group.start_soon(others)
        yield turns
        group.cancel_scope.cancel()


class Lab(World):
    """A world over a plan with a schedule."""

    def item(self, name: str, plan_name: str | None = None) -> LiveItem:
        """An item as it is served."""
        return self.engine.items.find(plan_name or self.plan_name, name)

    def dues(self, task: str = "work") -> list[str]:
        """The slots of all runs of a task, in the order of their acceptance, as RFC 3339 in UTC without the date."""
        return [datetime.fromtimestamp(run.record.due, UTC).strftime("%H:%M:%S") for run in self.runs(task)]

    def jump(self, seconds: float) -> None:
        """Set the wall clock."""
        clock = self.server.engine.clock
        assert isinstance(clock, VirtualClock)
        clock.jump(seconds)

    async def rewrite(self, folder: Path, **files: Any) -> None:
        """Write the plan again, as ``write_plan`` does, and reload it."""
        write_plan(folder, self.plan_name, **files)
        await self.engine.reload()

    def unstarted(self, *reasons: str) -> list[Why]:
        """The lines of the ledger, in memory too, or those with these reasons, in their order."""
        stored = list_why(self.backend.execute, WhyFilter(), 1_000_000)
        lines = {line.id: line for line in (*stored, *self.server.engine.runtime.ledger.waiting())}
        return [lines[id] for id in sorted(lines) if not reasons or lines[id].reason in reasons]

    def reasons(self) -> list[str]:
        """The reasons of the ledger's lines, in their order."""
        return [line.reason for line in self.unstarted()]

    def payloads(self, name: str) -> Sequence[Any]:
        """The payloads of all events of this name that are on record, in their order."""
        found = self.backend.execute("SELECT payload FROM event WHERE name=? ORDER BY id", (name,)).fetchall()
        return [payload and msgspec.json.decode(payload) for (payload,) in found]


def lab_settings(folder: Path, *, grace: float = 0.3) -> Settings:
    """Settings of a lab; ``grace`` is that of the server."""
    settings = load_settings({"data": folder / "data", "plans": folder / "plans"}, {}, None, folder)
    return msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, grace=grace))


@asynccontextmanager
async def open_lab(
    folder: Path, *, clock: Any = None, backend: Any = None, settings: Any = None, write: Any = True, **files: Any
) -> AsyncIterator[Lab]:
    """Open a world over the plan ``lab``, which is written from ``files`` first unless ``write`` is false."""
    if write:
        write_plan(folder, **files)
    home = folder / "plans" / "lab"
    settings = settings or lab_settings(folder)
    async with open_world(home, settings=settings, backend=backend, kind=Lab, clock=clock) as world:
        yield world


def crashed(world: Lab) -> MemoryBackend:
    """What a crash at this moment would leave: give it to the next ``open_lab``, which need not wait for the first."""
    assert isinstance(world.backend, MemoryBackend)
    return copy_of(world.backend)
