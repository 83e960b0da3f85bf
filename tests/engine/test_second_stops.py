"""A stop after a stop, at every moment: the rank only rises, deadlines only come nearer, an edge comes once."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, quiet, step, task, until
from tests.fakes.kernel import FaultyBackend, begun, cleaning, fails, forever, no_hang, swallowing, works

from aura.lifecycle import Recovery, Stop
from aura.runs.attempt import PULSE, Attempt
from aura.runs.liverun import LiveRun
from aura.runs.stops import HANDLER_GRACE

PAIRS = pytest.mark.parametrize(
    ("first", "second"),
    list(itertools.product(Stop, Stop)),
    ids=lambda kind: kind.label,
)
#: The grace of the first stop, in seconds.
GRACE = 10.0
#: What a run that is stopped becomes, by the higher of the two kinds.
NOT_BEGUN = {Stop.INTERRUPT: "queued", Stop.SHUTDOWN: "queued", Stop.TIMEOUT: "timed_out", Stop.CANCEL: "cancelled"}
BEGUN = {Stop.INTERRUPT: "preempted", Stop.SHUTDOWN: "cancelled", Stop.TIMEOUT: "timed_out", Stop.CANCEL: "cancelled"}
RESTARTED = BEGUN | {Stop.SHUTDOWN: "queued"}
RESUMED = BEGUN | {Stop.SHUTDOWN: "preempted"}
STUCK = {Stop.INTERRUPT: "cancelled", Stop.SHUTDOWN: "cancelled", Stop.TIMEOUT: "timed_out", Stop.CANCEL: "cancelled"}

#: (state, stop kind, reason)
Outcome = tuple[str, str | None, str | None]


def outcome(ends: Mapping[Stop, str], first: Stop, second: Stop, reason: str | None = None) -> Outcome:
    """What comes of a run that was stopped twice: the kind and the reason are those of the higher, or of the first."""
    higher = max(first, second)
    if ends[higher] in ("queued", "preempted"):
        return ends[higher], None, None  # it has forgotten its stop
    return ends[higher], higher.label, reason or ("second" if second > first else "first")


def told(kit: Opened, run: LiveRun, kind: Stop, reason: str, grace: float = GRACE) -> str:
    return kit.engine.stops.request_stop(run, kind, reason, grace)[0].name.lower()


async def over(kit: Opened, run: LiveRun) -> tuple[Outcome, float]:
    """What came of a run once it does nothing any more, and when, in seconds of the loop's time."""
    kit.engine.seal._enter = lambda run: None  # what is to run again stays where it is
    await until(lambda: run.sealed or (run.state in ("queued", "preempted") and not run.placed))
    at = kit.loop.time()
    await quiet()
    columns = kit.backend.execute("SELECT state, stop, reason FROM run WHERE cid = ?", (run.cid,)).fetchone()
    assert len(columns) == 3
    return columns, at


class Slow:
    """An action whose clean-up takes a second; it notes each cancellation and when it had cleaned up."""

    def __init__(self) -> None:
        self.edges = 0
        self.cleaned: list[float] = []

    async def __call__(self) -> None:
        try:
            await self._noting(anyio.sleep(3600))
        finally:
            await self._noting(anyio.sleep(1))
            self.cleaned.append(anyio.current_time())

    async def _noting(self, wait: Any) -> None:
        try:
            await wait
        except asyncio.CancelledError:
            self.edges += 1
            raise

    def step(self) -> Any:
        async def act() -> None:
            await self()

        return step("a", act)


# -- the rank, at every moment


@asynccontextmanager
async def before_the_first_step(folder: Path, first: Stop, second: Stop) -> AsyncIterator[tuple[Opened, LiveRun]]:
    async with opened(folder, task("t", step("a", works))) as kit:
        execute = kit.engine.dispatcher.execute
        found: list[LiveRun] = []

        async def stopped_at_once(run: LiveRun) -> None:
            found.append(run)
            kit.engine.dispatcher.execute = execute
            for kind, reason in ((first, "first"), (second, "second")):
                told(kit, run, kind, reason)
            await execute(run)

        kit.engine.dispatcher.execute = stopped_at_once
        kit.engine.seal._enter = lambda run: None  # what is to run again stays where it is
        await kit.start("t")
        await until(lambda: found)
        yield kit, found[0]


@asynccontextmanager
async def while_the_start_is_committed(
    folder: Path, first: Stop, second: Stop
) -> AsyncIterator[tuple[Opened, LiveRun]]:
    backend = FaultyBackend()
    async with opened(folder, task("t", step("a", works)), backend=backend) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.row == "running")
        told(kit, run, first, "first")
        told(kit, run, second, "second")
        yield kit, run


@PAIRS
@pytest.mark.parametrize("moment", [before_the_first_step, while_the_start_is_committed], ids=lambda m: m.__name__)
async def test_of_a_run_that_has_not_begun(tmp_path: Path, first: Stop, second: Stop, moment: Any) -> None:
    async with moment(tmp_path, first, second) as (kit, run):
        began = kit.loop.time()
        assert await over(kit, run) == (outcome(NOT_BEGUN, first, second), began)
        assert not any(run.starts.values())
        assert run.attempt == (0 if run.state == "queued" else 1)


