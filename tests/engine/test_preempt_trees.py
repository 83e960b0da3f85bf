"""Interrupts of trees of sub-tasks, turn by turn of the loop: they go on as a whole, and come to the same.

The same tree is begun again and again in one world, and the rule fires two turns later each time, until it fires too
late. What single moments come to are cases of ``tests/language/preempt_trees.yaml``.
"""

import itertools
from pathlib import Path
from typing import cast

import pytest
from tests.engine.interrupts_kit import Lab, open_lab, rule
from tests.engine.kit import Opened
from tests.fakes.invariants import check_history, check_idle

from aura.run import Cause, Request
from aura.testing.run import Run

pytestmark = pytest.mark.anyio

#: More turns than any of these trees takes.
TOO_MANY = 400
#: Fewer moments than there are in which it is stopped.
FEW = 6
WORK = """
preempt: %(top)s
steps:
  a:
    action: task.run
    params: {task: middle, inputs: {n: "{{ loop.item }}"}}
    loop: {for_each: [0, 1], parallelism: 2}
returns: "{{ steps.a.output }}"
on_preempt: {park: {action: step}}
on_resume: {home: {action: step}}
"""
MIDDLE = """
inputs: {n: integer}
steps:
  b: {action: step, params: {value: "{{ inputs.n }}"}}
  c: {action: task.run, params: {task: leaf, inputs: {n: "{{ steps.b.output }}"}}, depends_on: b}
returns: "{{ steps.c.output }}"
finally: {f: {action: step}}
"""
LEAF = """
preempt: %(leaf)s
inputs: {n: integer}
steps:
  d: {action: step, params: {value: "{{ inputs.n }}"}}
  e: {action: step, params: {value: "{{ steps.d.output * 10 }}"}, depends_on: d}
returns: "{{ steps.e.output }}"
"""
ACTIONS = """
from typing import Any
import anyio
from aura import action

@action
async def step(value: Any = None) -> Any:
    try:
        await anyio.sleep(0.2)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
    return value
"""


def tree(top: str = "now", leaf: str = "now") -> dict[str, str]:
    words = {"top": top, "leaf": leaf}
    return {"actions": ACTIONS, "work": WORK % words, "middle": MIDDLE, "leaf": LEAF % words}


async def fired_in(world: Lab, run: Run, turn: int) -> bool:
    """Fire the rule in so many turns from now, before all else in that turn; false if the run was gone by then."""
    looks = itertools.count()
    told: list[bool] = []

    def due() -> bool:
        gone = run.cid not in world.engine.runtime.open
        if not gone and next(looks) < turn:
            return False
        if not gone:
            world.engine.runtime.bus.emit("battery.low", {"percent": 1})
        told.append(not gone)
        return True

    await world.loop.wait_until(due)
    return told[0]


def accepted(world: Lab) -> Run:
    """A run whose acceptance is not committed yet."""
    return Run(world, world.engine.admission.request(Request("lab", "work"), Cause("api")).run.cid)


def members(world: Lab, run: Run) -> list[Run]:
    """A run and all that are a part of it."""
    rows = world.backend.execute("SELECT cid FROM run WHERE root_cid=? ORDER BY seq", (run.cid,)).fetchall()
    return [Run(world, cid) for (cid,) in rows]


def ended(world: Lab, run: Run) -> dict[str, int]:
    """How often each step of a run has succeeded, but for those of its handlers."""
    sql = "SELECT step, count(*) FROM history WHERE seq=? AND name='step.succeeded' AND length(step) = 1 GROUP BY step"
    return dict(world.backend.execute(sql, (run.record.seq,)).fetchall())


def check_tree(world: Lab, run: Run, states: set[str]) -> None:
    """It came to what it comes to by itself; every step succeeded once; nothing of it is left."""
    found = members(world, run)
    assert (run.state, run.result) == ("succeeded", [0, 10]), "\n".join(one.explain() for one in found)
    assert {one.state for one in found} <= states
    for one in found:
        check_history(world.backend.execute, one.record.seq, one.state)
        assert "cancelled" in states or max(ended(world, one).values(), default=0) <= 1, one.explain()
    check_idle(cast(Opened, world))


def check_firing(world: Lab) -> None:
    """The handler of the last firing has succeeded, and began when its victims were gone."""
    (_, cid, _, outcome) = world.firings()[-1]
    started = Run(world, cid).record.started_at
    assert outcome == "succeeded"
    assert started is not None
    for victim in world.victims(cid):
        assert victim.gone_at is not None, victim
        assert victim.gone_at <= started, victim
    assert len(world.victims(cid)) <= 1, "a victim is the topmost run of its tree"


async def sweep(world: Lab, states: set[str], first: int) -> int:
    """Fire in every second turn of a tree, from the ``first`` on; in how many of them it was stopped."""
    stopped = 0
    for turn in range(first, TOO_MANY, 2):
        run = accepted(world)
        told = await fired_in(world, run, turn)
        await world.settle()
        check_tree(world, run, states)
        if not told:
            return stopped
        check_firing(world)
        stopped += run.record.preemptions
    raise AssertionError("it takes too many turns")


@pytest.mark.parametrize(
    ("top", "leaf", "then", "first"),
    [
        ("now", "now", "resume", 0),
        ("now", "at_step_end", "resume", 1),
        ("at_step_end", "now", "resume", 0),
        ("now", "at_step_end", "restart", 1),
    ],
)
async def test_interrupt_at_each_turn_of_a_tree(tmp_path: Path, top: str, leaf: str, then: str, first: int) -> None:
    states = {"succeeded"} | ({"cancelled"} if then == "restart" else set())
    grace = "300ms" if top == "at_step_end" else "5s"  # all of its only step takes longer
    async with open_lab(tmp_path, **tree(top, leaf), rules=rule(f"then: {then}, grace: {grace}")) as world:
        by_itself = await world.run("work")
        check_tree(world, by_itself, {"succeeded"})
        assert await sweep(world, states, first) > FEW
