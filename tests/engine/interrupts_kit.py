"""Plans with interrupt rules for tests of the engine, written from a few words, and what such tests ask of a world.

``open_lab`` writes the plan ``lab`` and opens a world over it: its task ``work`` is what is stopped (``first``, then
``long``, which holds for 0.9 s), ``save`` is the handler (0.5 s), and ``low_battery`` the rule that fires on the event
``battery.low`` with less than ten per cent.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.fakes.kernel import copy_of

from aura.config import Settings, load_settings
from aura.events import EventReceipt
from aura.interrupts.rules import LiveRule
from aura.records.firings import FiringRow, VictimRow, read_open_firings, read_victims
from aura.run import Cause, Request
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend
from aura.testing.run import Run
from aura.testing.world import World, open_world

WORK = """
steps:
  - {name: first, action: sleep, params: {duration: 500ms}}
  - {name: long, action: hold}
"""
SAVE = """
steps:
  save: {action: sleep, params: {duration: 500ms}}
"""
RULES = """
rules:
  low_battery:
    triggers: [{event: "battery.low", when: "{{ event.payload.percent < 10 }}"}]
    task: save
"""
ACTIONS = """
import anyio
from aura import action, Context

@action
async def hold(ctx: Context, seconds: float = 0.9) -> str:
    ctx.log.info("held")
    await anyio.sleep(seconds)
    return "done"
