"""Victims of an interrupt that do not end when told to: each has its documented outcome, and the handler is not late.

What such a run holds its handler may take over; others wait. Processes, threads and a busy loop are in
``tests/acceptance/test_interrupted_for_real.py``, in real time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.interrupts_kit import Lab, crashed, lab_settings, open_lab, rule

from aura.records.firings import VictimRow
from aura.runs.attempt import PULSE
from aura.testing.run import Run

pytestmark = pytest.mark.anyio

#: The grace of the rule, and how much later than that the handler's first step may begin.
GRACE = 2.0
LATE = 0.1
#: Everything that an action may do with its stop. ``free`` is a file: what swallows it for ever ends when it is there.
ACTIONS = """
import asyncio
from pathlib import Path
import anyio
from aura import action, Context

async def wait(seconds: float) -> None:
    await anyio.sleep(seconds)

@action
async def hold(ctx: Context, seconds: float = 0.9) -> str:
    await anyio.sleep(seconds)
    return "done"

@action
async def swallows_once(ctx: Context) -> str:
    try:
        await anyio.sleep(3600)
    except asyncio.CancelledError:
        await anyio.sleep(3600)
    return "late"

@action
async def swallows(ctx: Context, free: str) -> str:
    for _ in range(2000):
        try:
            await anyio.sleep(1)
        except asyncio.CancelledError:
            pass
        if Path(free).exists():
            return "late"
    return "never let go"

@action
async def returns_in_time(ctx: Context) -> str:
    try:
        await anyio.sleep(3600)
    except asyncio.CancelledError:
        await anyio.sleep(0.5)
    return "in time"

@action
async def cleans_up_for_ever(ctx: Context) -> None:
    try:
        await anyio.sleep(3600)
    finally:
        await anyio.sleep(3600)

@action
async def cleans_up(tidy: str) -> None:
    try:
        await anyio.sleep(3600)
    finally:
        await anyio.sleep(0.3)
        Path(tidy).touch()

@action
async def shields(ctx: Context, free: str) -> None:
    with anyio.CancelScope(shield=True):
        for _ in range(2000):
            if Path(free).exists():
                return
            await anyio.sleep(1)

@action
async def fails_in_clean_up(ctx: Context) -> None:
    try:
        await anyio.sleep(3600)
    finally:
        raise OSError("the disk is gone")
