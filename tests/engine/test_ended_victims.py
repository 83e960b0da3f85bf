"""Rules with ``then: cancel`` end what an earlier firing has stopped to come back, wherever that stands."""

from pathlib import Path
from typing import Any

import pytest
from tests.engine.interrupts_kit import SAVE, WORK, Lab, crashed, lab_settings, open_lab, preempted, rules
from tests.engine.kit import turns

from aura.interrupts import interrupts as interrupting
from aura.stores.memory import MemoryBackend
from aura.testing.run import Run

pytestmark = pytest.mark.anyio

#: Its clean-up takes 0.3 s.
TIDY = """
import anyio
from aura import action, Context

@action
async def hold(ctx: Context, seconds: float = 0.9) -> str:
    try:
        await anyio.sleep(seconds)
    finally:
        if ctx.stopping_because:
            await anyio.sleep(0.3)
    return "done"
"""
LONG_SAVE = "steps: {save: {action: hold, params: {seconds: 5}}}\n"
PUT_AWAY = f"{WORK}on_cancel: {{undo: {{action: log, params: {{message: undo}}}}}}\n"
PUT_AWAY += "finally: {tidy: {action: sleep, params: {duration: 200ms}}}\n"
SLOW_AWAY = f"{WORK}finally: {{tidy: {{action: sleep, params: {{duration: 900ms}}}}}}\n"
FILES = {"actions": TIDY, "work": PUT_AWAY, "save": LONG_SAVE, "other": SAVE}
END = "then: cancel, task: other"


def states(run: Run, *steps: str) -> list[str]:
    return [run.steps[name].state for name in steps]


def outcomes(world: Lab, task: str) -> list[str | None]:
    """What became of the victims of the firing that a task handles, but for another handler."""
    handlers = {run.record.seq for run in world.runs("save")}
    return [one.outcome for one in world.victims(world.runs(task)[0].cid) if one.seq not in handlers]


async def stopped(world: Lab, after: float) -> Run:
    """A run so many seconds after the rule ``jam`` has stopped it: 0.3 of them it cleans up."""
    run = await world.begin_run()
    await world.tell("go.jam")
    await world.advance(after)
    return run


@pytest.mark.parametrize(("jam", "end"), [(0, 5), (5, 0), (3, 3)], ids=["more urgent", "less urgent", "as urgent"])
@pytest.mark.parametrize(
    ("after", "by_jam", "count"),
    [
        pytest.param(0.0, "cancelled", 1, id="cleans up"),
        pytest.param(0.2, "cancelled", 1, id="cleans up for long"),
        pytest.param(1.0, "preempted", 2, id="rests"),
    ],
)
@pytest.mark.parametrize("then", ["resume", "restart"])
async def test_victim_ends_wherever_it_stands_whatever_the_priorities(
    tmp_path: Path, then: str, after: float, by_jam: str, count: int, jam: int, end: int
) -> None:
    text = rules(jam=f"priority: {jam}, then: {then}", stop=f"priority: {end}, {END}")
    async with open_lab(tmp_path, rules=text, **FILES) as world:
        run = await stopped(world, after)
        await world.tell("go.stop")
        await world.until(run, state="cancelled")
        await world.settle()
        ender = world.runs("other")[0]
        assert (run.record.reason, preempted(run)) == ("interrupted by lab/stop", (count, ender.cid))
        assert states(run, "undo", "tidy") == ["succeeded", "succeeded"]
        assert (outcomes(world, "save"), outcomes(world, "other")) == ([by_jam], ["cancelled"])
        assert (world.runs("save")[0].state, ender.state) == ("succeeded", "succeeded")
        assert not world.engine.runtime.faults


async def test_earlier_handler_goes_on_and_its_firing_stays_open(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rules(jam="priority: 5", stop=END), **FILES) as world:
        run = await stopped(world, 1)
        await world.tell("go.stop")
        await world.until(run, state="cancelled")
        handler, ender = world.runs("save")[0], world.runs("other")[0]
        assert (handler.state, ender.state, preempted(handler)) == ("running", "queued", (0, None))
        assert [firing.rule for firing in world.open_firings()] == ["jam", "stop"]
        await world.settle()


