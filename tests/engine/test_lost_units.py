"""A unit that fails by itself: what is in memory goes on from what is on record, and the record tells the truth."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, opened, step, task, until
from tests.fakes.kernel import begun, forever, no_hang, swallowing, works

from aura.errors import RequestError
from aura.stores.memory import MemoryBackend


def refusing(when: str, times: int = 1) -> MemoryBackend:
    """A store in which a row of a step is refused so many times while ``when`` holds, by the database itself."""
    backend = MemoryBackend()
    backend.execute("CREATE TEMP TABLE refusal (left INTEGER)")
    left = [times]

    def refuse(wanted: int) -> int:
        left[0] -= bool(wanted)
        return bool(wanted) and left[0] >= -1  # once in the batch, and once in its replay

    backend.connection.create_function("refuse", 1, refuse)
    backend.execute(
        f"CREATE TRIGGER refused BEFORE INSERT ON step WHEN refuse({when}) BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    return backend


async def states(kit: Opened, cid: str) -> dict[str, str]:
    return {name: found.state for name, found in (await kit.steps(cid)).items()}


async def test_finish_that_is_lost_beside_a_running_step_is_written_with_the_next_unit(tmp_path: Path) -> None:
    async def later() -> None:
        await anyio.sleep(60)

    backend = refusing("NEW.name = 'a' AND NEW.state = 'succeeded'")
    made = task("t", step("a", works), step("b", later))
    async with opened(tmp_path, made, backend=backend, faults=1) as kit:
        record = await kit.record("t")
        assert record.state == "succeeded"
        assert await states(kit, record.cid) == {"a": "succeeded", "b": "succeeded"}
        assert (await kit.history(record.cid)).count("step.succeeded a") == 1


async def test_finish_that_is_lost_with_the_next_start_is_on_record_in_the_end(tmp_path: Path) -> None:
    backend = refusing("NEW.name = 'b' AND NEW.state = 'running'")
    made = task("t", step("a", works), step("b", works, ("a",)))
    async with opened(tmp_path, made, backend=backend, faults=2) as kit:
        record = await kit.record("t")
        assert (record.state, record.reason) == ("crashed", "fault")
        assert (await states(kit, record.cid))["a"] == "succeeded"


async def test_run_whose_start_is_lost_ends_as_crashed_and_says_so(tmp_path: Path) -> None:
    backend = refusing("NEW.state = 'running'")
    async with opened(tmp_path, task("t", step("a", works)), backend=backend, faults=2) as kit:
        record = await kit.record("t")
        assert (record.state, record.reason) == ("crashed", "fault")
        with pytest.raises(RequestError) as refused:
            await kit.engine.cancel(record.cid)
        assert refused.value.code == "ended"
        history = await kit.history(record.cid)
        assert (history[0], history[-1], "run.started" in history) == ("run.accepted", "run.crashed", False)


@pytest.mark.parametrize("let_go", [True, False], ids=["ends later", "outlives the server"])
async def test_body_that_hangs_beside_a_run_that_is_broken_off_is_counted(tmp_path: Path, let_go: bool) -> None:
    stubborn, act = swallowing()
    backend = refusing("NEW.name = 'c' AND NEW.state = 'running'")
    made = task("t", step("a", act), step("b", works), step("c", works, ("b",)), cleanup_timeout=1.0)
    async with opened(tmp_path, made, backend=backend, faults=2) as kit:
        kit.server._leave = lambda code: (kit.left.append(code), setattr(stubborn, "free", True))[0]  # type: ignore[func-returns-value]
        run = await kit.begin_run("t")
        await until(lambda: run.stuck)
        await kit.advance(5)
        lane = kit.engine.dispatcher.lanes["main"]
        assert (run.sealed, len(lane.placed), len(lane.stuck)) == (False, 0, 1)
        if let_go:
            stubborn.free = True
            await kit.ended(run)
            assert not lane.stuck
    row = backend.execute("SELECT state, reason FROM run").fetchone()
    assert (row, kit.left[:1]) == (("crashed", "fault"), [] if let_go else [70])


async def test_two_cancels_of_the_engine_in_one_turn_leave_the_shorter_grace(tmp_path: Path) -> None:
    stubborn, act = swallowing()
    async with opened(tmp_path, task("t", step("a", act)), grace=60) as kit:
        run = await begun(kit)
        kit.engine.request_stop("cancel", 30)
        kit.engine.request_stop("cancel", 1)
        with no_hang(2):
            await until(lambda: run.stuck)
        stubborn.free = True


# -- a cancel by a stranger, of children that are none of theirs


def cancels(*names: str) -> Callable[[], Any]:
    """An action that cancels children of the server's, as a snippet does that cancels all that it finds."""

    async def act() -> None:
        for child in asyncio.all_tasks():
            if child.get_name() in names:
                child.cancel()

    return act


@pytest.mark.parametrize("name", ["dispatcher", "log writer"])
async def test_service_that_plan_code_cancels_heals(tmp_path: Path, name: str) -> None:
    made = (task("t", step("a", cancels(name))), task("u", step("b", forever)))
    async with opened(tmp_path, *made) as kit:
        other = await kit.begin_run("u")
        await until(lambda: other.live)
        assert (await kit.run("t")).state == "succeeded"
        assert kit.engine.state == "degraded"
        await kit.advance(2)
        assert (kit.engine.state, kit.engine.status()["services"][name]["failures"]) == ("running", 1)
        assert other.live


async def test_store_that_plan_code_cancels_ends_the_process_and_says_so(tmp_path: Path) -> None:
    class Left(Exception):
        """The process has ended."""

    def leave(code: int) -> None:
        raise Left(code)

    async def body() -> None:
        async with opened(tmp_path, task("t", step("a", cancels("store")))) as kit:
            kit.server._leave = leave
            await kit.begin_run("t")
            await anyio.sleep(60)

    with pytest.RaisesGroup(pytest.RaisesExc(Left, match="74"), allow_unwrapped=True, flatten_subgroups=True):
        await body()
