"""``on_resume``: it runs before all else of a run that goes on, is stopped as any work is, and its failure counts."""

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, step, task, turns, until
from tests.engine.test_on_preempt import preempted
from tests.fakes.invariants import check_forgotten, check_steps
from tests.fakes.kernel import begun, copy_of, fails, first_time_forever, forever, noting, works

from aura.errors import EndRun
from aura.lifecycle import Recovery, RunState, Stop
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend


async def rested(kit: Opened, tries: int = 1) -> LiveRun:
    """A run of ``t`` that was paused when so many of its steps had begun."""
    run = await begun(kit, tries)
    await preempted(kit, run)
    return run


async def in_on_resume(kit: Opened) -> LiveRun:
    """A run that goes on and whose step ``r`` of ``on_resume`` sits at an await."""
    run = await rested(kit)
    await kit.engine.resume(run.cid)
    await until(lambda: "r" in run.live and run.live["r"].edge._task)
    return run


# -- when it runs


async def test_it_runs_before_anything_else_each_time_the_run_goes_on(tmp_path: Path) -> None:
    log: list[str] = []

    async def slow() -> None:
        await anyio.sleep(1)
        log.append("r")

    async def notes(name: str) -> None:
        log.append(name)
        if log.count(name) < 3:
            await anyio.sleep(3600)

    parts = [step(name, notes, params={"name": name}) for name in ("a", "b")]
    async with opened(tmp_path, task("t", *parts, on_resume=[step("r", slow)])) as kit:
        run = await rested(kit, 2)
        await kit.engine.resume(run.cid)
        await until(lambda: len(log) == 5)
        await preempted(kit, run)
        await kit.engine.resume(run.cid)
        record = await kit.ended(run)
        assert (record.state, log) == ("succeeded", [*"ab", "r", *"ab", "r", *"ab"])
        check_steps(kit.backend.execute, run.seq, Counter(a=3, b=3, r=2))
        check_forgotten(kit, run)


@pytest.mark.parametrize("begins", ["first start", "after a shutdown that starts it over", "nothing had begun"])
async def test_run_that_begins_from_its_beginning_runs_none(tmp_path: Path, begins: str) -> None:
    log: list[str] = []
    tries: list[int] = []
    made = task(
        "t", step("a", first_time_forever(tries)), on_resume=[step("r", noting(log, "r"))], recovery=Recovery.RESTART
    )
    async with opened(tmp_path, made) as kit:
        if begins == "nothing had begun":
            tries.append(0)
            run = await kit.begin_run("t", delay_s=10)
            await preempted(kit, run)
            await kit.engine.resume(run.cid)
        elif begins == "first start":
            tries.append(0)
            run = await kit.begin_run("t")
        else:
            run = await begun(kit)
            await kit.engine.stop("cancel", 1)
            await kit.engine.start()
        assert ((await kit.ended(run)).state, log) == ("succeeded", [])


async def test_steps_that_come_after_it_see_a_run_that_runs(tmp_path: Path) -> None:
    seen: list[str] = []

    async def sees(state: str) -> None:
        seen.append(state)

    def looks(name: str, *needs: str) -> Any:
        return step(name, sees, needs, params={"state": "{{ run.state }}"})

    parts = [looks("a"), step("b", first_time_forever([]), ("a",)), looks("c", "b")]
    async with opened(tmp_path, task("t", *parts, on_preempt=[looks("p")])) as kit:
        run = await begun(kit)
        await until(lambda: "b" in run.live)
        await preempted(kit, run)
        await kit.engine.resume(run.cid)
        await kit.ended(run)
        assert seen == ["running", "preempted", "running"]


async def test_it_may_have_nothing_to_do(tmp_path: Path) -> None:
    made = task("t", step("a", first_time_forever([])), on_resume=[step("r", works, when=False)])
    async with opened(tmp_path, made) as kit:
        run = await rested(kit)
        await kit.engine.resume(run.cid)
        assert (await kit.ended(run)).state == "succeeded"
        assert (await kit.history(run.cid)).count("run.resumed") == 1


async def test_action_stop_ends_it_and_not_the_run(tmp_path: Path) -> None:
    log: list[str] = []

    async def ends() -> None:
        raise EndRun("early")

    handler = [step("r", ends), step("s", noting(log, "s"), ("r",))]
    made = task("t", step("a", first_time_forever([])), on_resume=handler, returns="{{ steps.a.state }}")
    async with opened(tmp_path, made) as kit:
        run = await rested(kit)
        await kit.engine.resume(run.cid)
        record = await kit.ended(run)
        assert (record.state, record.result, log) == ("succeeded", "succeeded", [])


