"""Interrupts, from the event to the last victim's return: what is promised of pre-emption, sentence by sentence.

How a run may be stopped (``preempt``) and its sub-tasks are in ``test_preempt_modes`` and ``test_preempt_trees``; what
fires a rule is in ``test_rules``; stops, starts and crashes of the server in ``test_interrupts_over_restarts``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
from tests.engine.interrupts_kit import Lab, lab_settings, open_lab, preempted, rule, rules

from aura.interrupts import interrupts as interrupting
from aura.lifecycle import RunState
from aura.testing.run import Run

pytestmark = pytest.mark.anyio

HOLD = "steps: [{name: long, action: hold}]\n"
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


async def events_of(world: Lab, *names: str) -> list[str]:
    """The names of the events in memory that are among these, in their order."""
    return [event.name for event in world.engine.journal.events_since(0) if event.name in names]


async def test_what_an_event_displaces_comes_back_where_it_was(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        run = await world.begin_run()
        [fired] = (await world.tell()).interrupts
        handler = world.runs("save")[0]
        assert fired.cid == handler.cid
        await world.until(handler, state="running")
        assert run.state == "preempted"
        await world.settle()
        assert (run.state, handler.state) == ("succeeded", "succeeded"), run.explain()
        assert preempted(run) == (1, handler.cid)
        assert (run.steps["first"].attempt, run.steps["long"].attempt, run.record.attempt) == (1, 1, 1)


async def test_firing_victims_and_handler_are_one_unit(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        run = await world.begin_run()
        before = world.engine.runtime.store.commits
        receipt = await world.tell()
        assert world.engine.runtime.store.commits == before + 1
        cid = receipt.interrupts[0].cid
        assert world.firings() == [("low_battery", cid, receipt.event_id, None)]
        assert [victim.seq for victim in world.victims(cid)] == [run.record.seq]
        assert world.runs("save")[0].record.cause["event_id"] == receipt.event_id


async def test_victims_are_told_before_the_commit(tmp_path: Path) -> None:
    async with open_lab(tmp_path, actions=TIDY) as world:
        live = world.live(await world.begin_run())
        emitted = world.engine.triggers.fire(world.rule(), None)
        await anyio.lowlevel.checkpoint()
        assert (emitted.ticket.done, live.state) == (False, RunState.STOPPING)
        await world.settle()


async def test_two_commits_lie_between_the_event_and_the_first_step(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        await world.begin_run()
        before = world.engine.runtime.store.commits
        await world.tell()
        await world.until(world.runs("save")[0], step="save", state="running")
        assert world.engine.runtime.store.commits <= before + 2


async def test_everything_is_on_record_when_the_handler_begins(tmp_path: Path) -> None:
    seen: list[str] = []
    async with open_lab(tmp_path, actions=TIDY) as world:
        found = [await world.start("work") for _ in range(3)]
        await world.until(found[2], step="long", state="running")

        def look() -> bool:
            live = world.engine.runtime.open.get(world.runs("save")[0].cid)
            if live is not None and live.live and not seen:
                seen.extend(run.state for run in found)
            return bool(seen)

        await world.tell()
        await world.until(look)
        assert seen == ["preempted"] * 3


async def test_handler_waits_for_the_clean_up_and_says_how_long_it_took(tmp_path: Path) -> None:
    async with open_lab(tmp_path, actions=TIDY) as world:
        run = await world.begin_run()
        at = world.now
        await world.tell()
        handler = world.runs("save")[0]
        await world.until(handler, state="running")
        assert world.now - at == pytest.approx(0.3, abs=0.01)
        by = run.record.preempted_by
        assert by is not None
        assert (by["plan_name"], by["rule"], by["cid"]) == ("lab", "low_battery", handler.cid)
        assert (by["at"], by["cleanup_s"]) == (pytest.approx(at, abs=0.01), pytest.approx(0.3, abs=0.01))
        [victim] = world.victims(handler.cid)
        assert victim.outcome == "preempted"
        assert victim.gone_at == pytest.approx(at + 0.3, abs=0.01)


async def test_handler_that_starts_at_once_does_not_wait(tmp_path: Path) -> None:
    async with open_lab(tmp_path, actions=TIDY, rules=rule("handler_starts: at_once")) as world:
        run = await world.begin_run()
        at = world.now
        await world.tell()
        await world.until(world.runs("save")[0], state="running")
        assert world.now == pytest.approx(at, abs=0.01)
        assert run.state == "stopping"
        await world.settle()
        assert run.state == "succeeded"


# -- what is held


async def test_nothing_that_fits_starts_while_a_firing_is_open_and_what_does_not_fit_goes_on(tmp_path: Path) -> None:
    async with open_lab(tmp_path, quick=HOLD) as world:
        event = await world.begin_run("quick", lane="event")
        await world.tell()
        queued = await world.start("quick")
        other = await world.start("quick", lane="event")
        await world.until(other, state="running")
        assert (event.state, queued.state) == ("running", "queued")
        assert world.live(queued).waits
        await world.settle()
        assert (event.state, preempted(event), queued.state) == ("succeeded", (0, None), "succeeded")


@pytest.mark.parametrize(
    ("preempts", "hit"),
    [
        pytest.param("", {"work", "other"}, id="the main lane"),
        pytest.param("preempts: {tasks: [work]}", {"work"}, id="tasks"),
        pytest.param("preempts: {tasks: ['o*']}", {"other"}, id="pattern of tasks"),
        pytest.param("preempts: {labels: {team: ops}}", {"other"}, id="labels"),
        pytest.param("preempts: {below_priority: 5}", {"work"}, id="priority"),
        pytest.param("preempts: {plans: [lab]}", {"work", "other"}, id="plans"),
        pytest.param("preempts: {plans: ['x*']}", set[str](), id="other plans"),
        pytest.param("preempts: {lanes: [event]}", {"event"}, id="lane"),
        pytest.param("preempts: {lanes: [main, event], tasks: [work, event]}", {"work", "event"}, id="all of it"),
        pytest.param("preempts: {lanes: []}", set[str](), id="nothing"),
    ],
)
async def test_run_is_stopped_and_held_if_everything_in_preempts_fits(
    tmp_path: Path, preempts: str, hit: set[str]
) -> None:
    other = "labels: {team: ops}\npriority: 5\n" + HOLD
    async with open_lab(tmp_path, rules=rule(preempts), other=other, event="lane: event\n" + HOLD) as world:
        first = {name: await world.begin_run(name) for name in ("work", "other", "event")}
        await world.tell()
        handler = world.runs("save")[0]
        await world.until(handler, state="running")
        later = {name: await world.start(name) for name in first}
        await world.advance(0.1)
        assert {name for name, run in first.items() if run.state == "preempted"} == hit
        assert {name for name, run in later.items() if run.state == "queued"} == hit
        await world.settle()
        assert {run.state for run in (*first.values(), *later.values())} == {"succeeded"}


async def test_what_the_handler_starts_itself_is_exempt(tmp_path: Path) -> None:
    save = """
