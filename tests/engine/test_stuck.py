"""What does not end when told to: one edge, a grace, one pulse, then stuck; and what becomes of it when it does end."""

import asyncio
import linecache
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from tests.engine.kit import Opened, opened, quiet, step, task, until, virtual_loop
from tests.fakes.kernel import begun, noting, works

from aura.context import Context
from aura.errors import ContextClosed
from aura.lifecycle import Stop
from aura.runs.attempt import PULSE
from aura.runs.liverun import LiveRun
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import ThreadGate

GRACE = 5.0
#: Seconds after which what swallows ends by itself, so that a test that fails does not hang.
LET_GO = 2000.0


class Hang:
    """What an action that hangs shares with its test: how to let it go, and what it has met."""

    def __init__(self) -> None:
        self.free = False
        self.event = anyio.Event()
        self.gate = ThreadGate()
        self.hits = 0
        self.ctx: Context | None = None

    def let_go(self) -> None:
        self.free = True
        self.event.set()
        self.gate.open()

    async def swallow(self) -> None:
        """Wait in small steps until let go, whatever comes."""
        limit = anyio.current_time() + LET_GO
        while not self.free and anyio.current_time() < limit:
            try:
                await anyio.sleep(1)  # HERE: swallows
            except asyncio.CancelledError:
                self.hits += 1

    async def edge(self) -> None:
        """Wait for the edge."""
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            self.hits += 1
            raise


async def swallows(hang: Hang) -> None:
    await hang.swallow()


async def spins(hang: Hang) -> None:
    loop = virtual_loop()
    limit = loop.time() + LET_GO
    while not hang.free and loop.time() < limit:
        loop.jump(0.001)  # a turn of the loop takes time
        try:
            await asyncio.sleep(0)  # HERE: spins
        except asyncio.CancelledError:
            hang.hits += 1


async def cleans_up_in_a_shield(hang: Hang) -> None:
    try:
        await hang.edge()
    finally:
        with anyio.CancelScope(shield=True):
            await hang.event.wait()  # HERE: cleans_up_in_a_shield


async def cleans_up_in_a_group(hang: Hang) -> None:
    async def child() -> None:
        with anyio.CancelScope(shield=True):
            await hang.event.wait()

    try:
        await hang.edge()
    finally:
        async with anyio.create_task_group() as group:  # HERE: cleans_up_in_a_group
            group.start_soon(child)


async def waits_for_a_child_that_swallows(hang: Hang) -> None:
    async with asyncio.TaskGroup() as group:  # HERE: waits_for_a_child_that_swallows
        group.create_task(hang.swallow())


async def waits_for_a_thread(hang: Hang) -> None:
    await to_thread.run_sync(hang.gate.wait)  # HERE: waits_for_a_thread


def blocks_a_thread(hang: Hang) -> str:
    hang.gate.wait()  # HERE: blocks_a_thread
    return "late"


#: Each with the cancellations that it notes: the edge and the pulse, if they can reach it.
HANGING: dict[Callable[[Hang], Any], int] = {
    swallows: 2,
    spins: 2,
    cleans_up_in_a_shield: 1,
    cleans_up_in_a_group: 1,
    waits_for_a_child_that_swallows: 1,
    waits_for_a_thread: 0,
    blocks_a_thread: 0,
}
EVERY_HANG = pytest.mark.parametrize(("body", "hits"), HANGING.items(), ids=lambda v: getattr(v, "__name__", ""))


def action_of(body: Any, hang: Hang) -> Any:
    """The action of a body, async or not."""

    async def act(ctx: Context) -> Any:
        hang.ctx = ctx
        return await body(hang)

    def act_in_thread(ctx: Context) -> Any:
        hang.ctx = ctx
        return body(hang)

    return act if asyncio.iscoroutinefunction(body) else act_in_thread


async def hanging(kit: Opened, hang: Hang) -> LiveRun:
    """A run of task t that has begun to hang, or to wait for its edge."""
    run = await kit.begin_run("t")
    await until(lambda: hang.ctx is not None and all(a.edge._task for a in run.live.values()))
    await quiet()
    return run


async def stuck_logs(kit: Opened) -> list[dict[str, Any]]:
    records = [entry.record() for entry in await kit.engine.history.log_entries(level=40)]
    return [record for record in records if "is stuck" in record["message"]]


