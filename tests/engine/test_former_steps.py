"""What became of steps that began in an earlier start of a run that ends without them."""

from pathlib import Path

from tests.engine.kit import opened, step, task, until
from tests.fakes.kernel import begun, copy_of, forever

from aura.lifecycle import Recovery, Stop
from aura.stores.memory import MemoryBackend


async def test_steps_of_a_run_that_is_cancelled_before_it_starts_over_end_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever), recovery=Recovery.RESTART)) as kit:
        run = await begun(kit)
        await kit.engine.stop("cancel", 0.2)
        kit.stop(run, Stop.CANCEL)
        assert (await kit.ended(run)).state == "cancelled"
        assert {name: s.state for name, s in (await kit.steps(run)).items()} == {"a": "cancelled"}


async def test_steps_of_a_run_that_a_crash_put_back_end_with_it(tmp_path: Path) -> None:
    made = task("t", step("a", forever), recovery=Recovery.RESTART)
    store = MemoryBackend()
    async with opened(tmp_path, made, backend=store) as kit:
        run = await begun(kit)
        left = copy_of(store)
        kit.stop(run, Stop.CANCEL)
        await kit.ended(run)
    async with opened(tmp_path, made, backend=left, lanes={"main": 0}) as kit:
        again = kit.engine.runtime.open[run.cid]
        kit.stop(again, Stop.CANCEL)
        assert (await kit.ended(again)).state == "cancelled"
        assert {name: s.state for name, s in (await kit.steps(again)).items()} == {"a": "cancelled"}


async def test_steps_of_the_present_start_are_recorded_as_they_ended(tmp_path: Path) -> None:
    tries: list[int] = []

    async def act() -> None:
        tries.append(1)
        if len(tries) == 1:
            await forever()

    async with opened(tmp_path, task("t", step("a", act), recovery=Recovery.RESTART)) as kit:
        run = await begun(kit)
        await kit.engine.stop("cancel", 0.2)
        await kit.engine.start()
        assert (await kit.ended(run)).state == "succeeded"
        assert {name: s.state for name, s in (await kit.steps(run)).items()} == {"a": "succeeded"}


async def test_step_whose_start_was_taken_back_ends_with_its_run(tmp_path: Path) -> None:
    async with opened(tmp_path, task("t", step("a", forever))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: run.row == "running")  # the start is handed over, and its body has not begun
        kit.stop(run, Stop.SHUTDOWN)
        await until(lambda: run.row == "queued")
        await kit.engine.stop("cancel", 0.2)
        kit.stop(run, Stop.CANCEL)
        assert (await kit.ended(run)).state == "cancelled"
        assert {name: s.state for name, s in (await kit.steps(run)).items()} == {"a": "cancelled"}
