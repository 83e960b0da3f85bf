"""Interrupts, one plain test for each fault that chance has found (``test_interrupt_machine``)."""

from pathlib import Path

import pytest
from tests.engine.interrupts_kit import SAVE, open_lab, preempted, rules

pytestmark = pytest.mark.anyio


async def test_run_that_two_rules_want_at_once_is_a_victim_of_the_first_alone(tmp_path: Path) -> None:
    both = '[{event: "battery.low"}]'
    text = rules(a=f"triggers: {both}", b=f"triggers: {both}, then: restart")
    async with open_lab(tmp_path, rules=text) as world:
        run = await world.begin_run()
        first, second = (await world.tell()).interrupts
        await world.settle()
        assert [victim.outcome for victim in world.victims(first.cid)] == ["preempted"]
        assert world.victims(second.cid) == []
        assert preempted(run) == (1, first.cid)
        assert run.state == "succeeded", run.explain()


async def test_runs_that_rest_and_have_nothing_to_clean_up_all_end_if_the_rule_says_so(tmp_path: Path) -> None:
    text = rules(a="priority: 0", b="priority: 5, then: cancel, task: quick")
    async with open_lab(tmp_path, rules=text, quick=SAVE) as world:
        found = [await world.begin_run() for _ in range(2)]
        await world.tell("go.a")
        await world.until(world.runs("save")[0], state="running")
        await world.tell("go.b")
        await world.settle()
        assert [run.state for run in found] == ["cancelled", "cancelled"]
        assert [run.state for run in (*world.runs("save"), *world.runs("quick"))] == ["succeeded", "succeeded"]