@EVERY_HANG
async def test_edge_grace_pulse_stuck_and_the_record_when_it_ends(tmp_path: Path, body: Any, hits: int) -> None:
    hang, log = Hang(), list[str]()
    made = task("t", step("a", action_of(body, hang)), step("b", noting(log, "b"), ("a",)))
    async with opened(tmp_path, made, task("u", step("c", works)), lanes={"main": 1}) as kit:
        run = await kit.begin_run("t")
        await until(lambda: hang.ctx is not None)
        began = kit.loop.time()
        kit.stop(run, Stop.CANCEL, grace=GRACE)
        await until(lambda: run.stuck)
        assert kit.loop.time() == pytest.approx(began + GRACE + PULSE, abs=0.3 if hang.gate.waiting else 0.01)
        assert (await kit.run("u")).state == "succeeded"  # its place came back
        assert kit.engine.status()["lanes"]["main"]["stuck"] == 1
        detail = await kit.engine.history.get_run(run.cid)
        assert (detail.record.state, detail.record.stuck) == ("stopping", True)
        assert hang.ctx is not None
        with pytest.raises(ContextClosed):
            hang.ctx.log.info("too late")
        hang.let_go()
        record = await kit.ended(run)
        assert (record.state, record.reason, record.cleanup_error, log) == ("cancelled", "stuck", None, [])
        assert hang.hits == hits
        assert {s.state for s in (await kit.steps(run)).values()} == {"cancelled"}
        assert kit.engine.status()["lanes"]["main"]["stuck"] == 0
        [told] = await stuck_logs(kit)
        file, line = told["fields"]["hangs_at"].rsplit(":", 1)
        assert (file, linecache.getline(file, int(line)).rpartition("# HERE: ")[2].strip()) == (__file__, body.__name__)


@pytest.mark.parametrize("error", [None, OSError("late"), asyncio.CancelledError()], ids=["value", "error", "cancel"])
@pytest.mark.parametrize("kind", Stop, ids=lambda kind: kind.label)
async def test_whatever_a_stuck_body_comes_to_later_changes_nothing(
    tmp_path: Path, kind: Stop, error: BaseException | None
) -> None:
    hang, log = Hang(), list[str]()

    async def body(hang: Hang) -> str:
        await hang.swallow()
        if error is not None:
            raise error
        return "late"

    steps = [step("a", action_of(body, hang)), step("b", noting(log, "b"), ("a",))]
    made = task("t", *steps, finally_=[step("z", noting(log, "z"))], returns="{{ steps.a.output }}")
    async with opened(tmp_path, made) as kit:
        run = await hanging(kit, hang)
        kit.stop(run, kind, grace=GRACE)
        await until(lambda: run.stuck)
        await kit.advance(1000)
        assert (run.state, log) == ("stopping", [])
        hang.let_go()
        record = await kit.ended(run)
        assert record.state == ("timed_out" if kind is Stop.TIMEOUT else "cancelled")
        assert (record.stop, record.reason, record.result) == (kind.label, "stuck", None)
        in_time = kind is not Stop.SHUTDOWN  # whose grace was that of the clean-up steps as well
        assert log == (["z"] if in_time else [])
        expected = "OSError" if isinstance(error, OSError) else None if in_time else "cleanup_timeout"
        assert (record.cleanup_error and record.cleanup_error["type"]) == expected
        assert kit.backend.execute("SELECT state, output FROM step WHERE name = 'a'").fetchone() == ("cancelled", None)


async def test_thread_of_a_stuck_attempt_is_refused_by_its_context(tmp_path: Path) -> None:
    hang, late = Hang(), list[str]()

    def blocked(ctx: Context) -> None:
        hang.ctx = ctx
        hang.gate.wait()
        for use in (lambda: ctx.log.info("too late"), lambda: ctx.progress(1), lambda: ctx.workdir):
            try:
                use()
            except Exception as error:
                late.append(type(error).__name__)

    async with opened(tmp_path, task("t", step("a", blocked))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: hang.gate.waiting)
        kit.stop(run, Stop.CANCEL, grace=GRACE)
        await until(lambda: run.stuck)
        hang.let_go()
        record = await kit.ended(run)
        assert (record.state, record.reason, late) == ("cancelled", "stuck", ["ContextClosed"] * 3)