@PAIRS
@pytest.mark.parametrize("recovery", Recovery)
@pytest.mark.parametrize("after", [0.0, 0.5], ids=["in the same turn", "in its clean-up"])
async def test_of_a_run_that_cleans_up(
    tmp_path: Path, first: Stop, second: Stop, after: float, recovery: Recovery
) -> None:
    slow = Slow()
    ends = {Recovery.FAIL: BEGUN, Recovery.RESTART: RESTARTED, Recovery.RESUME: RESUMED}[recovery]
    async with opened(tmp_path, task("t", slow.step(), recovery=recovery)) as kit:
        run = await begun(kit)
        began = kit.loop.time()
        assert told(kit, run, first, "first") == "stopping"
        if after:
            await kit.advance(after)
        assert told(kit, run, second, "second") == "stopping"
        assert await over(kit, run) == (outcome(ends, first, second), began + 1)
        assert (slow.edges, slow.cleaned, run.stuck) == (1, [began + 1], False)


@PAIRS
@pytest.mark.parametrize(
    "at",
    [
        pytest.param(GRACE - 0.01, id="just before the pulse"),
        pytest.param(GRACE + PULSE / 2, id="after the pulse"),
        pytest.param(GRACE + PULSE + 1, id="when it is stuck"),
    ],
)
async def test_of_a_run_that_does_not_end(tmp_path: Path, first: Stop, second: Stop, at: float) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await begun(kit)
        began = kit.loop.time()
        told(kit, run, first, "first")
        await kit.advance(at)
        assert told(kit, run, second, "second") == "stopping"
        await kit.advance(began + GRACE + PULSE - kit.loop.time() + 2)
        assert (run.stuck, stubborn.hits) == (True, 2)
        stubborn.free = True
        assert (await over(kit, run))[0] == outcome(STUCK, first, second, "stuck")
        assert stubborn.hits == 2


@PAIRS
async def test_of_a_run_whose_outcome_is_being_committed(tmp_path: Path, first: Stop, second: Stop) -> None:
    backend = FaultyBackend()
    async with opened(tmp_path, task("t", step("a", works)), backend=backend) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.sealed)
        backend.gate = anyio.Event()
        await quiet()
        assert [told(kit, run, first, "first"), told(kit, run, second, "second")] == ["ended", "ended"]
        backend.gate.set()
        await kit.ended(run)
        assert [told(kit, run, first, "first"), told(kit, run, second, "second")] == ["ended", "ended"]
        assert (await over(kit, run))[0] == ("succeeded", None, None)


# -- the deadline


@pytest.mark.parametrize(("first", "second"), [(Stop.CANCEL, Stop.SHUTDOWN), (Stop.INTERRUPT, Stop.CANCEL)], ids=str)
@pytest.mark.parametrize(
    ("at", "grace", "stuck_at"),
    [
        pytest.param(0.0, 20.0, GRACE, id="longer, in the same turn"),
        pytest.param(0.0, 2.0, 2.0, id="shorter, in the same turn"),
        pytest.param(0.0, 0.0, 0.0, id="none, in the same turn"),
        pytest.param(5.0, 20.0, GRACE, id="longer"),
        pytest.param(5.0, 2.0, 7.0, id="shorter"),
        pytest.param(5.0, 0.0, 5.0, id="none"),
        pytest.param(GRACE + PULSE / 2, 0.0, GRACE, id="after the pulse"),
        pytest.param(GRACE + PULSE / 2, 20.0, GRACE, id="longer, after the pulse"),
    ],
)
async def test_grace_of_a_second_stop_only_shortens(
    tmp_path: Path, first: Stop, second: Stop, at: float, grace: float, stuck_at: float
) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await begun(kit)
        began = kit.loop.time()
        told(kit, run, first, "first", GRACE)
        if at:
            await kit.advance(at)
        told(kit, run, second, "second", grace)
        await until(lambda: run.stuck)
        assert kit.loop.time() == pytest.approx(began + stuck_at + PULSE, abs=1e-5)
        assert stubborn.hits == 2
        stubborn.free = True
        await kit.ended(run)


# -- in a handler, which no stop cuts; a shutdown brings its end nearer

#: When the second stop comes, after the first step has ended, and how long the handler takes, in seconds.
AT, TAKES = 1.0, 5.0


