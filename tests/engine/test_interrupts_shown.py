"""What is shown of interrupts while they happen: of rules, firings, what they have stopped and what they hold."""

from pathlib import Path
from typing import Any

import pytest
from tests.engine.interrupts_kit import ACTIONS, WORK, lab_settings, open_lab, preempted, rule, rules

from aura.errors import RequestError
from aura.web import shapes

pytestmark = pytest.mark.anyio

FORMER = ACTIONS + "\n@action\nasync def cleans(ctx: Context) -> None:\n    try:\n        await anyio.sleep(9)\n"
CLEANS = FORMER + "    finally:\n        await anyio.sleep(0.25)\n"
CLEANING = "steps: {long: {action: cleans}}"


async def whole(world: Any, cid: str) -> Any:
    """A run as the door shows it."""
    detail = await world.engine.history.get_run(cid)
    return shapes.run_whole(detail.record, detail.steps, detail.children, detail.progress, detail.stopped)


async def test_both_records_say_who_stopped_whom_when_and_how_long_it_took(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule(), actions=CLEANS, work=CLEANING) as world:
        run = await world.begin_run()
        told = world.engine.clock.wall()
        (fired,) = (await world.tell()).interrupts
        await world.until(run, state="preempted")
        stopped = await whole(world, run.cid)
        assert (stopped.preempted_by.plan_name, stopped.preempted_by.rule) == ("lab", "low_battery")
        assert (stopped.preempted_by.cid, stopped.preemptions) == (fired.cid, 1)
        assert stopped.preempted_by.at.timestamp() == pytest.approx(told, abs=0.01)
        assert stopped.preempted_by.cleanup_s == pytest.approx(0.25, abs=0.01)
        handler = await whole(world, fired.cid)
        (victim,) = handler.victims
        assert (victim.cid, victim.outcome, handler.victim_count) == (run.cid, "preempted", 1)
        assert victim.gone_at.timestamp() == pytest.approx(told + 0.25, abs=0.02)
        assert (handler.cause.kind, handler.cause.rule) == ("interrupt", "low_battery")


async def test_what_waits_for_the_end_of_an_interrupt_says_for_whose(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule()) as world:
        run = await world.begin_run()
        (fired,) = (await world.tell()).interrupts
        await world.until(run, state="preempted")
        queued = await world.start("work")
        await world.loop.wait_quiet()
        held = {"kind": "held", "names": ["lab/low_battery"], "holders": [fired.cid]}
        listed = {entry["cid"]: entry for entry in world.engine.queue_list()}
        for one, state in ((run, "preempted"), (queued, "queued")):
            assert (await whole(world, one.cid)).waiting_for.kind == "held"
            assert (listed[one.cid]["waiting_for"], listed[one.cid]["state"]) == (held, state)
        await world.settle()
        assert (await whole(world, run.cid)).waiting_for is None


async def test_handler_that_waits_for_clean_up_says_for_whose(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule(), actions=CLEANS, work=CLEANING) as world:
        run = await world.begin_run()
        (fired,) = (await world.tell()).interrupts
        await world.advance(0.1)
        waits = (await whole(world, fired.cid)).waiting_for
        assert (waits.kind, waits.names, waits.holders) == ("cleanup", [], [run.cid])
        (firing,) = world.engine.status()["interrupts"]["open"]
        assert (firing["cid"], firing["state"], firing["awaited"]) == (fired.cid, "cleanup", [run.cid])
        assert (firing["victims"], firing["victim_count"]) == ([run.cid], 1)


async def test_handler_behind_a_more_urgent_one_says_that_it_is_held(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rules(low="priority: 1", high="priority: 2")) as world:
        await world.begin_run()
        (high,) = (await world.tell("go.high")).interrupts
        (low,) = (await world.tell("go.low")).interrupts
        await world.advance(0.1)
        waits = (await whole(world, low.cid)).waiting_for
        assert (waits.kind, waits.names, waits.holders) == ("held", ["lab/high"], [high.cid])
        opened = [(one["rule"], one["state"]) for one in world.engine.status()["interrupts"]["open"]]
        assert opened == [("high", "running"), ("low", "queued")]