@pytest.mark.parametrize(
    ("preempts", "ended"),
    [
        pytest.param("preempts: {tasks: [work]}", True, id="its task"),
        pytest.param("preempts: {tasks: [save]}", False, id="another task"),
        pytest.param("preempts: {lanes: [event]}", False, id="another lane"),
        pytest.param("preempts: {below_priority: 0}", False, id="below its priority"),
    ],
)
async def test_only_what_fits_is_ended(tmp_path: Path, preempts: str, ended: bool) -> None:
    async with open_lab(tmp_path, rules=rules(jam="", stop=f"{END}, {preempts}"), **FILES) as world:
        run = await stopped(world, 1)
        shown = world.engine.dry_run("lab", "stop")
        assert shown["victims"] == ([run.cid] if ended else [])
        await world.tell("go.stop")
        await world.settle()
        assert run.state == ("cancelled" if ended else "succeeded"), run.explain()
        assert outcomes(world, "other") == (["cancelled"] if ended else [])


@pytest.mark.parametrize("then", ["resume", "restart"])
async def test_other_rules_leave_what_rests_alone(tmp_path: Path, then: str) -> None:
    async with open_lab(tmp_path, rules=rules(jam="", stop=f"then: {then}, task: other"), **FILES) as world:
        run = await stopped(world, 1)
        await world.tell("go.stop")
        await world.settle()
        assert (run.state, run.record.attempt, outcomes(world, "other")) == ("succeeded", 1, [])


@pytest.mark.parametrize(("what", "state"), [("paused first", "succeeded"), ("paused later", "cancelled")])
async def test_paused_run_ends_only_if_an_interrupt_had_stopped_it(tmp_path: Path, what: str, state: str) -> None:
    async with open_lab(tmp_path, rules=rules(jam="", stop=END), **FILES) as world:
        run = await world.begin_run()
        if what == "paused first":
            await world.engine.pause(run.cid)
        await world.tell("go.jam")
        await world.advance(1)
        if what == "paused later":
            await world.engine.pause(run.cid)
        await world.tell("go.stop")
        await world.until(world.runs("other")[0], state="succeeded")
        if state == "succeeded":
            await world.engine.resume(run.cid)
        await world.settle()
        assert run.state == state, run.explain()


async def test_handler_waits_for_the_clean_up_of_what_rested_but_no_longer_than_its_grace(tmp_path: Path) -> None:
    text = rules(jam="", stop=f"priority: 5, grace: 400ms, {END}")
    for name, work, state in [("quick", PUT_AWAY, "cancelled"), ("slow", SLOW_AWAY, "stopping")]:
        async with open_lab(tmp_path / name, rules=text, **(FILES | {"work": work})) as world:
            run = await stopped(world, 1)
            await world.tell("go.stop")
            await world.until(world.runs("other")[0], state="running")
            assert run.state == state
            await world.settle()
            assert (run.state, run.record.cleanup_error) == ("cancelled", None)


async def test_second_rule_that_ends_finds_nothing_left_to_end(tmp_path: Path) -> None:
    text = rules(jam="", stop=END, too=END)
    async with open_lab(tmp_path, rules=text, **FILES) as world:
        run = await stopped(world, 1)
        for name in ("stop", "too"):
            world.engine.triggers.fire(world.rule(name), None)
        await world.settle()
        first, second = world.runs("other")
        assert preempted(run) == (2, first.cid)
        assert [victim.outcome for victim in world.victims(first.cid)] == ["cancelled"]
        assert world.victims(second.cid) == []


async def test_one_event_that_stops_and_ends_comes_to_the_end_in_either_order(tmp_path: Path) -> None:
    on = 'triggers: [{event: "battery.low"}]'
    for first, text in enumerate((rules(a=on, b=f"{on}, {END}"), rules(a=f"{on}, {END}", b=on))):
        async with open_lab(tmp_path / str(first), rules=text, **FILES) as world:
            run = await world.begin_run()
            await world.tell()
            await world.settle()
            assert (run.state, run.record.preemptions) == ("cancelled", 1)
            assert outcomes(world, "other") == ["cancelled"]


# -- trees