steps:
  - {name: ask, action: task.start, params: {task: work}}
  - {name: part, action: task.run, params: {task: work}}
  - {name: rest, action: hold, params: {seconds: 3}}
"""
    async with open_lab(tmp_path, save=save, rules=rule("preempts: {lanes: [main, event]}")) as world:
        victim = await world.begin_run()
        await world.tell()
        handler = world.runs("save")[0]
        await world.until(handler, step="rest", state="running")
        started, part = world.runs("work")[1:]
        assert (victim.state, started.state, part.state) == ("preempted", "succeeded", "succeeded")
        await world.settle()
        assert victim.state == "succeeded"


async def test_run_that_was_stopping_already_is_waited_for_and_not_stopped_anew(tmp_path: Path) -> None:
    async with open_lab(tmp_path, actions=TIDY) as world:
        run = await world.begin_run()
        await world.engine.cancel(run.cid)
        await world.advance(0.1)
        await world.tell()
        handler = world.runs("save")[0]
        at = world.now
        await world.until(handler, state="running")
        assert world.now - at == pytest.approx(0.2, abs=0.01)
        assert (run.state, preempted(run), world.victims(handler.cid)) == ("cancelled", (0, None), [])


async def test_firing_waits_no_longer_than_its_own_grace_for_a_run_that_stops_for_another_reason(
    tmp_path: Path,
) -> None:
    async with open_lab(tmp_path, actions=TIDY, rules=rule("grace: 100ms")) as world:
        run = await world.begin_run()
        await world.engine.cancel(run.cid)
        at = world.now
        await world.tell()
        await world.until(world.runs("save")[0], state="running")
        assert world.now - at <= 0.2
        await world.until(run, state="cancelled")
        assert world.now - at == pytest.approx(0.3, abs=0.01), "its own grace was not shortened"
        assert run.record.reason != "stuck"


async def test_victim_goes_on_at_its_old_position(tmp_path: Path) -> None:
    order: list[str] = []
    async with open_lab(tmp_path, settings=lab_settings(tmp_path, lanes={"main": 1})) as world:
        first = await world.begin_run()
        later = await world.start("work")
        await world.tell()
        await world.until(world.runs("save")[0], state="running")
        assert [entry["cid"] for entry in world.engine.queue_list("main")] == [first.cid, later.cid]
        await world.settle()
        order = [event.cid or "" for event in world.engine.journal.events_since(0) if event.name == "run.succeeded"]
        assert order[1:] == [first.cid, later.cid]


# -- the emitter


EMITS = """
steps:
  - {name: tell, action: event.emit, params: {name: battery.low, payload: {percent: 5}}}
  - {name: long, action: hold}
