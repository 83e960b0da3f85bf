"""The grace of a rule is all the time that there is: for sub-tasks, for none at all, and for who emitted the event."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from tests.engine.interrupts_kit import open_lab, rule
from tests.engine.test_stuck_victims import ACTIONS, LATE, fired, outcome

from aura.store import Ticket
from aura.stores.memory import MemoryBackend

pytestmark = pytest.mark.anyio

#: ``tidies`` cleans up for a second, ``emits`` for a quarter of one.
MORE = """
@action
async def tidies() -> None:
    try:
        await anyio.sleep(3600)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)

@action
async def emits(ctx: Context) -> None:
    await anyio.sleep(1)
    await ctx.emit("battery.low")
    try:
        await anyio.sleep(3600)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.25)
"""
PUTS_AWAY = "on_preempt: [{name: put_away, action: hold, params: {seconds: 600}}]\n"


@pytest.mark.parametrize("mode", ["now", "at_step_end"])
@pytest.mark.parametrize(("grace", "before"), [(0.0, "stuck"), (0.4, "stuck"), (2.0, "preempted")])
async def test_sub_task_and_its_on_preempt_have_the_grace_together(
    tmp_path: Path, mode: str, grace: float, before: str
) -> None:
    part = f"preempt: {mode}\nsteps: [{{name: long, action: tidies}}]\n{PUTS_AWAY}"
    files = {"work": "steps: [{name: long, action: task.run, params: {task: part}}]\n", "part": part}
    async with open_lab(tmp_path, actions=ACTIONS + MORE, rules=rule(f"grace: {grace}s"), **files) as world:
        run = await world.begin_run()
        await world.until(world.runs("part")[0], step="long", state="running")
        handler, took = await fired(world)
        assert took <= grace * (1 if mode == "now" else 2) + LATE
        assert outcome(world, handler) == before
        await world.engine.cancel(run.cid)
        await world.settle()


@pytest.mark.parametrize("mode", ["now", "at_step_end"])
async def test_no_grace_leaves_on_preempt_no_time(tmp_path: Path, mode: str) -> None:
    work = f"preempt: {mode}\nsteps: [{{name: long, action: hold, params: {{seconds: 60}}}}]\n{PUTS_AWAY}"
    async with open_lab(tmp_path, actions=ACTIONS, rules=rule("grace: 0s"), work=work) as world:
        run = await world.begin_run()
        handler, took = await fired(world)
        assert took <= LATE
        assert (outcome(world, handler), run.steps["put_away"].state) == ("preempted", "failed")
        await world.engine.cancel(run.cid)
        await world.settle()


class Stalls(MemoryBackend):
    """Takes so many seconds for its next commit."""

    stall = 0.0

    async def commit(self, batch: Sequence[Ticket]) -> None:
        stall, self.stall = self.stall, 0.0
        await anyio.sleep(stall)
        await super().commit(batch)


async def test_handler_waits_for_its_emitter_however_long_its_event_takes_to_be_stored(tmp_path: Path) -> None:
    backend = Stalls()
    work = "steps: [{name: long, action: emits}]\n"
    async with open_lab(
        tmp_path, backend=backend, actions=ACTIONS + MORE, rules=rule("grace: 300ms"), work=work
    ) as world:
        run = await world.begin_run()
        backend.stall = 2.0
        await world.until(lambda: bool(world.runs("save")))
        await world.until(world.runs("save")[0], step="save", state="running")
        assert run.state == "preempted", run.explain()
        await world.engine.cancel(run.cid)
        await world.settle()
