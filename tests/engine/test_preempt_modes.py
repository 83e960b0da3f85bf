"""How an interrupt stops a run, to the turn: graces of what may end by itself, second stops, and where it comes back.

The words of the language, ``preempt: now | at_step_end | never``, are cases of ``tests/language/preempt.yaml``.
"""

from pathlib import Path

import anyio
import pytest
from tests.engine.interrupts_kit import Lab, lab_settings, open_lab, preempted, rule, rules
from tests.engine.kit import opened, quiet, step, task, turns, until
from tests.fakes.invariants import check_history
from tests.fakes.kernel import begun, cleaning, forever, noting

from aura.interrupts.interrupts import SLACK
from aura.lifecycle import RunState, Stop
from aura.runs.attempt import PULSE
from aura.task import Preempt
from aura.testing.run import Run

pytestmark = pytest.mark.anyio

#: Seconds by which a handler may start later than the graces of its rule say.
LATE = PULSE + SLACK + 0.03
ONE_STEP = "preempt: %s\nsteps: {long: {action: hold, params: {seconds: %s}}}\n"
TWO_STEPS = "preempt: %s\nsteps: [{name: long, action: hold}, {name: then, action: hold}]\n"
#: ``slow``: an action that is told to stop and cleans up for a while.
SLOW = """
import anyio
from aura import action, Context

@action
async def hold(seconds: float = 0.9) -> None:
    await anyio.sleep(seconds)

@action
async def slow(seconds: float, cleanup: float) -> None:
    try:
        await anyio.sleep(seconds)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(cleanup)
"""
CLEANING = "preempt: %s\nsteps: {long: {action: slow, params: {seconds: 60, cleanup: %s}}}\n"


async def handled_after(world: Lab, run: Run) -> float:
    """Fire the rule, and give after how many seconds its handler has started."""
    began = world.now
    cid = await world.fire("low_battery")
    await world.until(Run(world, cid), state="running")
    started = Run(world, cid).record.started_at
    assert started is not None
    assert run.state != "running"
    return started - began


# -- graces


@pytest.mark.parametrize(
    ("preempt", "cleanup", "least"),
    [
        pytest.param("now", 0.5, 0.5, id="now, clean-up in time"),
        pytest.param("now", 9.0, 2.0, id="now, clean-up too long"),
        pytest.param("at_step_end", 0.5, 2.5, id="at step end, clean-up in time"),
        pytest.param("at_step_end", 9.0, 4.0, id="at step end, clean-up too long"),
    ],
)
async def test_handler_starts_when_the_graces_are_over(
    tmp_path: Path, preempt: str, cleanup: float, least: float
) -> None:
    files = {"actions": SLOW, "work": CLEANING % (preempt, cleanup), "rules": rule("grace: 2s")}
    async with open_lab(tmp_path, **files) as world:
        run = await world.begin_run()
        assert least <= await handled_after(world, run) <= least + LATE
        await world.settle()
        assert run.state == ("succeeded" if cleanup < 2 else "cancelled"), run.explain()


async def test_what_ends_by_itself_is_not_waited_for_longer(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work=ONE_STEP % ("at_step_end", 3), rules=rule("grace: 60s")) as world:
        run = await world.begin_run()
        await world.advance(1.0)
        assert await handled_after(world, run) == pytest.approx(2.0, abs=0.01)
        assert (run.state, preempted(run), run.record.reason) == ("succeeded", (0, None), None)


async def test_what_ends_for_good_has_one_grace(tmp_path: Path) -> None:
    files = {"actions": SLOW, "work": CLEANING % ("at_step_end", 9), "rules": rule("grace: 2s, then: cancel")}
    async with open_lab(tmp_path, **files) as world:
        run = await world.begin_run()
        assert 2.0 <= await handled_after(world, run) <= 2.0 + LATE
        await world.settle()
        assert run.state == "cancelled"


# -- what is told to stop twice


@pytest.mark.parametrize("kind", [Stop.SHUTDOWN, Stop.TIMEOUT, Stop.CANCEL], ids=lambda kind: kind.label)
async def test_second_stop_delivers_what_was_held_back_with_its_own_grace(tmp_path: Path, kind: Stop) -> None:
    log: list[str] = []
    gate = anyio.Event()
    made = task("t", step("a", cleaning(log, gate)), preempt=Preempt.AT_STEP_END)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.INTERRUPT, grace=50.0)
        await quiet()
        (attempt,) = run.live.values()
        assert (attempt.held_back is not None, attempt.cause) == (True, None)
        kit.stop(run, kind, grace=7.0)
        assert (attempt.held_back, attempt.grace_left()) == (None, 7.0)
        gate.set()
        await kit.ended(run)
        assert log == ["clean"]


