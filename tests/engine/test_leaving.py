"""Many that one firing stops give their places back, and are sealed then (``runs.leaving``); what may come between."""

from pathlib import Path

import pytest
from tests.engine.interrupts_kit import Lab, lab_settings, open_lab, preempted, rule, rules
from tests.engine.kit import turns

from aura.interrupts import interrupts as interrupting
from aura.lifecycle import RunState
from aura.run import Cause, Request
from aura.runs import leaving
from aura.runs.liverun import LiveRun
from aura.testing.run import Run

pytestmark = pytest.mark.anyio

WORK = """
timeout: 100s
steps:
  - {name: long, action: hold}
"""
TIDY = "finally: {tidy: {action: sleep, params: {duration: 10ms}}}\n"
#: More turns than there are from a firing until its victims are gone.
MANY_TURNS = 50


async def begin(lab: Lab, count: int) -> list[LiveRun]:
    """Start so many runs; gives them when their step runs."""
    await lab.engine.submit_batch([Request("lab", "work")] * count, Cause("api"), True)
    await lab.loop.wait_quiet()
    return [lab.live(run) for run in lab.runs("work")]


async def stop_until_gone(lab: Lab, count: int = 3) -> tuple[list[LiveRun], str]:
    """Start so many runs and stop them; returns when all are gone and none is sealed. Gives the handler's ``cid``."""
    runs = await begin(lab, count)
    emitted = lab.engine.triggers.fire(lab.rule(), None)
    await until_gone(lab, count)
    assert {run.state for run in runs} == {RunState.STOPPING}
    assert not any(lab.engine.dispatcher.placed())
    return runs, emitted.fired[0].cid


async def until_gone(lab: Lab, count: int) -> None:
    for _ in range(MANY_TURNS):
        if len(lab.engine.dispatcher.gone) == count:
            return
        await turns(1)
    raise AssertionError(f"{len(lab.engine.dispatcher.gone)} are gone, not {count}")


def begun_after(lab: Lab, handler: str, runs: list[LiveRun]) -> bool:
    """Whether the row of a handler's start stands behind those of the victims' stops."""
    sql = "SELECT max(history.id) FROM history JOIN run USING (seq) WHERE cid=? AND name=?"

    def last(cid: str, name: str) -> int:
        return int(lab.backend.execute(sql, (cid, name)).fetchone()[0])

    return last(handler, "run.started") > max(last(run.cid, "run.preempted") for run in runs)


async def test_none_is_sealed_while_others_hold_a_place(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work=WORK) as lab:
        runs, handler = await stop_until_gone(lab)
        await lab.settle()
        assert lab.engine.dispatcher.gone == set()
        assert [victim.outcome for victim in lab.victims(handler)] == ["preempted"] * 3
        assert begun_after(lab, handler, runs)
        assert {run.state for run in lab.runs()} == {"succeeded"}


@pytest.mark.parametrize(
    ("count", "then", "state"), [pytest.param(1, "resume", "preempted", id="alone"), (3, "cancel", "cancelled")]
)
async def test_one_alone_and_one_that_ends_are_sealed_at_once(
    tmp_path: Path, count: int, then: str, state: str
) -> None:
    async with open_lab(tmp_path, work=WORK, rules=rule(f"then: {then}")) as lab:
        runs = await begin(lab, count)
        lab.engine.triggers.fire(lab.rule(), None)
        while {run.state.value for run in runs} != {state}:
            assert not lab.engine.dispatcher.gone
            await turns(1)
        await lab.settle()


async def test_they_are_sealed_in_several_turns_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "SEALED_AT_ONCE", 3)
    monkeypatch.setattr(interrupting, "TOLD_AT_ONCE", 3)
    async with open_lab(tmp_path, work=WORK, settings=lab_settings(tmp_path, lanes={"main": 8})) as lab:
        runs, handler = await stop_until_gone(lab, 8)
        counts = {0: None}
        while len(counts) < 4:
            counts[sum(run.state is RunState.PREEMPTED for run in runs)] = None
            await turns(1)
        assert list(counts) == [0, 3, 6, 8]
        await lab.settle()
        assert begun_after(lab, handler, runs)


async def test_one_whose_clean_up_takes_long_does_not_keep_the_others_from_their_seals(tmp_path: Path) -> None:
    slow = "steps: {long: {action: hold, params: {seconds: 5}, preempt: at_step_end}}"
    async with open_lab(tmp_path, work=WORK, slow=slow, rules=rule("grace: 20s")) as lab:
        late = await lab.start("slow")
        runs = await begin(lab, 2)
        await lab.tell()
        await lab.loop.wait_quiet()
        assert {run.state for run in runs} == {RunState.PREEMPTED}
        assert late.state == "stopping"
        assert lab.engine.dispatcher.gone == set()
        await lab.settle()