"""


def write_plan(
    folder: Path, name: str = "lab", *, rules: str | None = RULES, actions: str = ACTIONS, plan: str = "", **tasks: str
) -> Path:
    """Write the plan ``folder/plans/name`` and give its folder.

    ``plan`` is its plan.yaml; each other keyword is the text of a task; of those called work and save there is a
    default. What is written over an older version of the plan replaces these files alone.
    """
    home = folder / "plans" / name
    (home / "tasks").mkdir(parents=True, exist_ok=True)
    files = {"actions.py": actions} | {f"tasks/{task}.yaml": text for task, text in _tasks(tasks).items()}
    files |= {"interrupts.yaml": rules} if rules is not None else {}
    files |= {"plan.yaml": plan} if plan else {}
    for path, text in files.items():
        (home / path).write_text(text, encoding="utf-8")
    return home


def _tasks(given: Mapping[str, str]) -> dict[str, str]:
    return {"work": WORK, "save": SAVE, **given}


def rule(extra: str = "", *, name: str = "low_battery", on: str = '{event: "battery.low"}', task: str = "save") -> str:
    """The text of interrupts.yaml with one rule that any ``battery.low`` fires; ``extra``: keys, ``k: v, k: v``."""
    more = f", {extra}" if extra else ""
    return f"rules:\n  {name}: {{triggers: [{on}], task: {task}{more}}}\n"


def rules(**given: str) -> str:
    """The text of interrupts.yaml with these rules, each the keys ``k: v, k: v``; task save and the event of its name.

    Of a rule ``a`` that says no triggers the event is ``go.a``.
    """
    lines = []
    for name, keys in given.items():
        task = "" if "task:" in keys else ", task: save"
        on = "" if "triggers:" in keys else f', triggers: [{{event: "go.{name}"}}]'
        lines.append(f"  {name}: {{{keys}{task}{on}}}\n".replace("{, ", "{"))
    return "rules:\n" + "".join(lines)


class Lab(World):
    """A world over a plan with rules."""

    async def tell(self, name: str = "battery.low", payload: Any = None) -> EventReceipt:
        """Emit an event as a client does, and give what it has brought about, once it is on record.

        The payload of nothing said is that of an almost empty battery.
        """
        return await self.engine.emit(name, {"percent": 5} if payload is None else payload)

    async def accepted(self, task: str = "work") -> Run:
        """Start a run in this very child, and return in the turn in which it is accepted."""
        return Run(self, (await self.engine.submit(Request(self.plan_name, task), Cause("api"))).cid)

    async def begin_run(self, task: str = "work", *, step: str = "long", **wishes: Any) -> Run:
        """Start a run and return when its step runs and is on record."""
        run = await self.start(task, **wishes)
        await self.until(run, step=step, state="running")
        await self.loop.wait_quiet()
        return run

    def live(self, run: Run | str) -> LiveRun:
        """A run that has not ended, in memory."""
        return self.engine.runtime.open[run if isinstance(run, str) else run.cid]

    def rule(self, name: str = "low_battery", plan_name: str | None = None) -> LiveRule:
        """A rule as it is served."""
        return self.engine.triggers.find(plan_name or self.plan_name, name)

    async def switch_rule(self, enabled: bool, name: str = "low_battery") -> LiveRule:
        """Switch a rule on or off."""
        return await self.engine.switch_rule(self.plan_name, name, enabled, "a test")

    async def rewrite(self, folder: Path, **files: str) -> None:
        """Write the plan again, as ``write_plan`` does, and reload it."""
        write_plan(folder, self.plan_name, **files)
        await self.engine.reload()

    def firings(self) -> list[tuple[str, str, str, str | None]]:
        """All firings on record, in their order: rule, ``cid`` of the handler, ``event_id``, outcome."""
        return list(self.backend.execute("SELECT rule, cid, event_id, outcome FROM firing ORDER BY id").fetchall())

    def open_firings(self) -> list[FiringRow]:
        """Those that have not ended, on record."""
        return [one.row for one in read_open_firings(self.backend.execute)]

    def victims(self, cid: str) -> list[VictimRow]:
        """The victims of the firing whose handler this is, as they are on record."""
        (found,) = self.backend.execute("SELECT id FROM firing WHERE cid=?", (cid,)).fetchall()
        return read_victims(self.backend.execute, found[0])

    def payloads(self, name: str) -> list[Any]:
        """The payloads of all events of this name that are on record, in their order."""
        found = self.backend.execute("SELECT payload FROM event WHERE name=? ORDER BY id", (name,)).fetchall()
        return [payload and msgspec.json.decode(payload) for (payload,) in found]


def preempted(run: Run) -> tuple[int, str | None]:
    """How often a run was stopped by interrupts, and the ``cid`` of the handler of the last one, on record."""
    record = run.record
    return record.preemptions, record.preempted_by["cid"] if record.preempted_by else None


def lab_settings(
    folder: Path, *, grace: float = 0.3, lanes: Mapping[str, int] | None = None, cross_plan: bool = True
) -> Settings:
    """Settings of a lab; ``lanes``: limits by the name of the lane, ``grace``: that of the server."""
    settings = load_settings({"data": folder / "data", "plans": folder / "plans"}, {}, None, folder)
    limits = {
        name: msgspec.structs.replace(lane, limit=(lanes or {}).get(name, lane.limit))
        for name, lane in settings.lanes.items()
    }
    return msgspec.structs.replace(
        settings,
        lanes=limits,
        server=msgspec.structs.replace(settings.server, grace=grace),
        interrupts=msgspec.structs.replace(settings.interrupts, cross_plan=cross_plan),
    )


@asynccontextmanager
async def open_lab(
    folder: Path,
    *,
    backend: Any = None,
    settings: Any = None,
    write: Any = True,
    **files: str,
) -> AsyncIterator[Lab]:
    """Open a world over the plan ``lab``, which is written from ``files`` first unless ``write`` is false.

    What stands beside it below ``folder/plans`` is served as well. ``backend``: a ``StoreBackend``, ``settings``:
    ``Settings``, or None; they are not typed so, since else no mapping of files could be given by ``**``.
    """
    if write:
        write_plan(folder, **files)
    home = folder / "plans" / "lab"
    async with open_world(home, settings=settings or lab_settings(folder), backend=backend, kind=Lab) as world:
        yield world


def crashed(world: Lab) -> MemoryBackend:
    """What a crash at this moment would leave: give it to the next ``open_lab``, which need not wait for the first."""
    assert isinstance(world.backend, MemoryBackend)
    return copy_of(world.backend)