async def test_second_interrupt_holds_back_what_the_first_has(tmp_path: Path) -> None:
    made = task("t", step("a", forever), preempt=Preempt.AT_STEP_END)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        began = anyio.current_time()
        kit.stop(run, Stop.INTERRUPT, grace=3.0)
        await kit.advance(1.0)
        await kit.engine.pause(run.cid)
        await until(lambda: run.state is RunState.PREEMPTED)
        assert anyio.current_time() - began == pytest.approx(3.0, abs=0.01)
        await kit.engine.cancel(run.cid)


async def test_never_that_began_too_late_to_be_spared_ends_by_itself(tmp_path: Path) -> None:
    """A step may begin between the look of a firing and its stop: nothing cuts it off then either."""
    log: list[str] = []

    async def act() -> None:
        await anyio.sleep(30)
        log.append("whole")

    made = task("t", step("a", act, preempt=Preempt.NEVER), step("b", noting(log, "b"), ("a",)))
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        kit.stop(run, Stop.INTERRUPT, grace=0.5)
        await until(lambda: run.state is RunState.PREEMPTED)
        assert log == ["whole"]
        await kit.engine.cancel(run.cid)


# -- who is spared


async def test_spared_runs_are_named_and_go_on(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work=TWO_STEPS % "never", other=TWO_STEPS % "now") as world:
        spared, stopped = await world.begin_run(), await world.begin_run("other")
        cid = await world.fire("low_battery")
        [told] = world.payloads("interrupt.fired")
        assert (told["spared"], told["victims"], told["victim_count"]) == ([spared.cid], [stopped.cid], 1)
        await world.until(Run(world, cid), state="running")
        assert (spared.state, stopped.state) == ("running", "preempted")
        await world.until(spared, step="then", state="running")
        await world.settle()
        assert (preempted(spared), preempted(stopped)) == ((0, None), (1, cid))


async def test_what_waits_is_no_victim_and_is_held(tmp_path: Path) -> None:
    work = "steps: [{name: w, action: event.wait, params: {name: ready}}, {name: then, action: hold}]\n"
    async with open_lab(tmp_path, work=work) as world:
        run = await world.start("work")
        await world.until(run, state="waiting")
        cid = await world.fire("low_battery")
        await world.emit("ready")
        await world.until(Run(world, cid), state="running")
        await world.advance(0.1)
        assert (run.state, world.victims(cid)) == ("waiting", [])
        await world.settle()
        assert (run.state, preempted(run)) == ("succeeded", (0, None))


# -- where it comes back


async def test_stopped_before_its_first_step_it_is_queued_at_its_old_position(tmp_path: Path) -> None:
    """Its start is on its way to the store when the rule fires: nothing of it begins, and nothing of it is counted."""
    work = "steps: {long: {action: hold}}\non_preempt: {p: {action: log, params: {message: parked}}}\n"
    async with open_lab(tmp_path, work=work) as world:
        run = await world.accepted()
        live = world.live(run)
        await world.until(lambda: live.state is RunState.RUNNING)
        assert not live.live
        await world.fire("low_battery")
        await world.until(lambda: live.state is RunState.QUEUED)
        assert (live.attempt, live.starts.get("long", 0), live.waits) == (0, 0, True)
        await world.settle()
        assert (run.state, run.record.attempt, preempted(run)) == ("succeeded", 1, (0, None))
        check_history(world.backend.execute, live.seq, run.state)


async def test_what_had_not_begun_starts_over_without_counting_twice(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("then: restart")) as world:
        run = await world.accepted()
        live = world.live(run)
        await world.until(lambda: live.state is RunState.RUNNING)
        assert not live.live
        await world.fire("low_battery")
        await world.settle()
        assert (run.state, run.record.attempt, live.starts["long"]) == ("succeeded", 1, 1)
        check_history(world.backend.execute, live.seq, run.state)


async def test_victims_stand_before_what_came_after_them(tmp_path: Path) -> None:
    async with open_lab(tmp_path, settings=lab_settings(tmp_path, lanes={"main": 2})) as world:
        first, second = await world.begin_run(), await world.begin_run()
        later = await world.start("work")
        cid = await world.fire("low_battery")
        await world.until(Run(world, cid), state="running")
        waiting = [found.cid for found in world.engine.dispatcher.queued("main")]
        assert waiting == [first.cid, second.cid, later.cid]
        await world.settle()
        ends = {run.cid: run.record.finished_at or 0.0 for run in (first, second, later)}
        assert max(ends, key=lambda cid: ends[cid]) == later.cid