@pytest.mark.parametrize("handler", ["finally_", "on_cancel", "on_failure"])
@pytest.mark.parametrize("first", [None, *Stop], ids=lambda kind: kind.label if kind else "no stop")
@pytest.mark.parametrize("second", Stop, ids=lambda kind: kind.label)
async def test_in_a_handler(tmp_path: Path, handler: str, first: Stop | None, second: Stop) -> None:
    log: list[float] = []

    async def tidy() -> None:
        await anyio.sleep(TAKES)
        log.append(anyio.current_time())

    body = works if first is None else forever
    async with opened(tmp_path, task("t", step("a", body), **{handler: [step("z", tidy)]})) as kit:
        run = await kit.begin_run("t")
        if first is not None:
            await until(lambda: run.live)
            told(kit, run, first, "first", GRACE)
        began = kit.loop.time()
        await quiet()
        if "z" not in run.live:  # this handler does not fit the first stop
            assert handler not in _fitting(first)
            return
        assert handler in _fitting(first)
        await kit.advance(AT)
        assert told(kit, run, second, "second", 2.0) == "stopping"
        columns, at = await over(kit, run)
        assert columns[0] == ("succeeded" if first is None else BEGUN[max(first, second)])
        ends = AT + 2.0 - HANDLER_GRACE if second is Stop.SHUTDOWN else TAKES
        assert at == pytest.approx(began + ends)
        assert log == ([] if second is Stop.SHUTDOWN else [pytest.approx(began + TAKES)])
        assert (run.cleanup_error and run.cleanup_error.type) == ("TimeoutError" if second is Stop.SHUTDOWN else None)


def _fitting(first: Stop | None) -> set[str]:
    match first:
        case Stop.CANCEL | Stop.SHUTDOWN:
            return {"on_cancel", "finally_"}
        case Stop.TIMEOUT:
            return {"on_failure", "finally_"}
        case Stop.INTERRUPT:
            return set()
        case None:
            return {"finally_"}


@pytest.mark.parametrize("second", Stop, ids=lambda kind: kind.label)
@pytest.mark.parametrize("first", [None, *Stop], ids=lambda kind: kind.label if kind else "no stop")
async def test_in_on_failure_of_a_plain_failure_which_a_stop_cuts_once(
    tmp_path: Path, first: Stop | None, second: Stop
) -> None:
    slow = Slow()
    async with opened(tmp_path, task("t", step("b", fails), on_failure=[slow.step()])) as kit:
        run = await kit.begin_run("t")
        await until(lambda: "a" in run.live)
        await quiet()
        began = kit.loop.time()
        if first is not None:
            told(kit, run, first, "first")
        told(kit, run, second, "second")
        columns, at = await over(kit, run)
        assert (columns[0], slow.edges, slow.cleaned) == ("failed", 1, [began + 1])
        assert at == began + 1


# -- of the engine and the server


async def test_second_cancel_of_the_engine_with_a_shorter_grace_counts(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act))) as kit:
        run = await begun(kit)
        kit.engine.request_stop("cancel", 3600)
        await quiet()
        kit.engine.request_stop("cancel", 0.05)
        await until(lambda: run.stuck)
        stubborn.free = True
        await kit.ended(run)


async def test_server_stop_while_the_engine_stops_waits_no_longer_than_the_work(tmp_path: Path) -> None:
    log: list[str] = []
    gate = anyio.Event()
    with no_hang():
        async with opened(tmp_path, task("t", step("a", cleaning(log, gate))), grace=60) as kit:
            await begun(kit)
            kit.engine.request_stop("cancel")
            await quiet()
            gate.set()
    assert log == ["clean"]


# -- beside what ends


async def test_timers_of_an_attempt_that_has_ended_are_gone(tmp_path: Path) -> None:
    seen: list[Attempt] = []

    async def act() -> None:
        seen.append(found[0].live["a"])

    found: list[LiveRun] = []
    async with opened(tmp_path, task("t", step("a", act, timeout=60))) as kit:
        await kit.engine.stop("cancel", 0.1)
        await quiet()
        found.append(await kit.begin_run("t"))
        await kit.engine.start()
        await kit.ended(found[0])
        timer = seen[0]._timeout_timer
        assert timer is not None
        assert timer.cancelled()


async def test_stop_of_two_parallel_attempts_keeps_the_first_cleanup_error(tmp_path: Path) -> None:
    first_is_over = anyio.Event()

    def raising(text: str, wait: Any) -> Any:
        async def act() -> None:
            try:
                await anyio.sleep(3600)
            finally:
                await wait()
                first_is_over.set()
                raise OSError(text)

        return act

    steps = [step("a", raising("second", first_is_over.wait)), step("b", raising("first", works))]
    async with opened(tmp_path, task("t", *steps)) as kit:
        run = await begun(kit, 2)
        kit.stop(run, Stop.CANCEL)
        record = await kit.ended(run)
        assert record.cleanup_error is not None
        assert (record.state, record.cleanup_error["message"]) == ("cancelled", "first")


# -- a run that is broken off by a fault of our own


async def test_siblings_of_a_run_that_is_broken_off_are_stopped(tmp_path: Path) -> None:
    gate = anyio.Event()
    log: list[str] = []

    async def gated() -> None:
        await gate.wait()

    def broken(*_: Any, **__: Any) -> Any:
        kit.engine.runtime.hand_over = real  # type: ignore[method-assign]
        raise RuntimeError("injected")

    made = task("t", step("a", gated), step("b", cleaning(log)), step("c", works, ("a",)))
    async with opened(tmp_path, made, faults=1) as kit:
        run = await begun(kit, 2)
        real = kit.engine.runtime.hand_over
        kit.engine.runtime.hand_over = broken  # type: ignore[method-assign]
        gate.set()
        assert ((await kit.ended(run)).state, log) == ("crashed", ["clean"])
