"""A run that Aura itself breaks off: it ends as crashed, on record, and nobody else notices.

Each stage of a run is made to fail once, by an error or by what is not even an ``Exception``. Sealing itself cannot
raise, whatever is broken by then.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task
from tests.fakes.invariants import check_history, check_idle, record_of
from tests.fakes.kernel import begun, fails, forever, works

from aura.graph import Graph
from aura.kernel.executor import Executor
from aura.lifecycle import STEP_FINAL, Recovery, Stop
from aura.run import Cause, Failure, Request
from aura.runs.conclude import Conclusions
from aura.runs.liverun import LiveRun, Phase
from aura.runs.runtime import Runtime
from aura.runs.seal import Seal
from aura.runs.stops import Stops

#: Where a run is broken: what raises, and in which of its calls.
STAGES: dict[str, tuple[type, str, int]] = {
    "taking its plan": (LiveRun, "take", 1),
    "arming its time-out": (Stops, "start_timeout", 1),
    "looking for its first step": (Graph, "take_ready", 1),
    "looking for its next steps": (Graph, "take_ready", 2),
    "marking a step as started": (LiveRun, "count_start", 1),
    "writing down a step": (LiveRun, "take_step_rows", 1),
    "writing down its start": (LiveRun, "columns", 1),
    "staging its events": (Runtime, "stage_event", 2),
    "handing over its start": (Runtime, "hand_over", 1),
    "handing over a hop": (Runtime, "hand_over", 2),
    "making an attempt": (Executor, "_prepare", 1),
    "concluding an attempt": (Conclusions, "conclude", 1),
    "ending a step": (Graph, "end", 1),
    "computing its outcome": (Graph, "outcome", 1),
    "entering a handler": (LiveRun, "enter", 1),
    "a handler's failure": (Graph, "first_failure", 2),
    "stopping its timers": (Seal, "stop_timers", 1),
    "ending its steps": (LiveRun, "mark", 5),
    "writing down its end": (LiveRun, "columns", 3),
}


def breaking(real: Callable[..., Any], error: BaseException, call: int) -> Callable[..., Any]:
    """The function, but for one of its calls, counted from 1, which raises."""
    calls = 0

    def broken(*args: Any, **keys: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return real(*args, **keys)

    return broken


def accepted(kit: Opened, task_name: str = "t") -> LiveRun:
    return kit.engine.admission.request(Request("p", task_name), Cause("api")).run


async def crashes_alone(kit: Opened, run: LiveRun, go: anyio.Event) -> None:
    """The run is crashed and gone, the engine says so, the run beside it ends, and so does the next one."""
    record = await kit.ended(run)
    assert (record.state, record.reason, kit.engine.state) == ("crashed", "fault", "degraded")
    check_history(kit.backend.execute, run.seq, "crashed")
    rows = kit.backend.execute("SELECT state FROM step WHERE seq=?", (run.seq,)).fetchall()
    assert all(state in STEP_FINAL for (state,) in rows)
    go.set()
    await kit.settle()
    assert (await kit.run("next")).state == "succeeded"
    assert [beside.state for beside in kit.runs("beside")] == ["succeeded"]
    check_idle(kit)
    await shows_everything(kit)


async def shows_everything(kit: Opened) -> None:
    """No event of a lost unit holds back those behind it."""
    reader = kit.engine.journal.subscribe({"event"})
    run = await kit.run("next")
    assert [entry.record()["name"] for entry in reader.take().entries if entry.cid == run.cid][-1] == "run.succeeded"
    reader.close()


def tasks(go: anyio.Event) -> list[Any]:
    async def waits() -> None:
        await go.wait()

    chain = [step("a", works), step("b", fails, ("a",), continue_on_failure=True)]
    return [
        task("t", *chain, finally_=[step("z", works)]),
        task("parallel", step("c", works), step("d", works), finally_=[step("y", works)]),
        task("beside", step("w", waits)),
        task("next", step("n", works)),
    ]


@pytest.mark.parametrize("error", [RuntimeError, SystemExit], ids=lambda error: error.__name__)
@pytest.mark.parametrize("stage", STAGES)
async def test_run_that_is_broken_off_ends_as_crashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: type[BaseException]
) -> None:
    go = anyio.Event()
    async with opened(tmp_path, *tasks(go), faults=1) as kit:
        await begun(kit, task_name="beside")
        run = accepted(kit)
        owner, name, call = STAGES[stage]
        monkeypatch.setattr(owner, name, breaking(getattr(owner, name), error("broken"), call))
        await crashes_alone(kit, run, go)


@pytest.mark.parametrize("call", [1, 2], ids=["the first", "the second"])
async def test_child_of_a_run_that_is_broken_off_takes_the_run_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    go = anyio.Event()
    async with opened(tmp_path, *tasks(go), faults=1) as kit:
        await begun(kit, task_name="beside")
        monkeypatch.setattr(Conclusions, "conclude", breaking(Conclusions.conclude, KeyboardInterrupt(), call))
        await crashes_alone(kit, accepted(kit, "parallel"), go)


async def test_run_whose_graph_gives_nothing_to_do_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = anyio.Event()
    async with opened(tmp_path, *tasks(go), faults=1) as kit:
        await begun(kit, task_name="beside")
        run = accepted(kit)
        with monkeypatch.context() as patch:
            patch.setattr(Graph, "take_ready", lambda graph: ([], []))
            record = await kit.ended(run)
        assert record.error is not None
        assert "without an outcome" in record.error["message"]
        await crashes_alone(kit, run, go)


# -- what cannot be written down


def damage_error(run: LiveRun) -> None:
    run.error = run.cleanup_error = Failure("x", "y", file="\udcff.py")


def damage_reason(run: LiveRun) -> None:
    run.reason = "\udcff"


def damage_outputs(run: LiveRun) -> None:
    run.graphs[Phase.MAIN].steps["l"].outputs = {"o": object()}


def damage_payload(run: LiveRun) -> None:
    run.happened.append(("step.progress", "l", {"what": object()}))


@pytest.mark.parametrize(
    "damage", [damage_error, damage_reason, damage_outputs, damage_payload], ids=lambda f: f.__name__.split("_")[1]
)
async def test_run_with_what_cannot_be_written_down_ends_without_it(tmp_path: Path, damage: Any) -> None:
    go = anyio.Event()
    async with opened(tmp_path, *tasks(go), task("long", step("l", forever), step("m", forever)), faults=1) as kit:
        await begun(kit, task_name="beside")
        run = await begun(kit, 2, "long")
        await quiet()
        kit.stop(run, Stop.CANCEL)
        damage(run)
        await crashes_alone(kit, run, go)


async def test_run_that_cannot_be_written_down_at_all_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = anyio.Event()
    # two faults: how it was cannot be written down, and what is left of it neither
    async with opened(tmp_path, *tasks(go), task("long", step("l", forever)), faults=2) as kit:
        await begun(kit, task_name="beside")
        run = await begun(kit, task_name="long")
        kit.stop(run, Stop.INTERRUPT)
        with monkeypatch.context() as patch:
            patch.setattr(Runtime, "hand_over", always(OSError("no")))
            await run.wait_end()
        assert not run.placed
        assert record_of(kit, run).state == "running"  # as it is stored; the next boot settles it
        go.set()
        await kit.settle()
        assert (await kit.run("next")).state == "succeeded"
        check_idle(kit)


def always(error: Exception) -> Any:
    def broken(*args: Any, **keys: Any) -> Any:
        raise error

    return broken


@pytest.mark.parametrize("kind", [Stop.CANCEL, Stop.TIMEOUT], ids=lambda kind: kind.label)
async def test_queued_run_whose_end_cannot_be_written_down_leaves_its_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Stop
) -> None:
    go = anyio.Event()
    async with opened(tmp_path, *tasks(go), faults=1) as kit:
        await kit.engine.stop("cancel", 0.1)
        run = accepted(kit)
        await quiet()
        monkeypatch.setattr(Runtime, "hand_over", breaking(Runtime.hand_over, OSError("no"), 1))
        assert kit.stop(run, kind) == "stopped"
        assert (await kit.ended(run)).state == "crashed"
        check_idle(kit)


async def test_run_that_cannot_come_back_is_crashed_and_its_steps_are_not_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = anyio.Event()
    long = task("long", step("l", forever), recovery=Recovery.RESTART)
    async with opened(tmp_path, *tasks(go), long, faults=1) as kit:
        await begun(kit, task_name="beside")
        run = await begun(kit, task_name="long")
        monkeypatch.setattr(Runtime, "hand_over", breaking(Runtime.hand_over, OSError("no"), 1))
        kit.stop(run, Stop.SHUTDOWN)
        await crashes_alone(kit, run, go)