@pytest.mark.parametrize("restart", [False, True], ids=["same server", "after a restart"])
async def test_it_sees_what_on_preempt_gave(tmp_path: Path, restart: bool) -> None:
    got: list[Any] = []

    async def where() -> dict[str, int]:
        return {"x": 7}

    async def go_to(x: Any, never: Any) -> None:
        got.append((x, never))

    params = {"x": "{{ steps.save.outputs.x }}", "never": "{{ steps.tidy.output }}"}
    handlers: dict[str, Any] = {
        "on_preempt": [step("save", where, outputs={"x": "{{ result.x }}"})],
        "on_resume": [step("go_to", go_to, params=params)],
        "finally_": [step("tidy", works)],
    }
    made = task("t", step("a", first_time_forever([])), **handlers)
    async with opened(tmp_path, made) as kit:
        run = await rested(kit)
        assert isinstance(kit.backend, MemoryBackend)
        left = copy_of(kit.backend)
        if not restart:
            await kit.engine.resume(run.cid)
            assert (await kit.ended(run)).state == "succeeded"
    if restart:
        async with opened(tmp_path, made, backend=left) as kit:
            await kit.engine.resume(run.cid)
            assert (await kit.ended(run.cid)).state == "succeeded"
            check_steps(left.execute, run.seq, Counter(a=2, save=1, go_to=1, tidy=1))
    assert got == [(7, None)]


# -- how it fails


async def test_its_failure_is_the_runs_and_nothing_else_begins(tmp_path: Path) -> None:
    log: list[str] = []
    tries: list[int] = []

    async def tell(message: str) -> None:
        log.append(message)

    tells = [step("f", tell, params={"message": "{{ error.message }} in {{ error.step }}"})]
    handlers: dict[str, Any] = {"on_resume": [step("r", fails)], "on_failure": tells, "finally_": [step("z", works)]}
    async with opened(tmp_path, task("t", step("a", first_time_forever(tries)), **handlers)) as kit:
        run = await rested(kit)
        await kit.engine.resume(run.cid)
        record = await kit.ended(run)
        assert record.error is not None
        assert (record.state, record.error["step"], log, tries) == ("failed", "r", ["no in r"], [1])
        states = {n: s.state for n, s in (await kit.steps(run)).items()}
        assert states == {"a": "cancelled", "r": "failed", "f": "succeeded", "z": "succeeded"}


async def test_timeout_of_the_run_counts_in_it(tmp_path: Path) -> None:
    made = task("t", step("a", forever), on_resume=[step("r", forever)], timeout=10.0)
    async with opened(tmp_path, made) as kit:
        run = await begun(kit)
        await kit.advance(6)
        await preempted(kit, run)
        await kit.engine.resume(run.cid)
        began = kit.now
        record = await kit.ended(run)
        assert (record.state, round(kit.now - began, 1), round(record.active_s, 1)) == ("timed_out", 4.0, 10.0)


# -- how it is stopped


async def test_pause_in_it_puts_away_again_and_the_next_resume_runs_it_anew(tmp_path: Path) -> None:
    log: list[str] = []
    tries: list[int] = []
    logs_in = first_time_forever(tries)
    handlers: dict[str, Any] = {"on_preempt": [step("p", noting(log, "p"))], "on_resume": [step("r", logs_in)]}
    body: list[int] = []
    async with opened(tmp_path, task("t", step("a", first_time_forever(body)), **handlers)) as kit:
        run = await in_on_resume(kit)
        await preempted(kit, run)
        assert (log, body) == (["p", "p"], [1])
        assert {n: s.state for n, s in (await kit.steps(run)).items()} == {
            "a": "pending",
            "p": "succeeded",
            "r": "pending",
        }
        await kit.engine.resume(run.cid)
        assert ((await kit.ended(run)).state, tries, body) == ("succeeded", [1, 2], [1, 2])
        check_steps(kit.backend.execute, run.seq, Counter(a=2, p=2, r=2))


