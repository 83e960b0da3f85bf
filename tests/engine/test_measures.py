"""What the engine counts of its own work: each wait, end, step and refusal once, whatever met the run."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, PythonGenerations, opened, quiet, step, task
from tests.engine.test_lost_units import refusing
from tests.engine.test_undone import FAILURES, failing_door
from tests.fakes.kernel import FaultyBackend, copy_of, fails, forever, works

from aura.errors import RequestError
from aura.histogram import Histogram
from aura.lifecycle import Recovery, Stop
from aura.run import Cause, Request
from aura.runs.measures import Measures
from aura.stores.memory import MemoryBackend

CAUSE = Cause("api")


def measures_of(kit: Opened) -> Measures:
    return kit.engine.runtime.measures


def counted(kit: Opened) -> tuple[int, dict[str, int]]:
    """How many waits were noted, and the ends by state."""
    measures = measures_of(kit)
    waits = sum(sum(histogram.counts) for histogram in measures.waits.values())
    assert waits == sum(measures.counts.started.values())
    return waits, {state: n for (_, _, state), n in measures.counts.ended.items()}


def times(histogram: Histogram) -> tuple[int, float]:
    return sum(histogram.counts), round(histogram.sum, 3)


async def naps() -> None:
    await anyio.sleep(10)


# -- waits


async def test_wait_of_a_run_that_finds_a_place_is_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        await kit.run("t")
        assert counted(kit) == (1, {"succeeded": 1})
        assert measures_of(kit).waits["main"].sum == 0


async def test_waits_of_runs_behind_each_other_are_their_times_in_the_queue(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", naps)), lanes={"main": 1}) as kit:
        for _ in range(3):
            await kit.begin_run("t")
        await kit.settle()
        assert times(measures_of(kit).waits["main"]) == (3, 30.0)
        main = kit.engine.queue_overview().lanes[0]
        assert (main.wait_p50_s, main.wait_p95_s) == (10.0, 20.0)


async def test_delay_that_was_asked_for_is_no_wait(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        await kit.run("t", delay_s=50.0)
        assert counted(kit) == (1, {"succeeded": 1})
        assert measures_of(kit).waits["main"].sum < 0.1


async def test_run_that_is_cancelled_while_queued_has_an_end_and_no_wait(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        await kit.engine.stop("drain", 1)
        run = await kit.begin_run("t")
        await kit.engine.cancel(run.cid)
        await kit.engine.start()
        await quiet()
        assert counted(kit) == (0, {"cancelled": 1})


async def test_run_whose_plan_is_gone_has_an_end_and_no_wait(tmp_path: Path) -> None:
    generations = PythonGenerations(task("t", step("a", works)))
    async with opened(tmp_path, generations=generations) as kit:
        await kit.engine.stop("drain", 1)
        run = await kit.begin_run("t")
        generations.now = None
        await kit.engine.start()
        assert (await kit.ended(run)).state == "failed"
        assert counted(kit) == (0, {"failed": 1})


async def test_run_that_a_stop_of_the_engine_sends_back_waits_once(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever), recovery=Recovery.RESTART)) as kit:
        run = await kit.begin_run("t")
        await quiet()
        await kit.engine.stop("cancel", 1)
        assert run.row == "queued"
        await kit.engine.start()
        await quiet()
        await kit.engine.cancel(run.cid)
        await kit.ended(run)
        assert counted(kit) == (1, {"cancelled": 1})


async def test_run_that_is_sent_back_between_its_start_and_its_first_step_waits_once(tmp_path: Path) -> None:
    backend = FaultyBackend()
    async with opened(tmp_path, task("t", step("a", works)), backend=backend) as kit:
        backend.gate = anyio.Event()
        run = kit.engine.admission.request(wish(), CAUSE).run
        await quiet()
        assert (run.row, run.attempt) == ("running", 1)
        kit.stop(run, Stop.SHUTDOWN)
        backend.gate.set()
        await kit.ended(run)
        assert "run.requeued" in await kit.history(run.cid)
        assert counted(kit) == (1, {"succeeded": 1})


async def test_queued_run_of_an_older_process_has_waited_since_its_acceptance(tmp_path: Path) -> None:
    made = task("t", step("a", works))
    backend = MemoryBackend()
    async with opened(tmp_path, made, backend=backend) as kit:
        await kit.engine.stop("drain", 1)
        await kit.begin_run("t")
        left = copy_of(backend)
        await kit.advance(100)
        moment = kit.now
        assert counted(kit) == (0, {})
    async with opened(tmp_path, made, backend=left) as kit:
        await kit.settle()
        assert counted(kit) == (1, {"succeeded": 1})
        assert measures_of(kit).waits["main"].sum == pytest.approx(moment - run_accepted(left), abs=60)


def run_accepted(backend: MemoryBackend) -> float:
    found: tuple[float] = backend.execute("SELECT accepted_at FROM run").fetchone()
    return found[0]


async def test_run_that_had_started_before_a_crash_has_no_second_wait(tmp_path: Path) -> None:
    made = task("t", step("a", naps), recovery=Recovery.RESTART)
    backend = MemoryBackend()
    async with opened(tmp_path, made, backend=backend) as kit:
        await kit.begin_run("t")
        await quiet()
        left = copy_of(backend)
    async with opened(tmp_path, made, backend=left) as kit:
        await kit.settle()
        assert counted(kit) == (0, {"succeeded": 1})


# -- ends and steps


@pytest.mark.parametrize(
    ("action", "stop", "state"),
    [
        pytest.param(works, None, "succeeded", id="succeeded"),
        pytest.param(fails, None, "failed", id="failed"),
        pytest.param(forever, Stop.CANCEL, "cancelled", id="cancelled"),
        pytest.param(forever, Stop.TIMEOUT, "timed_out", id="timed-out"),
    ],
)
async def test_end_is_counted_once_by_its_state(tmp_path: Path, action: Any, stop: Stop | None, state: str) -> None:
    async with opened(tmp_path, task("t", step("a", action))) as kit:
        run = await kit.begin_run("t")
        if stop is not None:
            await quiet()
            kit.stop(run, stop)
            kit.stop(run, stop)
        await kit.ended(run)
        assert measures_of(kit).counts.ended == {("main", "p", state): 1}
        assert counted(kit) == (1, {state: 1})


async def test_start_that_is_lost_is_no_wait(tmp_path: Path) -> None:
    backend = refusing("NEW.state = 'running'")
    async with opened(tmp_path, task("t", step("a", works)), backend=backend, faults=2) as kit:
        await kit.record("t")
        assert counted(kit) == (0, {"crashed": 1})


async def test_end_that_is_lost_is_not_counted(tmp_path: Path) -> None:
    backend = refusing("NEW.state = 'succeeded'")
    async with opened(tmp_path, task("t", step("a", works)), backend=backend, faults=1) as kit:
        run = await kit.begin_run("t")
        await run.wait_end()
        assert run.lost
        assert counted(kit) == (1, {})


async def test_steps_are_timed_by_how_they_ended(tmp_path: Path) -> None:
    steps = (
        step("a", naps),
        step("b", fails, retry={"attempts": 3, "delay": 4.0}),
        step("c", works, needs=("b",)),
        step("d", works, when="{{ false }}"),
    )
    async with opened(tmp_path, task("t", *steps)) as kit:
        await kit.run("t")
        found = {state: times(histogram) for state, histogram in measures_of(kit).steps.items()}
        assert found == {"succeeded": (1, 10.0), "failed": (1, 8.0)}


async def test_step_that_is_cut_off_is_timed_and_one_that_never_began_is_not(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever), step("b", works, needs=("a",)))) as kit:
        run = await kit.begin_run("t")
        await kit.advance(20)
        await kit.engine.cancel(run.cid)
        await kit.ended(run)
        assert {state: times(h) for state, h in measures_of(kit).steps.items()} == {"cancelled": (1, 20.0)}


# -- refusals


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("unknown_task", {"task_name": "x"}),
    ("unknown_plan", {"plan_name": "x"}),
    ("invalid", {"priority": 9999}),
    ("inputs_invalid", {"inputs": {"x": 1}}),
]


def wish(**keys: Any) -> Request:
    return Request(**({"plan_name": "p", "task_name": "t"} | keys))


@pytest.mark.parametrize(("code", "keys"), REFUSED, ids=[code for code, _ in REFUSED])
async def test_refusal_is_counted_once_by_its_code(tmp_path: Path, code: str, keys: dict[str, Any]) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        with pytest.raises(RequestError):
            await kit.engine.submit(wish(**keys), CAUSE)
        assert measures_of(kit).refusals.counts == {code: 1}
        await kit.engine.submit_batch([wish(**keys), wish()], CAUSE, False)
        assert measures_of(kit).refusals.counts == {code: 2}
        with pytest.raises(RequestError):
            await kit.engine.submit_batch([wish(), wish(**keys), wish(**keys)], CAUSE, True)
        assert measures_of(kit).refusals.counts == {code: 3}


async def test_full_queue_is_counted_also_for_a_batch_that_does_not_fit(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works)), queue=2) as kit:
        await kit.engine.stop("drain", 1)
        with pytest.raises(RequestError):
            await kit.engine.submit_batch([wish()] * 3, CAUSE, True)
        await kit.engine.submit_batch([wish()] * 3, CAUSE, False)
        assert measures_of(kit).refusals.counts == {"queue_full": 2}


@pytest.mark.parametrize("how", FAILURES)
async def test_undone_acceptance_is_a_refusal_and_neither_a_wait_nor_an_end(tmp_path: Path, how: str) -> None:
    async with failing_door(tmp_path, how) as door:
        await door.hold()
        run = door.request()
        await quiet()
        assert run.state == "running"  # its start stands behind it, in the same batch
        await door.fail()
        await quiet()
        assert counted(door.kit) == (0, {})
        assert sum(measures_of(door.kit).refusals.counts.values()) == 1
        assert door.kit.engine.queue_overview().lanes[0].queued == 0


# -- the store


async def test_commits_are_timed_and_their_units_counted(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        store = kit.engine.runtime.store
        before = store.commits, sum(store.batch_sizes.counts), store.batch_sizes.sum
        await kit.engine.submit_batch([wish()] * 5, CAUSE, True)
        await kit.settle()
        commits, batches, units = store.commits, sum(store.batch_sizes.counts), store.batch_sizes.sum
        assert commits - before[0] == batches - before[1] == sum(store.commit_times.counts) - before[1]
        assert units - before[2] == 1 + 5 * 2  # the acceptance of all, starts, ends


# -- the overview


async def test_overview_of_an_idle_engine_says_nothing_that_it_does_not_know(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        await kit.advance(60)
        seen = kit.engine.queue_overview()
        assert [lane.lane for lane in seen.lanes] == list(kit.engine.dispatcher.lanes)
        main = seen.lanes[0]
        assert (main.running, main.queued, main.delayed, main.stuck) == (0, 0, 0, 0)
        assert (main.oldest_age_s, main.wait_p50_s, main.wait_p95_s) == (None, None, None)
        assert (main.started_per_min, main.ended_per_min) == (0, 0)  # that is known: it is what a minute brought
        assert seen.plans == []


async def test_overview_counts_what_stands_where(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever)), lanes={"main": 2}) as kit:
        for _ in range(3):
            await kit.begin_run("t")
        await kit.advance(5)
        await kit.begin_run("t")
        await kit.begin_run("t", delay_s=600.0)
        await kit.begin_run("t", lane="event")
        await kit.advance(5)
        seen = kit.engine.queue_overview()
        lanes = {lane.lane: (lane.limit, lane.running, lane.queued, lane.delayed) for lane in seen.lanes}
        assert lanes["main"] == (2, 2, 3, 1)
        assert lanes["event"][1:] == (1, 0, 0)
        plan = seen.plans[0]
        assert (plan.plan_name, plan.running, plan.queued, plan.delayed) == ("p", 3, 3, 1)
        assert seen.lanes[0].oldest_age_s == plan.oldest_age_s == pytest.approx(10, abs=0.1)


async def test_overview_gives_rates_for_a_minute(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", works))) as kit:
        for _ in range(12):
            await kit.run("t")
            await kit.advance(10)
        seen = kit.engine.queue_overview()
        assert seen.window_s == pytest.approx(120, abs=1)
        assert seen.lanes[0].started_per_min == pytest.approx(6, abs=0.2)
        assert seen.plans[0].ended_per_min == pytest.approx(6, abs=0.2)


async def test_age_of_a_run_that_comes_back_is_not_told(tmp_path: Path) -> None:
    """It has had its wait; what it waits for now is another one."""
    async with opened(tmp_path, task("t", step("a", forever), recovery=Recovery.RESTART)) as kit:
        run = await kit.begin_run("t")
        await kit.advance(100)
        await kit.engine.stop("cancel", 1)
        main = kit.engine.queue_overview().lanes[0]
        assert (run.waits, main.queued, main.oldest_age_s) == (True, 1, None)
        await kit.engine.cancel(run.cid)