# -- what ends just in time


@pytest.mark.parametrize(
    ("takes", "stuck"),
    [pytest.param(0.0, False, id="at once"), pytest.param(PULSE / 2, False, id="soon"), (PULSE * 2, True)],
)
async def test_clean_up_that_ends_on_the_pulse(tmp_path: Path, takes: float, stuck: bool) -> None:
    async def body(hang: Hang) -> None:
        try:
            await hang.edge()
        finally:
            try:
                await hang.edge()
            finally:
                if takes:
                    await anyio.sleep(takes)

    hang = Hang()
    async with opened(tmp_path, task("t", step("a", action_of(body, hang)))) as kit:
        run = await hanging(kit, hang)
        began = kit.loop.time()
        kit.stop(run, Stop.CANCEL, grace=GRACE)
        record = await kit.ended(run)
        assert kit.loop.time() == pytest.approx(began + GRACE + takes, abs=1e-5)
        assert (record.state, record.reason, hang.hits) == ("cancelled", "stuck" if stuck else "cancel", 2)
        assert len(await stuck_logs(kit)) == stuck


@pytest.mark.parametrize("hits", [1, 2], ids=["once", "the pulse too"])
@pytest.mark.parametrize(
    ("then", "state", "cleanup_error"),
    [("return", "succeeded", None), ("raise", "cancelled", "own")],
    ids=["then returns", "then raises"],
)
async def test_action_that_swallows_and_ends_within_its_time(
    tmp_path: Path, hits: int, then: str, state: str, cleanup_error: str | None
) -> None:
    async def body(hang: Hang) -> None:
        while hang.hits < hits:
            try:
                await anyio.sleep(1)
            except asyncio.CancelledError:
                hang.hits += 1
        if then == "raise":
            raise OSError("own")

    hang = Hang()
    async with opened(tmp_path, task("t", step("a", action_of(body, hang)))) as kit:
        run = await hanging(kit, hang)
        began = kit.loop.time()
        kit.stop(run, Stop.CANCEL, grace=GRACE)
        record = await kit.ended(run)
        assert (record.state, run.stuck) == (state, False)
        assert (record.cleanup_error and record.cleanup_error["message"]) == cleanup_error
        assert kit.loop.time() == pytest.approx(began + (GRACE if hits == 2 else 0), abs=1e-5)


@pytest.mark.parametrize("blocked", [GRACE / 2, GRACE * 2], ids=["within the grace", "beyond the grace"])
async def test_action_that_blocks_the_loop_for_a_moment_is_not_stuck(tmp_path: Path, blocked: float) -> None:
    async def body(hang: Hang) -> None:
        try:
            await hang.edge()
        finally:
            virtual_loop().jump(blocked)  # all that the loop sees of a call that blocks it

    hang = Hang()
    async with opened(tmp_path, task("t", step("a", action_of(body, hang)))) as kit:
        run = await hanging(kit, hang)
        kit.stop(run, Stop.CANCEL, grace=GRACE)
        record = await kit.ended(run)
        assert (record.state, record.reason, run.stuck, hang.hits) == ("cancelled", "cancel", False, 1)


async def test_clean_up_of_another_run_while_the_loop_was_blocked(tmp_path: Path) -> None:
    async def cleans_up(hang: Hang) -> None:
        try:
            await hang.edge()
        finally:
            await hang.edge()

    hang, blocker = Hang(), Hang()

    async def blocks() -> None:
        await blocker.event.wait()
        virtual_loop().jump(GRACE - 1)

    made = [task("t", step("a", action_of(cleans_up, hang))), task("u", step("b", blocks))]
    async with opened(tmp_path, *made) as kit:
        run = await hanging(kit, hang)
        other = await kit.begin_run("u")
        await quiet()
        began = kit.loop.time()
        kit.stop(run, Stop.CANCEL, grace=GRACE)
        blocker.event.set()
        assert (await kit.ended(other)).state == "succeeded"
        assert (await kit.ended(run)).state == "cancelled"
        assert kit.loop.time() == pytest.approx(began + GRACE, abs=1e-5)


# -- places, parallel steps, handlers