async def test_status_is_empty_once_the_interrupt_is_over(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        await world.begin_run()
        await world.tell()
        await world.settle()
        assert world.engine.status()["interrupts"] == {"open": [], "open_total": 0}
        assert world.engine.measures.fired == {("lab", "low_battery"): 1}
        assert world.engine.measures.cleanups.cumulative()[-1] == 1


async def test_dry_run_says_what_a_firing_then_does(tmp_path: Path) -> None:
    never = WORK + "preempt: never\n"
    only = rule("preempts: {tasks: [work, careful]}")
    async with open_lab(tmp_path, rules=only, careful=never, other=WORK) as world:
        run, careful = await world.begin_run(), await world.begin_run("careful")
        waiting = [await world.start("work") for _ in range(4)]
        await world.start("other")
        await world.loop.wait_quiet()
        found = world.engine.dry_run("lab", "low_battery")
        (hold,) = found["holds"]
        in_place = [one.cid for one in (run, *waiting) if one.state == "running"]
        assert (sorted(found["victims"]), found["spared"]) == (sorted(in_place), [careful.cid])
        assert (hold["lane"], hold["queued"]) == ("main", 5 - len(in_place))
        assert world.firings() == []
        (fired,) = (await world.tell()).interrupts
        await world.until(lambda: world.live(fired.cid).begun)
        shown = await whole(world, fired.cid)
        assert sorted(victim.cid for victim in shown.victims) == sorted(found["victims"])
        assert preempted(careful) == (0, None)


async def test_dry_run_while_the_engine_is_being_stopped_stops_nobody(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        run = await world.begin_run()
        assert world.engine.dry_run("lab", "low_battery")["victims"] == [run.cid]
        world.engine.request_stop("drain", 5)
        assert world.engine.dry_run("lab", "low_battery")["victims"] == []


async def test_dry_run_while_the_engine_is_stopped_stops_nobody(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        await world.engine.stop("cancel", 0.1)
        queued = await world.start("work")
        found = world.engine.dry_run("lab", "low_battery")
        assert (found["victims"], found["spared"], found["holds"][0]["queued"]) == ([], [], 1)
        assert queued.state == "queued"


@pytest.mark.parametrize(
    ("preempts", "cross_plan", "reaches", "plans"),
    [
        pytest.param("", True, True, ["*"], id="all"),
        pytest.param("", False, False, ["lab"], id="no-cross-plan"),
        pytest.param("preempts: {plans: [lab]}", True, False, ["lab"], id="own"),
        pytest.param("preempts: {plans: [lab, other]}", True, True, ["lab", "other"], id="other"),
        pytest.param("preempts: {plans: ['lab*']}", True, True, ["lab*"], id="pattern"),
    ],
)
async def test_rule_that_may_stop_other_plans_is_shown(
    tmp_path: Path, preempts: str, cross_plan: bool, reaches: bool, plans: list[str]
) -> None:
    settings = lab_settings(tmp_path, cross_plan=cross_plan)
    async with open_lab(tmp_path, rules=rule(preempts), settings=settings) as world:
        (shown,) = world.engine.rules()
        assert shown["preempts_others"] is reaches
        assert world.engine.plans_that_preempt_others() == ({"lab"} if reaches else set())
        assert world.engine.dry_run("lab", "low_battery")["holds"][0]["plans"] == plans
        assert shapes.rule(shown).source.file == "lab/interrupts.yaml"


async def test_rules_are_in_the_order_in_which_they_are_paged(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rules(b="", a="", c="")) as world:
        assert [one["rule"] for one in world.engine.rules()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("plan", "name", "code"), [("lab", "x", "unknown_rule"), ("nowhere", "x", "unknown_plan")], ids=["rule", "plan"]
)
async def test_unknown_rule_is_refused(tmp_path: Path, plan: str, name: str, code: str) -> None:
    async with open_lab(tmp_path) as world:
        for ask in (world.engine.rule, world.engine.dry_run):
            with pytest.raises(RequestError) as refused:
                ask(plan, name)
            assert refused.value.code == code