"""


def misbehaves(action: str, folder: Path, **keys: str) -> str:
    """The text of a task whose step ``long`` does this."""
    takes_free = action in ("swallows", "shields")
    params = f", params: {{free: {folder / 'free'}}}" if takes_free else ""
    more = "".join(f"{key}: {text}\n" for key, text in keys.items())
    return f"{more}steps: [{{name: long, action: {action}{params}}}]\n"


def let_go(folder: Path) -> None:
    (folder / "free").touch()


async def fired(world: Lab) -> tuple[Run, float]:
    """Fire the rule; give its handler once its first step runs, and after how many seconds that was."""
    began = world.now
    await world.tell()
    handler = world.runs("save")[-1]
    await world.until(lambda: handler.live is None or handler.live.live)
    return handler, world.now - began


def outcome(world: Lab, handler: Run) -> str | None:
    """What the one victim came to, as its firing has it on record."""
    (victim,) = world.victims(handler.cid)
    assert isinstance(victim, VictimRow)
    return victim.outcome


@pytest.mark.parametrize(
    ("action", "after", "expected", "state"),
    [
        pytest.param("returns_in_time", 0.5, "succeeded", "succeeded", id="swallows the edge and returns in time"),
        pytest.param("swallows_once", GRACE, "preempted", "preempted", id="swallows the edge, and not the pulse"),
        pytest.param("cleans_up_for_ever", GRACE, "preempted", "preempted", id="clean-up that ends on the pulse"),
        pytest.param("fails_in_clean_up", 0, "preempted", "preempted", id="another error in its clean-up"),
        pytest.param("swallows", GRACE + PULSE, "stuck", "stopping", id="swallows all"),
        pytest.param("shields", GRACE + PULSE, "stuck", "stopping", id="a shield of its own"),
    ],
)
async def test_handler_is_not_late_whatever_its_victim_does(
    tmp_path: Path, action: str, after: float, expected: str, state: str
) -> None:
    async with open_lab(
        tmp_path, actions=ACTIONS, rules=rule(f"grace: {GRACE}s"), bad=misbehaves(action, tmp_path)
    ) as world:
        run = await world.begin_run("bad")
        handler, took = await fired(world)
        assert took == pytest.approx(after, abs=LATE)
        assert took <= GRACE + LATE
        assert (outcome(world, handler), run.state) == (expected, state)
        let_go(tmp_path)
        if state == "preempted":
            await world.engine.cancel(run.cid)
        await world.settle()


async def test_stuck_victim_is_on_record_when_the_handler_begins(tmp_path: Path) -> None:
    async with open_lab(
        tmp_path, actions=ACTIONS, rules=rule(f"grace: {GRACE}s"), bad=misbehaves("swallows", tmp_path)
    ) as world:
        run = await world.begin_run("bad")
        handler, _ = await fired(world)
        record = run.record
        assert (record.state, record.stuck, record.preemptions) == ("stopping", True, 1)
        by = record.preempted_by
        assert by is not None
        assert (by["cid"], by["cleanup_s"]) == (handler.cid, pytest.approx(GRACE + PULSE, abs=0.01))
        let_go(tmp_path)
        await world.settle()


@pytest.mark.parametrize("then", ["resume", "restart", "cancel"])
async def test_stuck_victim_never_goes_on_whatever_its_body_gives_later(tmp_path: Path, then: str) -> None:
    rules = rule(f"grace: {GRACE}s, then: {then}")
    async with open_lab(tmp_path, actions=ACTIONS, rules=rules, bad=misbehaves("swallows", tmp_path)) as world:
        live = world.live(run := await world.begin_run("bad"))
        handler, _ = await fired(world)
        await world.until(handler, state="succeeded")
        assert (run.state, live.stopped_by, world.open_firings()) == ("stopping", None, [])
        let_go(tmp_path)
        await world.settle()
        assert (run.state, run.record.reason, run.record.result) == ("cancelled", "stuck", None)
        assert (run.steps["long"].state, run.steps["long"].attempt) == ("cancelled", 1)
        assert (outcome(world, handler), live.preemptions) == ("stuck", 1)


async def test_its_place_comes_back_while_it_hangs(tmp_path: Path) -> None:
    settings = lab_settings(tmp_path, lanes={"main": 1})
    bad = misbehaves("swallows", tmp_path)
    async with open_lab(tmp_path, actions=ACTIONS, rules=rule("grace: 1s"), bad=bad, settings=settings) as world:
        await world.begin_run("bad")
        other = await world.start("work")
        await fired(world)
        await world.until(other, state="succeeded")
        assert len(world.engine.dispatcher.stuck()) == 1
        let_go(tmp_path)
        await world.settle()


# -- the grace is total


@pytest.mark.parametrize(
    ("own", "grace", "before", "state"),
    [
        pytest.param("hold", 2.0, "preempted", "timed_out", id="takes too long"),
        pytest.param("swallows_once", 2.0, "preempted", "timed_out", id="swallows its end"),
        pytest.param("fails_in_clean_up", 2.0, "preempted", "timed_out", id="fails in its clean-up"),
        pytest.param("swallows", 2.0, "stuck", "running", id="hangs"),
        pytest.param("hold", 0.2, "preempted", "timed_out", id="there is little time"),
        pytest.param("swallows_once", 0.4, "preempted", "timed_out", id="swallows its end when there is little time"),
    ],
)
async def test_on_preempt_has_what_clean_up_has_left_of_the_grace(
    tmp_path: Path, own: str, grace: float, before: str, state: str
) -> None:
    params = f", params: {{free: {tmp_path / 'free'}}}" if own == "swallows" else ""
    params = ", params: {seconds: 600}" if own == "hold" else params
    task = "steps: [{name: long, action: hold, params: {seconds: 60}}]\n"
    task += f"on_preempt: [{{name: put_away, action: {own}{params}}}]\n"
    async with open_lab(tmp_path, actions=ACTIONS, rules=rule(f"grace: {grace}s"), bad=task) as world:
        run = await world.begin_run("bad")
        handler, took = await fired(world)
        assert grace * 0.7 <= took <= grace + LATE
        assert (outcome(world, handler), run.steps["put_away"].state) == (before, state)
        let_go(tmp_path)
        await world.engine.cancel(run.cid)
        await world.settle()


async def test_last_part_of_the_grace_is_for_the_clean_up_of_the_steps_of_on_preempt(tmp_path: Path) -> None:
    task = "steps: [{name: long, action: hold, params: {seconds: 60}}]\n"
    task += f"on_preempt: [{{name: put_away, action: cleans_up, params: {{tidy: {tmp_path / 'tidy'}}}}}]\n"
    async with open_lab(tmp_path, actions=ACTIONS, rules=rule("grace: 2s"), bad=task) as world:
        run = await world.begin_run("bad")
        _, took = await fired(world)
        assert took == pytest.approx(1.5 + 0.3, abs=LATE)
        assert (tmp_path / "tidy").exists()
        await world.engine.cancel(run.cid)
        await world.settle()


async def test_on_preempt_gets_no_time_when_clean_up_has_used_all_of_it(tmp_path: Path) -> None:
    task = "steps: [{name: long, action: swallows_once}]\non_preempt: [{name: put_away, action: hold}]\n"
    async with open_lab(tmp_path, actions=ACTIONS, rules=rule("grace: 1s"), bad=task) as world:
        run = await world.begin_run("bad")
        _, took = await fired(world)
        assert took == pytest.approx(1.0, abs=LATE)
        assert (run.state, run.steps["put_away"].state) == ("preempted", "failed")
        error = run.steps["put_away"].error
        assert error is not None
        assert error["type"] == "cleanup_timeout"
        await world.engine.cancel(run.cid)
        await world.settle()


async def test_on_preempt_of_a_step_that_was_let_end_has_a_second_grace(tmp_path: Path) -> None:
    task = "preempt: at_step_end\nsteps: [{name: long, action: hold, params: {seconds: 60}}]\n"
    task += "on_preempt: [{name: put_away, action: hold, params: {seconds: 600}}]\n"
    async with open_lab(tmp_path, actions=ACTIONS, rules=rule("grace: 1s"), bad=task) as world:
        run = await world.begin_run("bad")
        _, took = await fired(world)
        assert 1.7 <= took <= 2 + LATE
        assert (run.state, run.steps["put_away"].state) == ("preempted", "timed_out")
        await world.engine.cancel(run.cid)
        await world.settle()


async def test_handlers_of_a_victim_that_is_cancelled_have_their_own_time(tmp_path: Path) -> None:
    task = "steps: [{name: long, action: hold, params: {seconds: 60}}]\n"
    task += "finally: [{name: tidy, action: hold, params: {seconds: 3}}]\n"
    rules = rule("grace: 1s, then: cancel")
    async with open_lab(tmp_path, actions=ACTIONS, rules=rules, bad=task) as world:
        run = await world.begin_run("bad")
        _, took = await fired(world)
        assert took <= 1 + LATE
        await world.settle()
        assert (run.state, run.steps["tidy"].state) == ("cancelled", "succeeded")


# -- what it holds

SCREEN = "resources: {screen: 1}\n"
NEEDS = "resources: {screen: 1}\nsteps: {save: {action: hold}}\n"
STEP_NEEDS = "steps: {save: {action: hold, resources: {screen: 1}}}\n"
PART = "steps: {save: {action: task.run, params: {task: part}}}\n"
PART_OF = "steps: {save: {action: hold, resources: {screen: 1}}}\n"


def holding(folder: Path, where: str) -> str:
    """The text of a task that hangs and holds the screen, as a whole or by its step."""
    text = misbehaves("swallows", folder)
    return SCREEN + text if where == "task" else text.replace("}]\n", ", resources: {screen: 1}}]\n")


def in_use(world: Lab, name: str = "lab/screen") -> int:
    return int(world.engine.claims.status()[name]["in_use"])


@pytest.mark.parametrize("lender", ["task", "step"])
@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"save": NEEDS}, id="handler"),
        pytest.param({"save": STEP_NEEDS}, id="its step"),
        pytest.param({"save": PART, "part": NEEDS}, id="its part"),
        pytest.param({"save": PART, "part": PART_OF}, id="a step of its part"),
    ],
)
async def test_handler_takes_over_what_a_stuck_run_holds_and_gives_it_back_to_it(
    tmp_path: Path, lender: str, files: Mapping[str, str]
) -> None:
    bad = holding(tmp_path, lender)
    rules = rule("grace: 1s")
    async with open_lab(tmp_path, actions=ACTIONS, plan=SCREEN, rules=rules, bad=bad, next=NEEDS, **files) as world:
        run = await world.begin_run("bad")
        handler, took = await fired(world)
        assert took <= 1 + LATE
        following = await world.start("next")
        await world.until(handler, state="succeeded")
        await world.advance(5)
        assert (following.state, in_use(world)) == ("queued", 1), "others wait until its body ends"
        let_go(tmp_path)
        await world.settle()
        assert (run.state, following.state, in_use(world)) == ("cancelled", "succeeded", 0)
        told = {"plan": "lab", "rule": "low_battery", "cid": handler.cid, "from": run.cid, "names": ["lab/screen"]}
        assert world.payloads("interrupt.taken_over") == [told]


async def test_what_was_taken_over_stays_the_handlers_when_the_stuck_body_ends(tmp_path: Path) -> None:
    save = SCREEN + "steps: {save: {action: hold, params: {seconds: 30}}}\n"
    files = {"bad": holding(tmp_path, "task"), "save": save, "next": NEEDS}
    one = "grace: 1s, preempts: {tasks: [bad]}"
    async with open_lab(tmp_path, actions=ACTIONS, plan=SCREEN, rules=rule(one), **files) as world:
        run = await world.begin_run("bad")
        handler, _ = await fired(world)
        following = await world.start("next")
        let_go(tmp_path)
        await world.until(run, state="cancelled")
        await world.advance(5)
        assert (handler.state, following.state, in_use(world)) == ("running", "queued", 1)
        await world.settle()
        assert (following.state, in_use(world)) == ("succeeded", 0)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"save": NEEDS}, id="handler"),
        pytest.param({"save": STEP_NEEDS}, id="its step"),
        pytest.param({"save": PART, "part": NEEDS}, id="its part"),
    ],
)
async def test_handler_that_waits_takes_over_as_soon_as_a_run_is_given_up(
    tmp_path: Path, files: Mapping[str, str]
) -> None:
    bad = "cleanup_timeout: 8s\n" + holding(tmp_path, "task")
    async with open_lab(tmp_path, actions=ACTIONS, plan=SCREEN, rules=rule("grace: 1s"), bad=bad, **files) as world:
        run = await world.begin_run("bad")
        await world.engine.cancel(run.cid)
        began = world.now
        await world.tell()
        handler = world.runs("save")[0]
        await world.advance(4)
        assert (world.live(run).stuck, in_use(world)) == (False, 1)
        await world.until(handler, state="succeeded")
        assert world.now - began == pytest.approx(8 + PULSE + 0.9, abs=LATE)
        let_go(tmp_path)
        await world.settle()
        assert (in_use(world), len(world.payloads("interrupt.taken_over"))) == (0, 1)


async def test_handler_borrows_only_what_is_not_free(tmp_path: Path) -> None:
    bad = misbehaves("swallows", tmp_path, resources="{screen: 2}")
    save = "resources: {screen: 2}\nsteps: {save: {action: hold}}\n"
    rules, plan = rule("grace: 1s"), "resources: {screen: 3}\n"
    async with open_lab(tmp_path, actions=ACTIONS, plan=plan, rules=rules, bad=bad, save=save) as world:
        run = await world.begin_run("bad")
        await fired(world)
        claims = world.live(run).claims
        assert claims is not None
        assert (claims.holder.held, in_use(world)) == ({"lab/screen": 1}, 3)
        let_go(tmp_path)
        await world.settle()
        assert in_use(world) == 0


@pytest.mark.parametrize(("count", "waits"), [(2, False), (3, True)], ids=["enough", "one is another's"])
async def test_handler_waits_for_what_is_not_stuck(tmp_path: Path, count: int, waits: bool) -> None:
    bad = misbehaves("swallows", tmp_path, resources="{screen: 2}")
    other = "resources: {screen: 1}\nsteps: {save: {action: hold, params: {seconds: 20}}}\n"
    save = f"resources: {{screen: {count}}}\nsteps: {{save: {{action: hold}}}}\n"
    rules = rule("grace: 1s, preempts: {tasks: [bad]}")
    files = {"bad": bad, "other": other, "save": save}
    async with open_lab(tmp_path, actions=ACTIONS, plan="resources: {screen: 3}\n", rules=rules, **files) as world:
        await world.begin_run("bad")
        await world.begin_run("other", step="save")
        _, took = await fired(world)
        assert (took > 10) == waits
        assert in_use(world) == 3
        let_go(tmp_path)
        await world.settle()
        assert in_use(world) == 0


async def test_handler_does_not_take_what_a_stuck_run_holds_that_its_rule_does_not_cover(tmp_path: Path) -> None:
    rules = "rules:\n  one: {triggers: [{event: go.one}], task: other, grace: 1s}\n"
    rules += '  low_battery: {triggers: [{event: battery.low}], task: save, preempts: {plans: ["x*"]}}\n'
    files = {"bad": holding(tmp_path, "task"), "save": NEEDS, "other": "steps: {save: {action: hold}}\n"}
    async with open_lab(tmp_path, actions=ACTIONS, plan=SCREEN, rules=rules, **files) as world:
        run = await world.begin_run("bad")
        await world.tell("go.one")
        await world.until(world.runs("other")[0], state="succeeded")
        assert run.record.stuck
        await world.tell()
        await world.advance(5)
        handler = world.runs("save")[0]
        assert (handler.state, world.payloads("interrupt.taken_over")) == ("queued", [])
        let_go(tmp_path)
        await world.settle()
        assert handler.state == "succeeded"


async def test_nobody_but_a_handler_takes_over_what_a_stuck_run_holds(tmp_path: Path) -> None:
    files = {"bad": holding(tmp_path, "task"), "save": "steps: {save: {action: hold, params: {seconds: 9}}}\n"}
    one = rule("grace: 1s, preempts: {tasks: [bad]}")
    async with open_lab(
        tmp_path, actions=ACTIONS, plan=SCREEN, rules=one, next=NEEDS, step=STEP_NEEDS, **files
    ) as world:
        await world.begin_run("bad")
        handler, _ = await fired(world)
        others = [await world.start("next"), await world.start("step")]
        await world.advance(5)
        assert handler.state == "running"
        assert not any(world.live(run).live for run in others)
        let_go(tmp_path)
        await world.settle()
        assert [run.state for run in others] == ["succeeded", "succeeded"]


async def test_later_handler_takes_over_from_a_run_that_was_stuck_before(tmp_path: Path) -> None:
    files = {"bad": holding(tmp_path, "task"), "save": NEEDS}
    async with open_lab(tmp_path, actions=ACTIONS, plan=SCREEN, rules=rule("grace: 1s"), **files) as world:
        await world.begin_run("bad")
        first, _ = await fired(world)
        await world.until(first, state="succeeded")
        second, took = await fired(world)
        assert took < LATE
        assert [told["cid"] for told in world.payloads("interrupt.taken_over")] == [first.cid, second.cid]
        let_go(tmp_path)
        await world.settle()
        assert in_use(world) == 0


# -- what is shown


async def test_status_names_what_hangs_and_who_has_taken_what(tmp_path: Path) -> None:
    files = {"bad": holding(tmp_path, "task"), "save": NEEDS}
    async with open_lab(tmp_path, actions=ACTIONS, plan=SCREEN, rules=rule("grace: 1s"), **files) as world:
        run = await world.begin_run("bad")
        handler, _ = await fired(world)
        stuck = world.engine.status()["stuck"]
        (shown,) = stuck["runs"]
        assert stuck["total"] == 1
        assert (shown["cid"], shown["step"], shown["interrupt"]) == (run.cid, "long", "lab/low_battery")
        assert "actions.py:" in shown["hangs_at"]
        taken = {"plan_name": "lab", "rule": "low_battery", "cid": handler.cid, "names": ["lab/screen"]}
        assert shown["taken_over"] == [taken]
        warned = [line for line in await warnings(world, handler) if "takes over lab/screen" in line]
        assert len(warned) == 1
        let_go(tmp_path)
        await world.settle()
        assert world.engine.status()["stuck"] == {"runs": [], "total": 0}
        assert run.cid not in world.engine.runtime.open


async def warnings(world: Lab, run: Run) -> list[str]:
    found: list[Any] = list(await world.engine.history.log_entries(after=0, limit=1000, cid=run.cid, level=30))
    return [entry.record()["message"] for entry in found]


async def test_stuck_run_is_cancelled_at_the_next_boot(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with open_lab(
            tmp_path, actions=ACTIONS, rules=rule("grace: 1s"), bad=misbehaves("swallows", tmp_path)
        ) as world:
            run = await world.begin_run("bad")
            handler, _ = await fired(world)
            left = crashed(world)
            async with open_lab(tmp_path, backend=left, write=False) as again:
                await again.settle()
                after = Run(again, run.cid).record
                assert (after.state, after.reason, outcome(again, handler)) == ("cancelled", "stuck", "stuck")
            let_go(tmp_path)
            await world.settle()