async def test_one_that_is_gone_and_then_cancelled_runs_its_handlers(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work=WORK + TIDY) as lab:
        runs, handler = await stop_until_gone(lab)
        await lab.engine.cancel(runs[1].cid)
        await lab.settle()
        first, second, third = lab.runs("work")
        assert [run.state for run in (first, second, third)] == ["succeeded", "cancelled", "succeeded"]
        assert second.steps["tidy"].state == "succeeded"
        assert [victim.outcome for victim in lab.victims(handler)] == ["preempted"] * 3


async def test_one_that_is_gone_and_then_paused_stays_until_it_is_resumed(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work=WORK) as lab:
        runs, handler = await stop_until_gone(lab)
        await lab.engine.pause(runs[0].cid)
        await lab.until(lambda: handler not in lab.engine.runtime.open)
        await lab.until(lambda: len(lab.engine.runtime.open) == 1)
        assert lab.live(runs[0].cid).state is RunState.PREEMPTED
        await lab.engine.resume(runs[0].cid)
        await lab.settle()
        assert {run.state for run in lab.runs()} == {"succeeded"}


async def test_stop_of_the_engine_waits_for_the_seals(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work=WORK) as lab:
        runs, _ = await stop_until_gone(lab)
        await lab.engine.stop("cancel", 1)
        assert {run.state for run in runs} == {RunState.PREEMPTED}
        await lab.engine.start()
        await lab.settle()
        assert {run.state for run in lab.runs()} == {"succeeded"}


async def test_none_is_left_without_its_seal_at_the_servers_end(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work=WORK) as lab:
        runs, _ = await stop_until_gone(lab)
        assert lab.engine.record_left() == 0
        assert {run.state for run in runs} == {RunState.PREEMPTED}
        await lab.settle()


@pytest.mark.parametrize(("then", "attempt"), [("resume", 1), ("restart", 2)])
async def test_firing_that_ends_meanwhile_lets_them_go_back(tmp_path: Path, then: str, attempt: int) -> None:
    async with open_lab(tmp_path, work=WORK, rules=rule(f"then: {then}")) as lab:
        runs, handler = await stop_until_gone(lab)
        await lab.engine.cancel(handler)
        await lab.settle()
        assert {run.state for run in lab.runs("work")} == {"succeeded"}
        assert {run.record.attempt for run in lab.runs("work")} == {attempt}
        assert {run.stopped_by for run in runs} == {None}


async def test_another_firing_waits_for_their_seals_too(tmp_path: Path) -> None:
    text = rules(low_battery="priority: 1", fire="priority: 9")
    async with open_lab(tmp_path, work=WORK, rules=text) as lab:
        runs, _ = await stop_until_gone(lab)
        second = lab.engine.triggers.fire(lab.rule("fire"), None).fired[0].cid
        assert lab.live(second).firing.awaited == set(runs)  # type: ignore[union-attr]
        await lab.settle()
        assert begun_after(lab, second, runs)
        assert lab.victims(second) == []
        assert {run.state for run in lab.runs()} == {"succeeded"}


async def test_nothing_acts_on_one_that_is_gone_and_its_clean_up_is_over(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work=WORK) as lab:
        runs, _ = await stop_until_gone(lab)
        assert {run.timer for run in runs} == {None}
        for run in runs:  # as if it had been told ten seconds ago, and gone after two
            assert run.told_at is not None
            assert run.gone_at is not None
            run.told_at, run.gone_at = run.told_at - 10, run.gone_at - 8
        await lab.settle()
        assert {round(_cleanup(run), 3) for run in lab.runs("work")} == {2.0}
        assert {preempted(run)[0] for run in lab.runs("work")} == {1}


def _cleanup(run: Run) -> float:
    said = run.record.preempted_by
    assert said is not None
    return float(said["cleanup_s"])


async def test_what_runs_shows_those_that_are_gone(tmp_path: Path) -> None:
    async with open_lab(tmp_path, work=WORK) as lab:
        runs, _ = await stop_until_gone(lab)
        shown = {record.cid: record.state for record in await lab.engine.history.active_runs()}
        assert shown.keys() == {run.cid for run in runs}
        await lab.settle()