@pytest.mark.parametrize("count", range(5), ids=lambda n: f"{n} turns after it was resumed")
async def test_stop_before_it_began_leaves_all_as_it_was(tmp_path: Path, count: int) -> None:
    log: list[str] = []
    handlers = {"on_preempt": [step("p", noting(log, "p"))], "on_resume": [step("r", noting(log, "r"))]}
    async with opened(tmp_path, task("t", step("a", first_time_forever([])), **handlers)) as kit:
        run = await rested(kit)
        kit.engine.pausing.request_resume(run)
        await turns(count)
        await preempted(kit, run)
        assert (log, run.live) == (["p"], {})
        await kit.engine.resume(run.cid)
        assert ((await kit.ended(run)).state, log) == ("succeeded", ["p", "r"])


@pytest.mark.parametrize(
    ("stop", "state", "log"),
    [
        (Stop.CANCEL, "cancelled", ["c", "z"]),
        (Stop.SHUTDOWN, "cancelled", ["c", "z"]),
        (Stop.TIMEOUT, "timed_out", ["z"]),
    ],
    ids=lambda value: value.label if isinstance(value, Stop) else None,
)
async def test_stop_for_good_in_it_ends_the_run_as_ever(tmp_path: Path, stop: Stop, state: str, log: list[str]) -> None:
    got: list[str] = []
    handlers = {"on_cancel": [step("c", noting(got, "c"))], "finally_": [step("z", noting(got, "z"))]}
    async with opened(tmp_path, task("t", step("a", forever), on_resume=[step("r", forever)], **handlers)) as kit:
        run = await in_on_resume(kit)
        kit.stop(run, stop, grace=5)
        record = await kit.ended(run)
        assert (record.state, got, record.error and record.error["type"]) == (
            *(state, log),
            "TimeoutError" if stop is Stop.TIMEOUT else None,
        )
        assert {s.state for n, s in (await kit.steps(run)).items() if n in "ar"} == {"cancelled"}


@pytest.mark.parametrize("restart", [False, True], ids=["same server", "after a restart"])
async def test_cancel_of_one_that_rests_after_it_was_cut_off_leaves_no_step_open(tmp_path: Path, restart: bool) -> None:
    made = task("t", step("a", forever), on_resume=[step("r", forever)], finally_=[step("z", works)])
    async with opened(tmp_path, made) as kit:
        run = await in_on_resume(kit)
        await preempted(kit, run)
        assert isinstance(kit.backend, MemoryBackend)
        left = copy_of(kit.backend)
        if not restart:
            await kit.engine.cancel(run.cid)
            await kit.ended(run)
            check_steps(kit.backend.execute, run.seq, Counter(a=1, r=1, z=1))
    if restart:
        async with opened(tmp_path, made, backend=left) as kit:
            await kit.engine.cancel(run.cid)
            assert (await kit.ended(run.cid)).state == "cancelled"
            check_steps(left.execute, run.seq, Counter(a=1, r=1, z=1))


async def test_cancel_of_one_that_rests_does_not_begin_it(tmp_path: Path) -> None:
    made = task("t", step("a", forever), on_resume=[step("r", works)], finally_=[step("z", works)])
    async with opened(tmp_path, made) as kit:
        run = await rested(kit)
        await kit.engine.cancel(run.cid)
        assert (await kit.ended(run)).state == "cancelled"
        assert (await kit.steps(run)).keys() == {"a", "z"}


async def test_pause_of_one_that_stop_had_ended_early_does_not_end_the_run(tmp_path: Path) -> None:
    go = anyio.Event()

    async def ends() -> None:
        await go.wait()
        raise EndRun(None)

    body: list[int] = []
    handler = [step("r", ends), step("s", forever)]
    async with opened(tmp_path, task("t", step("a", first_time_forever(body)), on_resume=handler)) as kit:
        run = await in_on_resume(kit)
        go.set()  # it goes on in the turn of the pause, so the edge does not reach it
        await preempted(kit, run)
        assert (run.state, body) == ("preempted", [1])
        await kit.engine.resume(run.cid)
        assert ((await kit.ended(run)).state, body) == ("succeeded", [1, 2])


async def test_crash_in_it_goes_by_recovery_and_names_its_step(tmp_path: Path) -> None:
    made = task("t", step("a", forever), on_resume=[step("r", forever)])
    async with opened(tmp_path, made) as kit:
        run = await in_on_resume(kit)
        assert isinstance(kit.backend, MemoryBackend)
        left = copy_of(kit.backend)
    async with opened(tmp_path, made, backend=left) as kit:
        record = await kit.ended(run.cid)
        assert record.error is not None
        assert (record.state, record.error["step"]) == ("crashed", "r")
        assert RunState(record.state) is RunState.CRASHED