TIDIES = "finally: {tidy: {action: log, params: {message: tidy}}}\n"
TOP = "steps: {call: {action: task.run, params: {task: leaf}}}\n" + TIDIES
LEAF = "steps: {long: {action: hold}}\n" + TIDIES


@pytest.mark.parametrize(
    ("jammed", "ended", "states"),
    [
        pytest.param("work", "work", ("cancelled", "cancelled"), id="both the whole"),
        pytest.param("leaf", "leaf", ("failed", "cancelled"), id="both a part"),
        pytest.param("leaf", "work", ("cancelled", "cancelled"), id="a part, then the whole"),
        pytest.param("work", "leaf", ("failed", "cancelled"), id="the whole, then a part"),
        pytest.param("leaf", "*", ("cancelled", "cancelled"), id="a part, then all"),
    ],
)
async def test_of_a_tree_the_topmost_that_fits_ends(tmp_path: Path, jammed: str, ended: str, states: Any) -> None:
    text = rules(jam=f"preempts: {{tasks: [{jammed}]}}", stop=f'{END}, preempts: {{tasks: ["{ended}"]}}')
    async with open_lab(tmp_path, rules=text, **(FILES | {"work": TOP, "leaf": LEAF})) as world:
        top = await world.begin_run(step="call")
        await world.until(lambda: world.runs("leaf") and world.runs("leaf")[0].steps)
        await world.tell("go.jam")
        await world.advance(1)
        await world.tell("go.stop")
        await world.settle()
        leaf = world.runs("leaf")[0]
        assert (top.state, leaf.state) == states, top.explain()
        assert [run.steps["tidy"].state for run in (top, leaf)] == ["succeeded", "succeeded"]
        assert outcomes(world, "other") == ["cancelled"]
        assert len(world.runs("leaf")) == 1
        assert not world.engine.runtime.faults


# -- over a crash

#: It emits the event that ends it, and is told only when that is on record.
EMITS = """
@action
async def emit(ctx: Context) -> None:
    await ctx.emit("go.stop")
    await anyio.sleep(9)
"""
STEP = "steps: {{long: {{action: {action}, idempotent: true}}}}\n"


def is_on_record(backend: MemoryBackend) -> bool:
    """Whether the firing is that ends what it stops."""
    return bool(backend.execute("SELECT 1 FROM firing WHERE rule='stop'").fetchall())


async def begin(world: Lab, what: str) -> None:
    """Let happen what ends a run, or five, in the turns after this."""
    if what == "emits":
        await world.accepted()
        return
    for _ in range(5):
        await world.begin_run()
    if what == "rest":
        await world.tell("go.jam")
        await world.advance(0.5)
    world.engine.triggers.fire(world.rule("stop"), None)


@pytest.mark.parametrize("recovery", ["fail", "resume", "restart"])
@pytest.mark.parametrize("handler", ["fail", "resume"])
@pytest.mark.parametrize("what", ["emits", "run", "rest"])
async def test_what_is_to_end_does_not_come_back_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, handler: str, recovery: str
) -> None:
    """Whoever is told late has no row yet that says so when the firing is on record."""
    monkeypatch.setattr(interrupting, "TOLD_AT_ONCE", 1)
    work = f"recovery: {recovery}\n" + STEP.format(action="emit" if what == "emits" else "hold") + TIDIES
    files = {"actions": TIDY + EMITS, "work": work, "save": LONG_SAVE, "other": f"recovery: {handler}\n{SAVE}"}
    text = rules(jam="", stop=f"{END}, handler_starts: at_once, cooldown: 1h")
    settings = lab_settings(tmp_path, lanes={"main": 5})
    async with open_lab(tmp_path, backend=MemoryBackend(), rules=text, settings=settings, **files) as world:
        await begin(world, what)
        left = []
        for _ in range(12):
            left.append(crashed(world))
            await turns(1)
    found = [await states_after(tmp_path, backend) for backend in left if is_on_record(backend)]
    assert found
    assert {state for states in found for state in states} == {"cancelled"}, found


async def states_after(folder: Path, backend: MemoryBackend) -> list[str]:
    """What becomes of the victims in the next life of the server."""
    async with open_lab(folder, backend=backend, write=False) as world:
        await world.settle()
        assert world.open_firings() == []
        return [run.state for run in world.runs("work")]