@pytest.mark.parametrize(("max_stuck", "second"), [(1, "succeeded"), (0, "queued")], ids=["given back", "kept"])
async def test_place_of_a_stuck_run_comes_back_up_to_max_stuck(tmp_path: Path, max_stuck: int, second: str) -> None:
    hang = Hang()
    made = [task("t", step("a", action_of(swallows, hang))), task("u", step("b", works))]
    async with opened(tmp_path, *made, lanes={"main": 1}, max_stuck=max_stuck) as kit:
        run = await hanging(kit, hang)
        kit.stop(run, Stop.CANCEL, grace=GRACE)
        await until(lambda: run.stuck)
        other = await kit.begin_run("u")
        await quiet()
        assert other.state == second
        hang.let_go()
        assert (await kit.ended(other)).state == "succeeded"


async def test_two_stuck_attempts_of_a_run_take_one_place_and_a_line_each(tmp_path: Path) -> None:
    hangs = [Hang(), Hang(), Hang()]
    steps = [step(name, action_of(swallows, hang)) for name, hang in zip("abc", hangs, strict=True)]
    async with opened(tmp_path, task("t", *steps), task("u", step("d", works)), lanes={"main": 1}) as kit:
        run = await begun(kit, 3)
        kit.stop(run, Stop.CANCEL, grace=GRACE)
        await kit.advance(GRACE - 1)
        hangs[2].let_go()
        await until(lambda: run.stuck)
        await quiet()
        assert kit.engine.status()["lanes"]["main"]["stuck"] == 1
        assert sorted(log["message"].split("step ")[1][0] for log in await stuck_logs(kit)) == ["a", "b"]
        hangs[0].let_go()
        await kit.advance(1000)
        assert run.state == "stopping"
        hangs[1].let_go()
        record = await kit.ended(run)
        assert (record.state, record.reason) == ("cancelled", "stuck")
        assert {n: s.state for n, s in (await kit.steps(run)).items()} == {
            "a": "cancelled",
            "b": "cancelled",
            "c": "succeeded",
        }


async def test_step_that_outlives_its_own_timeout_makes_its_run_stuck(tmp_path: Path) -> None:
    hang, log = Hang(), list[str]()
    first = step("x", action_of(swallows, hang), timeout=1, retry={"attempts": 3})
    made = task("t", first, step("b", noting(log, "b"), ("x",)), cleanup_timeout=GRACE)
    async with opened(tmp_path, made) as kit:
        began = kit.loop.time()
        run = await hanging(kit, hang)
        await until(lambda: run.stuck)
        assert kit.loop.time() == pytest.approx(began + 1 + GRACE + PULSE, abs=1e-5)
        await kit.advance(1000)
        hang.let_go()
        record = await kit.ended(run)
        assert (record.state, record.stop, record.reason, log, hang.hits) == ("cancelled", "cancel", "stuck", [], 2)


async def test_handlers_later_steps_after_a_stuck_one_do_not_run(tmp_path: Path) -> None:
    hang, log = Hang(), list[str]()
    later = [step("y", action_of(swallows, hang)), step("z", noting(log, "z"), ("y",))]
    async with opened(tmp_path, task("t", step("a", works), finally_=later, cleanup_timeout=GRACE)) as kit:
        run = await hanging(kit, hang)
        await until(lambda: run.stuck)
        hang.let_go()
        record = await kit.ended(run)
        assert record.cleanup_error is not None
        assert (record.state, record.cleanup_error["type"], log) == ("succeeded", "stuck", [])


# -- the end of the server


@EVERY_HANG
async def test_end_of_the_server_gives_it_its_record(tmp_path: Path, body: Any, hits: int) -> None:
    hang = Hang()
    backend = MemoryBackend()
    left: list[int] = []

    def leave(code: int) -> None:
        left.append(code)
        hang.let_go()

    made = task("t", step("a", action_of(body, hang)), finally_=[step("z", works)])
    async with opened(tmp_path, made, backend=backend, grace=GRACE) as kit:
        kit.server._leave = leave
        await kit.begin_run("t")
        await until(lambda: hang.ctx is not None)
    assert left[0] == 70
    row = backend.execute("SELECT state, stop, reason, cleanup_error FROM run").fetchone()
    assert row[:3] == ("cancelled", "shutdown", "stuck")
    assert b"not_run" in row[3]
    assert backend.execute("SELECT count(*) FROM run").fetchone() == (1,)
    assert backend.execute("SELECT name FROM step WHERE name = 'z'").fetchone() is None