async def test_victim_that_was_cancelled_stays_cancelled_when_it_was_to_start_over(tmp_path: Path) -> None:
    work = "steps: {long: {action: hold}}\nfinally: {f: {action: sleep, params: {duration: 2s}}}\n"
    async with open_lab(tmp_path, work=work, rules=rule("then: restart")) as world:
        run, plain = await world.begin_run(), await world.begin_run()
        cid = await world.fire("low_battery")
        await world.until(run, state="preempted")
        await world.engine.cancel(run.cid)  # its finally runs while the firing ends
        await world.settle()
        assert [victim.outcome for victim in world.victims(cid)] == ["preempted", "preempted"]
        assert (run.state, run.record.attempt, plain.state, plain.record.attempt) == ("cancelled", 1, "succeeded", 2)


async def test_what_starts_over_under_a_handler_that_has_ended_is_counted_as_stopped(tmp_path: Path) -> None:
    files = {
        "actions": SLOW,
        "work": "steps: {long: {action: slow, params: {seconds: 5, cleanup: 2}}}\n",
        "save": "steps: {s: {action: hold, params: {seconds: 0.5}}}\n",
        "rules": rule("then: restart, handler_starts: at_once"),
    }
    async with open_lab(tmp_path, **files) as world:
        run = await world.begin_run()
        cid = await world.fire("low_battery")
        await world.settle()
        assert (run.state, run.record.attempt, preempted(run)) == ("succeeded", 2, (1, cid))


async def test_paused_victim_stays_paused_when_the_handler_has_ended(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        run = await world.begin_run()
        cid = await world.fire("low_battery")
        await world.until(run, state="preempted")
        await world.engine.pause(run.cid)
        await world.until(Run(world, cid), state="succeeded")
        await world.advance(60.0)
        assert run.state == "preempted"
        await world.engine.resume(run.cid)
        await world.settle()
        assert run.state == "succeeded", run.explain()


async def test_run_that_is_just_being_paused_is_waited_for(tmp_path: Path) -> None:
    files = {"actions": SLOW, "work": CLEANING % ("now", 1)}
    async with open_lab(tmp_path, **files) as world:
        run = await world.begin_run()
        await world.engine.pause(run.cid)
        assert 1.0 - 0.01 <= await handled_after(world, run) <= 1.0 + LATE
        await world.advance(60.0)
        assert (run.state, preempted(run)) == ("preempted", (0, None))
        await world.engine.cancel(run.cid)


async def test_handler_that_says_at_step_end_is_displaced_at_its_step_end(tmp_path: Path) -> None:
    files = {
        "save": "preempt: at_step_end\nsteps: [{name: x, action: hold}, {name: y, action: hold}]\n",
        "urgent": "steps: {u: {action: hold}}\n",
        "rules": rules(low="priority: 1", high="priority: 2, task: urgent"),
    }
    async with open_lab(tmp_path, **files) as world:
        low = Run(world, await world.fire("low"))
        await world.until(low, step="x", state="running")
        high = Run(world, await world.fire("high"))
        await world.until(high, state="running")
        assert (low.state, low.steps["x"].state) == ("preempted", "succeeded")
        live = world.live(low)
        await world.settle()
        assert (low.state, live.starts, preempted(low)) == ("succeeded", {"x": 1, "y": 1}, (1, high.cid))


async def test_pause_in_the_turn_of_a_firing_leaves_it_paused(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        run = await world.begin_run()
        world.engine.runtime.bus.emit("battery.low", {"percent": 5})
        world.engine.pausing.request_pause(world.live(run))
        await turns(1)
        await world.until(lambda: world.runs("save") and world.runs("save")[0].state == "succeeded")
        await world.advance(60.0)
        assert run.state == "preempted"
        await world.engine.resume(run.cid)
        await world.settle()
        assert run.state == "succeeded", run.explain()


async def test_what_became_of_a_victim_is_kept_when_it_is_cancelled_later(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        run = await world.begin_run()
        cid = await world.fire("low_battery")
        await world.until(run, state="preempted")
        await world.engine.cancel(run.cid)
        await world.settle()
        assert (run.state, [victim.outcome for victim in world.victims(cid)]) == ("cancelled", ["preempted"])
