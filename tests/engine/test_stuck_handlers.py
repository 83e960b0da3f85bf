"""Handlers of interrupts that hang, and what those take over that have several parts."""

from pathlib import Path

import pytest
from tests.engine.interrupts_kit import open_lab, preempted, rule
from tests.engine.test_stuck_victims import ACTIONS, NEEDS, SCREEN, holding, in_use, let_go, misbehaves

pytestmark = pytest.mark.anyio

HANGS = "timeout: 1s\ncleanup_timeout: 1s\n"
WORK = "steps: [{name: long, action: hold, params: {seconds: 3}}]\n"
ASKS = "steps: [{name: long, action: task.run, params: {task: part}}]\n"


@pytest.mark.parametrize("where", ["itself", "its part"])
async def test_firing_is_over_when_its_handler_hangs(tmp_path: Path, where: str) -> None:
    hangs = misbehaves("swallows", tmp_path)
    files = {"work": WORK, "part": hangs, "save": HANGS + (hangs if where == "itself" else ASKS)}
    async with open_lab(tmp_path, actions=ACTIONS, rules=rule("grace: 1s"), **files) as world:
        run = await world.begin_run()
        first, _ = await world.tell(), await world.tell()
        await world.until(run, state="succeeded")
        assert [handler.record.stuck for handler in world.runs("save")] == [True, True]
        assert preempted(run) == (1, first.interrupts[0].cid)
        let_go(tmp_path)
        await world.settle()
        assert {handler.state for handler in world.runs("save")} == {"timed_out"}
        assert [row[3] for row in world.firings()] == ["stuck", "stuck"]
        assert [told["state"] for told in world.payloads("interrupt.ended")] == ["stuck", "stuck"]


STEPS = """
steps:
  - {name: one, action: hold, resources: {screen: 1}}
  - {name: other, action: hold, resources: {screen: 1}, depends_on: []}
"""
ITEMS = "steps: {save: {action: hold, resources: {screen: 1}, loop: {for_each: [1, 2, 3], parallelism: 3}}}\n"
PARTS = """
steps:
  - {name: one, action: task.run, params: {task: part}}
  - {name: other, action: task.run, params: {task: part}, depends_on: []}
"""


@pytest.mark.parametrize("save", [STEPS, ITEMS, PARTS], ids=["steps", "items", "parts"])
async def test_parts_of_a_handler_have_what_it_takes_over_one_after_the_other(tmp_path: Path, save: str) -> None:
    files = {"bad": holding(tmp_path, "task"), "save": save, "part": NEEDS}
    async with open_lab(tmp_path, actions=ACTIONS, plan=SCREEN, rules=rule("grace: 1s"), **files) as world:
        run = await world.begin_run("bad")
        await world.tell()
        await world.until(world.runs("save")[0], state="succeeded")
        assert (run.state, in_use(world)) == ("stopping", 1)
        let_go(tmp_path)
        await world.settle()
        assert in_use(world) == 0