"""


async def test_emitter_is_stopped_when_its_emit_is_on_record_and_does_not_emit_again(tmp_path: Path) -> None:
    async with open_lab(tmp_path, emits=EMITS) as world:
        run = await world.run("emits")
        await world.settle()
        assert (run.state, preempted(run)[0]) == ("succeeded", 1), run.explain()
        assert (run.steps["tell"].attempt, len(world.runs("save"))) == (1, 1)


async def test_sub_task_that_emits_is_stopped_with_its_parent(tmp_path: Path) -> None:
    parent = "steps: [{name: part, action: task.run, params: {task: emits}}]\n"
    async with open_lab(tmp_path, emits=EMITS, parent=parent) as world:
        run = await world.run("parent")
        child = world.runs("emits")[0]
        assert (run.state, child.state, preempted(run)[0]) == ("succeeded", "succeeded", 1), run.explain()
        assert (child.steps["tell"].attempt, len(world.runs("save"))) == (1, 1)


async def test_displaced_handler_whose_sub_task_emits_is_answered_first(tmp_path: Path) -> None:
    two = rules(low="priority: 1, task: outer", high="priority: 2, triggers: [{event: battery.low}]")
    outer = "steps: [{name: part, action: task.run, params: {task: emits}}]\n"
    async with open_lab(tmp_path, rules=two, outer=outer, emits=EMITS) as world:
        await world.tell("go.low")
        await world.settle()
        [part], [handler] = world.runs("emits"), world.runs("outer")
        assert (part.steps["tell"].attempt, len(world.runs("save")), preempted(handler)[0]) == (1, 1, 1)
        assert {run.state for run in world.runs()} == {"succeeded"}


# -- how it ends


@pytest.mark.parametrize(
    ("save", "state"),
    [
        pytest.param("steps: {save: {action: fail, params: {message: no}}}", "failed", id="fails"),
        pytest.param("timeout: 100ms\nsteps: {save: {action: hold}}", "timed_out", id="takes too long"),
    ],
)
async def test_victims_go_on_whatever_becomes_of_the_handler_and_it_is_said_loudly(
    tmp_path: Path, save: str, state: str
) -> None:
    async with open_lab(tmp_path, save=save) as world:
        run = await world.begin_run()
        await world.tell()
        await world.settle()
        handler = world.runs("save")[0]
        assert (handler.state, run.state) == (state, "succeeded")
        assert world.firings()[0][3] == state
        lines = [line.message for line in await logs(world, handler)]
        assert any(f"of rule lab/low_battery {state.replace('_', ' ')}" in line for line in lines), lines


async def logs(world: Lab, run: Run) -> Sequence[Any]:
    return list(await world.engine.history.log_entries(after=0, limit=1000, cid=run.cid))


@pytest.mark.parametrize("when", ["queued", "running"])
async def test_victims_go_on_when_somebody_cancels_the_handler(tmp_path: Path, when: str) -> None:
    async with open_lab(tmp_path, actions=TIDY) as world:
        run = await world.begin_run()
        await world.tell()
        handler = world.runs("save")[0]
        if when == "running":
            await world.until(handler, state="running")
        await world.engine.cancel(handler.cid)
        await world.settle()
        assert (handler.state, run.state, preempted(run)[0]) == ("cancelled", "succeeded", 1), run.explain()
        assert world.open_firings() == []


@pytest.mark.parametrize(
    ("then", "state", "first"),
    [
        pytest.param("resume", "succeeded", 1, id="resume"),
        pytest.param("restart", "succeeded", 2, id="restart"),
        pytest.param("cancel", "cancelled", 1, id="cancel"),
    ],
)
async def test_victims_go_on_as_the_rule_says(tmp_path: Path, then: str, state: str, first: int) -> None:
    async with open_lab(tmp_path, rules=rule(f"then: {then}")) as world:
        run = await world.begin_run()
        await world.tell()
        await world.settle()
        begun = [event for event in world.engine.journal.events_since(0) if event.name == "step.started"]
        assert (run.state, len([e for e in begun if e.cid == run.cid and e.step == "first"])) == (state, first)
        if then == "cancel":
            assert run.record.reason == "interrupted by lab/low_battery"
        assert preempted(run)[1] == world.runs("save")[0].cid


#: A handler of it has ended before many victims were told, or the emitter.
BRIEF = "steps: [{name: save, action: log, params: {message: saved}}]\n"


@pytest.mark.parametrize(
    ("then", "state", "stopped", "first"),
    [
        pytest.param("resume", "succeeded", {0, 1}, 1, id="resume"),
        pytest.param("restart", "succeeded", {1}, 2, id="restart"),
        pytest.param("cancel", "cancelled", {1}, 1, id="cancel"),
    ],
)
async def test_handler_that_ends_before_all_are_told_spares_only_what_would_go_on_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str, state: str, stopped: set[int], first: int
) -> None:
    monkeypatch.setattr(interrupting, "TOLD_AT_ONCE", 1)
    text, settings = rule(f"handler_starts: at_once, then: {then}"), lab_settings(tmp_path, lanes={"main": 40})
    async with open_lab(tmp_path, rules=text, save=BRIEF, settings=settings) as world:
        for _ in range(40):
            await world.start("work")
        await world.until(world.runs("work")[-1], step="long", state="running")
        await world.tell()
        await world.settle()
        found = world.runs("work")
        assert {run.state for run in found} == {state}
        assert {preempted(run)[0] for run in found} == stopped
        starts = world.backend.execute("SELECT DISTINCT starts FROM step WHERE name='first'").fetchall()
        assert starts == [(first,)]
        assert not world.engine.runtime.faults


async def test_emitter_ends_though_the_handler_has_ended_before_it_was_answered(tmp_path: Path) -> None:
    text = rule("handler_starts: at_once, then: cancel")
    async with open_lab(tmp_path, emits=EMITS, rules=text, save=BRIEF) as world:
        run = await world.run("emits")
        assert (run.state, run.record.reason) == ("cancelled", "interrupted by lab/low_battery"), run.explain()
        [victim] = world.victims(world.runs("save")[0].cid)
        assert victim.outcome == "cancelled"


async def test_displaced_handler_comes_back_whatever_the_rule_that_displaced_it_says(tmp_path: Path) -> None:
    two = rules(low="priority: 1", high="priority: 2, then: cancel, task: other")
    async with open_lab(tmp_path, rules=two, other=HOLD) as world:
        await world.tell("go.low")
        low = world.runs("save")[0]
        await world.until(low, state="running")
        await world.tell("go.high")
        await world.until(world.runs("other")[0], state="running")
        assert low.state == "preempted"
        await world.settle()
        assert (low.state, preempted(low)[0]) == ("succeeded", 1)


async def test_run_that_was_stopped_before_its_first_step_is_queued_again(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        run = await world.accepted()
        [fired] = (await world.tell()).interrupts
        await world.until(world.runs("save")[0], state="running")
        assert (run.state, preempted(run), run.record.attempt) == ("queued", (0, None), 0)
        assert fired.rule == "low_battery"
        await world.settle()
        assert (run.state, run.record.attempt, run.steps["first"].attempt) == ("succeeded", 1, 1)


async def test_preempted_run_still_counts_for_its_mode(tmp_path: Path) -> None:
    single = "mode: single\n" + HOLD
    async with open_lab(tmp_path, single=single) as world:
        run = await world.begin_run("single")
        await world.tell()
        await world.until(run, state="preempted")
        with pytest.raises(Exception, match="single"):
            await world.start("single")
        await world.settle()


async def test_preempted_run_gives_its_resources_back(tmp_path: Path) -> None:
    needs = "resources: {screen: 1}\n" + HOLD
    save = "resources: {screen: 1}\nsteps: {save: {action: hold}}\n"
    async with open_lab(tmp_path, needs=needs, save=save, plan="resources: {screen: 1}\n") as world:
        run = await world.begin_run("needs")
        await world.tell()
        await world.until(world.runs("save")[0], state="running")
        await world.settle()
        assert (run.state, world.runs("save")[0].state) == ("succeeded", "succeeded")


async def test_time_spent_preempted_does_not_count_against_its_time_out(tmp_path: Path) -> None:
    timed = "timeout: 1500ms\n" + HOLD
    save = "steps: {save: {action: hold, params: {seconds: 60}}}\n"
    async with open_lab(tmp_path, timed=timed, save=save) as world:
        run = await world.begin_run("timed")
        await world.advance(0.3)
        await world.tell()
        await world.settle()
        assert run.state == "succeeded", run.explain()


async def test_victim_that_is_cancelled_while_it_is_preempted_runs_its_handlers_under_the_hold(tmp_path: Path) -> None:
    tidy = HOLD + "on_cancel: {undo: {action: sleep, params: {duration: 10ms}}}\n"
    tidy += "finally: {tidy: {action: sleep, params: {duration: 10ms}}}\n"
    async with open_lab(tmp_path, tidy=tidy) as world:
        run = await world.begin_run("tidy")
        await world.tell()
        handler = world.runs("save")[0]
        await world.until(handler, state="running")
        await world.engine.cancel(run.cid)
        await world.until(run, state="cancelled")
        assert handler.state == "running"
        assert (run.steps["undo"].state, run.steps["tidy"].state) == ("succeeded", "succeeded")
        await world.settle()
        assert run.state == "cancelled"


# -- several at once


async def test_more_urgent_one_displaces_the_handler_and_others_wait_in_order(tmp_path: Path) -> None:
    three = rules(low="priority: 1", same="priority: 1", high="priority: 2")
    async with open_lab(tmp_path, rules=three) as world:
        run = await world.begin_run()
        await world.tell("go.low")
        low = world.runs("save")[0]
        await world.until(low, state="running")
        await world.tell("go.same")
        await world.tell("go.high")
        _, same, high = world.runs("save")
        await world.until(high, state="running")
        assert (low.state, same.state, run.state) == ("preempted", "queued", "preempted")
        await world.settle()
        ends = [(r.record.finished_at, r.cid) for r in (high, low, same, run)]
        assert sorted(ends) == ends, "the stack is unwound from its top"
        assert {r.state for r in (run, low, same, high)} == {"succeeded"}
        assert (preempted(run)[0], preempted(low)[0], preempted(same)[0]) == (1, 1, 0)


async def test_one_handler_runs_at_a_time(tmp_path: Path) -> None:
    most = 0
    many = rules(**{f"r{n}": f"priority: {n % 3}" for n in range(6)})

    async with open_lab(tmp_path, rules=many) as world:

        def look() -> bool:
            nonlocal most
            running = [
                run for run in world.engine.dispatcher.lanes["interrupt"].placed if run.state is RunState.RUNNING
            ]
            most = max(most, len(running))
            return not world.engine.runtime.open

        await world.begin_run()
        for n in range(6):
            await world.tell(f"go.r{n}")
        await world.until(look)
        assert most == 1
        assert {run.state for run in world.runs()} == {"succeeded"}


async def test_handler_has_the_priority_of_its_rule(tmp_path: Path) -> None:
    async with open_lab(tmp_path, rules=rule("priority: 70")) as world:
        await world.tell()
        record = world.runs("save")[0].record
        assert (record.lane, record.priority, record.cause["kind"]) == ("interrupt", 70, "interrupt")


async def test_events_tell_of_it_in_order(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        await world.begin_run()
        await world.tell()
        await world.settle()
        names = ("interrupt.fired", "run.preempted", "interrupt.ended", "run.resumed")
        assert await events_of(world, *names) == list(names)


async def test_trying_it_dry_changes_nothing(tmp_path: Path) -> None:
    never = "preempt: never\n" + HOLD
    async with open_lab(tmp_path, never=never) as world:
        run, spared = await world.begin_run(), await world.begin_run("never")
        sight = world.engine.triggers.sight(world.rule())
        assert [found.cid for found in sight.victims] == [run.cid]
        assert [found.cid for found in sight.spared] == [spared.cid]
        await world.settle()
        assert (world.firings(), preempted(run)) == ([], (0, None))


async def test_rerun_of_a_handler_is_an_ordinary_run(tmp_path: Path) -> None:
    async with open_lab(tmp_path) as world:
        cid = await world.fire("low_battery")
        await world.settle()
        again = await world.engine.rerun(cid)
        await world.settle()
        found = world.backend.execute("SELECT lane, state FROM run WHERE cid=?", (again.cid,)).fetchone()
        assert found == ("main", "succeeded")
        assert world.open_firings() == []
