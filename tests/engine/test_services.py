"""Services: opened once for all who need them, closed when nobody can, and every tie between."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import Opened, PythonGeneration, PythonGenerations, opened, quiet, step, task, turns, until
from tests.fakes.kernel import LET_GO, no_hang

from aura import Context, service
from aura.lifecycle import Recovery, Stop
from aura.servicedef import OPEN_TIMEOUT


class Camera:
    """What a service of these tests yields: its number, and what happened to it and to others."""

    def __init__(self, log: list[str], name: str = "camera") -> None:
        self.name = f"{name}{sum(line.startswith(f'open {name}') for line in log) + 1}"
        log.append(f"open {self.name}")


def camera_of(log: list[str], **mark: Any) -> Callable[..., Any]:
    """A service that opens and closes at once, and says so."""

    @service(**mark)
    async def camera() -> AsyncIterator[Camera]:
        made = Camera(log)
        yield made
        log.append(f"close {made.name}")

    return camera


async def snap(camera: Camera) -> str:
    return camera.name


async def hold(camera: Camera) -> str:
    await anyio.sleep(100)
    return camera.name


def plans(*services: Callable[..., Any], **tasks: Any) -> PythonGenerations:
    """A plan with these services, and a task of one step for each function."""
    made = {"t": snap, **tasks}
    return PythonGenerations(*(task(name, step(f"{name}1", does)) for name, does in made.items()), services=services)


def replaced(kit: Opened, *services: Callable[..., Any], hash: str = "g2") -> None:
    """Serve the same tasks as a new generation with these services."""
    generations: Any = kit.engine.generations
    generations.now = PythonGeneration({"t": task("t", step("t1", snap))} if services else {}, hash, services)
    kit.engine.runtime.services.reload()


def status(kit: Opened) -> tuple[int, int]:
    """How many services are open, and how many are stuck."""
    found = kit.engine.status()["plan_services"]
    return found["open"], found["stuck"]


async def output(kit: Opened, name: str = "t") -> Any:
    """What the one step of a task gave."""
    run = await kit.run(name)
    assert run.state == "succeeded", run.explain()
    return run.steps[f"{name}1"].output


# -- opening


async def test_service_is_opened_at_first_use_and_closed_with_the_server(tmp_path: Path) -> None:
    log: list[str] = []
    async with opened(tmp_path, generations=plans(camera_of(log))) as kit:
        await quiet()
        assert (log, status(kit)) == ([], (0, 0))
        assert [await output(kit), await output(kit)] == ["camera1", "camera1"]
        assert (log, status(kit)) == (["open camera1"], (1, 0))
    assert log == ["open camera1", "close camera1"]


async def test_parallel_steps_share_one_opening(tmp_path: Path) -> None:
    log: list[str] = []

    @service
    async def camera() -> AsyncIterator[Camera]:
        await anyio.sleep(1)
        yield Camera(log)

    many = task("many", *(step(f"s{n}", snap) for n in range(100)))
    async with opened(tmp_path, generations=PythonGenerations(many, services=[camera])) as kit:
        run = await kit.run("many")
        assert {one.output for one in run.steps.values()} == {"camera1"}
        assert log == ["open camera1"]


async def test_thread_takes_a_service(tmp_path: Path) -> None:
    def shoot(camera: Camera) -> str:
        return camera.name

    async with opened(tmp_path, generations=plans(camera_of([]), shoot=shoot)) as kit:
        assert await output(kit, "shoot") == "camera1"


async def test_stop_of_one_that_waits_leaves_the_opening_to_the_others(tmp_path: Path) -> None:
    log: list[str] = []

    @service
    async def camera() -> AsyncIterator[Camera]:
        await anyio.sleep(10)
        yield Camera(log)

    async with opened(tmp_path, generations=plans(camera)) as kit:
        first = await kit.begin_run("t")
        second = await kit.begin_run("t")
        await kit.advance(5)
        kit.stop(first, Stop.CANCEL)
        assert (await kit.ended(first)).state == "cancelled"
        assert (await kit.ended(second)).state == "succeeded"
        assert log == ["open camera1"]


async def test_opening_that_nobody_waits_for_is_broken_off_and_cleans_up(tmp_path: Path) -> None:
    log: list[str] = []

    @service
    async def camera() -> AsyncIterator[Camera]:
        log.append("begins")
        try:
            await anyio.sleep(10 if log == ["begins"] else 0)
        finally:
            await anyio.sleep(1)  # its clean-up is not cut
            log.append("cleaned")
        yield Camera(log)

    async with opened(tmp_path, generations=plans(camera)) as kit:
        runs = [await kit.begin_run("t"), await kit.begin_run("t")]
        await quiet()
        for run in runs:
            kit.stop(run, Stop.CANCEL)
            await kit.ended(run)
        assert await output(kit) == "camera1"  # waits for the end of the clean-up, then opens anew
        assert log == ["begins", "cleaned", "begins", "cleaned", "open camera1"]


@pytest.mark.parametrize("count", range(12))
async def test_stop_at_every_turn_of_an_opening_leaves_nothing(tmp_path: Path, count: int) -> None:
    log: list[str] = []

    @service
    async def camera() -> AsyncIterator[Camera]:
        log.append("begins")
        try:
            await turns(3)
            yield Camera(log)
        finally:
            await turns(1)  # its clean-up is not cut
            log.append("over")

    async with opened(tmp_path, generations=plans(camera, hold=hold)) as kit:
        run = await kit.begin_run("hold")
        await turns(count)
        kit.stop(run, Stop.CANCEL)
        await kit.ended(run)
        await quiet()
        assert await output(kit) == f"camera{1 + ('open camera1' in log[:-2] and 'over' in log[:-1])}"
    assert log.count("begins") == log.count("over")


@pytest.mark.parametrize("count", range(12))
async def test_close_at_every_turn_of_an_opening_leaves_nothing(tmp_path: Path, count: int) -> None:
    log: list[str] = []

    @service
    async def camera() -> AsyncIterator[Camera]:
        log.append("begins")
        try:
            await turns(3)
            yield Camera(log)
        finally:
            await turns(1)  # its clean-up is not cut
            log.append("over")

    async with opened(tmp_path, generations=plans(camera)) as kit:
        run = await kit.begin_run("t")
        await turns(count)
        await kit.engine.runtime.services.close(anyio.current_time() + 1)
        assert log.count("begins") == log.count("over")
        record = await kit.ended(run)
        assert record.state == "succeeded" or (record.error or {})["type"] == "ServiceFailed"


async def test_step_times_out_by_itself_while_a_service_opens(tmp_path: Path) -> None:
    @service
    async def camera() -> AsyncIterator[None]:
        await anyio.sleep(20)
        yield None

    made = task("t", step("t1", snap, timeout=5))
    async with opened(tmp_path, generations=PythonGenerations(made, services=[camera])) as kit:
        run = await kit.run("t")
        assert (run.error or {})["type"] == "TimeoutError"
        assert status(kit) == (0, 0)


async def test_opening_that_takes_too_long_fails_all_who_wait(tmp_path: Path) -> None:
    @service
    async def camera() -> AsyncIterator[None]:
        await anyio.sleep(1000)
        yield None

    async with opened(tmp_path, generations=plans(camera)) as kit:
        began = anyio.current_time()
        run = await kit.run("t")
        assert anyio.current_time() - began == pytest.approx(OPEN_TIMEOUT)
        message = "service camera of plan p was not open after 30 s"
        assert run.error is not None
        assert (run.error["type"], run.error["message"]) == ("TimeoutError", message)


async def test_failure_to_open_fails_the_step_as_what_it_is_and_a_retry_opens_anew(tmp_path: Path) -> None:
    log: list[str] = []

    @service
    async def camera() -> AsyncIterator[Camera]:
        log.append("begins")
        if len(log) < 3:
            raise ConnectionRefusedError("no camera")
        yield Camera(log)

    again = task("again", step("a", snap, retry={"attempts": 2, "errors": frozenset({"OSError"})}))
    once = task("once", step("a", snap))
    async with opened(tmp_path, generations=PythonGenerations(again, once, services=[camera])) as kit:
        run = await kit.run("once")
        assert run.error is not None
        assert run.error["type"] == "ConnectionRefusedError"
        assert run.error["message"] == "no camera; service camera of plan p could not be opened"
        assert run.error["file"] == __file__
        assert (await kit.run("again")).state == "succeeded"
        assert log == ["begins"] * 3 + ["open camera1"]


async def never_yields() -> AsyncIterator[Camera]:
    if not __file__:
        yield Camera([])


async def cancels_itself() -> AsyncIterator[Camera]:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    await anyio.sleep(1)
    yield Camera([])


async def exits() -> AsyncIterator[Camera]:
    raise SystemExit(3)
    yield


class Unspeakable(Exception):
    """Nothing can be said of it."""

    __notes__ = 7  # type: ignore[assignment]  # it is wrong, and so is what it stands for

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


async def unspeakable() -> AsyncIterator[Camera]:
    raise Unspeakable
    yield


@pytest.mark.parametrize(
    ("opens", "kind", "message"),
    [
        pytest.param(unspeakable, "Unspeakable", "whose text cannot be had", id="unspeakable"),
        pytest.param(never_yields, "ServiceFailed", "ended without yielding anything", id="never-yields"),
        pytest.param(cancels_itself, "stray_cancellation", "was cancelled by its own code", id="cancels-itself"),
        pytest.param(exits, "SystemExit", "service camera of plan p could not be opened", id="exits"),
    ],
)
async def test_odd_opening_fails_the_step_and_nothing_else(
    tmp_path: Path, opens: Callable[[], AsyncIterator[Camera]], kind: str, message: str
) -> None:
    @service
    async def camera() -> AsyncIterator[Camera]:
        async for made in opens():
            yield made

    async with opened(tmp_path, generations=plans(camera), faults=0) as kit:
        error = (await kit.run("t")).error or {}
        assert error["type"] == kind
        assert message in error["message"]
        assert status(kit) == (0, 0)


async def test_context_manager_is_a_service_as_well(tmp_path: Path) -> None:
    log: list[str] = []

    @service
    @asynccontextmanager
    async def camera() -> AsyncIterator[Camera]:
        yield Camera(log)
        log.append("close")

    async with opened(tmp_path, generations=plans(camera)) as kit:
        assert await output(kit) == "camera1"
    assert log == ["open camera1", "close"]


async def test_opening_that_swallows_its_end_hands_nothing_over(tmp_path: Path) -> None:
    log: list[str] = []

    @service(open_timeout=5)
    async def camera() -> AsyncIterator[Camera]:
        try:
            await anyio.sleep(10)
        except asyncio.CancelledError:
            log.append("told")
        yield Camera(log)
        log.append("close")

    async with opened(tmp_path, generations=plans(camera)) as kit:
        run = await kit.run("t")
        assert run.state == "failed"
        await quiet()
        assert (log, status(kit)) == (["told", "open camera1", "close"], (0, 0))


async def test_nothing_is_opened_once_the_server_closes_all(tmp_path: Path) -> None:
    log: list[str] = []
    async with opened(tmp_path, generations=plans(camera_of(log))) as kit:
        await kit.engine.runtime.services.close(anyio.current_time() + 1)
        error = (await kit.run("t")).error or {}
        assert (error["type"], log) == ("ServiceFailed", [])


# -- its ctx


async def test_ctx_of_a_service_has_its_plan_and_no_run(tmp_path: Path) -> None:
    said: list[str] = []
    kept: list[Context] = []

    @service
    async def camera(ctx: Context) -> AsyncIterator[Camera]:
        kept.append(ctx)
        ctx.log.info("opened")
        for name in ("cid", "step", "attempt", "workdir", "stopping_because"):
            with pytest.raises(Exception, match=f"ctx.{name}: a service is part of no run"):
                getattr(ctx, name)
        with pytest.raises(Exception, match=r"ctx\.run_task: a service is part of no run"):
            await ctx.run("t")
        said.append(f"{ctx.plan_name} {dict(ctx.vars)} {ctx.process_environment['AURA_BOOT']}")
        yield Camera([])

    async with opened(tmp_path, generations=plans(camera)) as kit:
        assert await output(kit) == "camera1"
        assert said == [f"p {{}} {kit.engine.runtime.boot_tag}"]
        lines = [entry.record() for entry in await kit.engine.history.log_entries(limit=100)]
        line = next(line for line in lines if line["message"] == "opened")
        assert (line["plan_name"], line["cid"], line["fields"]) == ("p", None, {"service": "camera"})
    with pytest.raises(Exception, match="used after that had ended"):
        _ = kept[0].log


# -- breaking


async def test_service_that_ends_by_itself_is_opened_anew_and_its_users_go_on(tmp_path: Path) -> None:
    log: list[str] = []

    @service
    async def camera() -> AsyncIterator[Camera]:
        async with anyio.create_task_group() as group:  # a scope of its own: left by the child that entered it
            group.start_soon(fail_later)
            yield Camera(log)

    async def fail_later() -> None:
        await anyio.sleep(10)
        raise OSError("unplugged")

    async with opened(tmp_path, generations=plans(camera, hold=hold)) as kit:
        user = await kit.begin_run("hold")
        await kit.advance(20)
        assert status(kit) == (0, 0)
        assert await output(kit) == "camera2"
        assert (await kit.ended(user)).state == "succeeded"
        lines = [entry.record()["message"] for entry in await kit.engine.history.log_entries(limit=100)]
        assert "service camera of plan p is broken: it ended by itself" in lines


async def test_service_whose_own_scope_ends_it_is_broken_without_an_error(tmp_path: Path) -> None:
    @service
    async def camera() -> AsyncIterator[Camera]:
        with anyio.move_on_after(5):
            yield Camera([])

    async with opened(tmp_path, generations=plans(camera)) as kit:
        await output(kit)
        await kit.advance(6)
        lines = [entry.record() for entry in await kit.engine.history.log_entries(limit=100)]
        line = next(
            line for line in lines if line["message"] == "service camera of plan p is broken: it ended by itself"
        )
        assert line["fields"] == {"service": "camera"}
        assert await output(kit) == "camera1"


async def test_broken_one_that_does_not_end_is_left_behind(tmp_path: Path) -> None:
    log: list[str] = []

    @service
    async def camera() -> AsyncIterator[Camera]:
        with anyio.move_on_after(5):
            try:
                yield Camera(log)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(LET_GO if len(log) == 1 else 0)

    async with opened(tmp_path, generations=plans(camera)) as kit:
        await output(kit)
        await kit.advance(6)
        assert status(kit) == (0, 0)
        assert await output(kit) == "camera2"  # once the bound of its clean-up is over
        assert status(kit) == (1, 1)


async def test_error_that_a_service_names_breaks_it(tmp_path: Path) -> None:
    log: list[str] = []

    async def meets(camera: Camera) -> None:
        raise ExceptionGroup("several", [ConnectionResetError("gone")])

    async def errs(camera: Camera) -> None:
        raise ValueError("no matter")

    camera = camera_of(log, broken_by=(ConnectionError,))
    async with opened(tmp_path, generations=plans(camera, meets=meets, errs=errs)) as kit:
        await kit.run("errs")
        assert await output(kit) == "camera1"
        await kit.run("meets")
        assert await output(kit) == "camera2"
        assert log == ["open camera1", "close camera1", "open camera2"]


async def test_next_use_waits_until_the_broken_one_has_closed(tmp_path: Path) -> None:
    log: list[str] = []

    @service(broken_by=(OSError,))
    async def camera() -> AsyncIterator[Camera]:
        made = Camera(log)
        yield made
        await anyio.sleep(5)
        log.append(f"close {made.name}")

    async def breaks(camera: Camera) -> None:
        raise OSError

    async with opened(tmp_path, generations=plans(camera, breaks=breaks)) as kit:
        await kit.run("breaks")
        assert await output(kit) == "camera2"
        assert log == ["open camera1", "close camera1", "open camera2"]


# -- needs


def chain(log: list[str], **mark: Any) -> list[Callable[..., Any]]:
    """The camera needs a port, and the port a bus."""

    @service
    async def bus() -> AsyncIterator[Camera]:
        yield Camera(log, "bus")
        log.append("close bus")

    @service(**mark)
    async def port(bus: Camera) -> AsyncIterator[Camera]:
        yield Camera(log, "port")
        await anyio.sleep(0.01)
        log.append("close port")

    @service
    async def camera(port: Camera) -> AsyncIterator[Camera]:
        yield Camera(log)
        await anyio.sleep(0.02)
        log.append("close camera")

    return [bus, port, camera]


async def test_chain_is_opened_in_order_and_closed_in_reverse(tmp_path: Path) -> None:
    log: list[str] = []
    async with opened(tmp_path, generations=plans(*chain(log))) as kit:
        await output(kit)
    assert log == ["open bus1", "open port1", "open camera1", "close camera", "close port", "close bus"]


async def test_what_needs_a_broken_one_is_broken_with_it(tmp_path: Path) -> None:
    log: list[str] = []

    async def breaks(port: Camera) -> None:
        raise OSError

    async with opened(tmp_path, generations=plans(*chain(log, broken_by=(OSError,)), breaks=breaks)) as kit:
        await output(kit)
        await kit.run("breaks")
        assert await output(kit) == "camera2"
        assert log[3:] == ["close camera", "close port", "open port2", "open camera2"]


async def test_what_needs_one_that_ends_by_itself_is_broken_with_it(tmp_path: Path) -> None:
    log: list[str] = []

    @service
    async def port() -> AsyncIterator[Camera]:
        with anyio.move_on_after(5):
            yield Camera(log, "port")

    _, _, camera = chain(log)
    async with opened(tmp_path, generations=plans(port, camera)) as kit:
        await output(kit)
        await kit.advance(6)
        assert await output(kit) == "camera2"
        assert log[2:] == ["close camera", "open port2", "open camera2"]


async def test_failure_of_what_is_needed_names_that_alone(tmp_path: Path) -> None:
    @service
    async def port() -> AsyncIterator[Camera]:
        raise OSError("busy")
        yield

    @service
    async def camera(port: Camera) -> AsyncIterator[Camera]:
        yield port

    async with opened(tmp_path, generations=plans(port, camera)) as kit:
        error = (await kit.run("t")).error or {}
        assert error["message"] == "busy; service port of plan p could not be opened"


# -- generations


async def test_new_generation_opens_its_own_and_the_old_one_is_closed_after_its_last_run(tmp_path: Path) -> None:
    log: list[str] = []
    async with opened(tmp_path, generations=plans(camera_of(log), hold=hold)) as kit:
        first, second = await kit.begin_run("hold"), await kit.begin_run("hold")
        await quiet()
        replaced(kit, camera_of(log))
        assert await output(kit) == "camera2"
        assert status(kit) == (2, 0)
        kit.stop(first, Stop.CANCEL)
        await kit.ended(first)
        assert log == ["open camera1", "open camera2"]
        assert (await kit.ended(second)).state == "succeeded"
        await quiet()
        assert log == ["open camera1", "open camera2", "close camera1"]
    assert log[-1] == "close camera2"


async def test_run_of_an_old_generation_keeps_its_service_between_two_uses(tmp_path: Path) -> None:
    log: list[str] = []

    async def wait() -> None:
        await anyio.sleep(10)

    made = task("t", step("a", snap), step("w", wait, needs=("a",)), step("b", snap, needs=("w",)))
    async with opened(tmp_path, generations=PythonGenerations(made, services=[camera_of(log)])) as kit:
        run = await kit.start("t")
        await kit.until(run, step="w", state="running")
        replaced(kit)
        await kit.advance(20)
        assert (run.steps["b"].output, log) == ("camera1", ["open camera1", "close camera1"])


class Using(PythonGeneration):
    """A generation of a plan whose actions are those of another one."""

    home: PythonGeneration

    def home_of(self, name: str) -> PythonGeneration:
        return self.home


async def test_step_of_another_plan_keeps_the_service_that_it_uses(tmp_path: Path) -> None:
    log: list[str] = []
    tasks = {"hold": task("hold", step("hold1", hold))}
    generations = PythonGenerations()
    generations.now = using = Using(tasks, services=[camera_of([])])
    using.home = PythonGeneration(tasks, "g0", [camera_of(log)])
    async with opened(tmp_path, generations=generations) as kit:
        run = await kit.start("hold")
        await kit.advance(50)
        assert log == ["open camera1"]
        await kit.advance(60)
        assert (run.state, log) == ("succeeded", ["open camera1", "close camera1"])


async def test_generation_without_runs_is_closed_at_the_reload(tmp_path: Path) -> None:
    log: list[str] = []
    async with opened(tmp_path, generations=plans(camera_of(log))) as kit:
        await output(kit)
        replaced(kit)
        await quiet()
        assert log == ["open camera1", "close camera1"]
        assert not kit.engine.runtime.services._shared  # nothing holds the old generation


async def test_service_first_used_by_an_old_generation_goes_with_it(tmp_path: Path) -> None:
    log: list[str] = []

    async def wait() -> None:
        await anyio.sleep(10)

    both = task("both", step("w", wait), step("s", snap, needs=("w",)))
    generations = PythonGenerations(both, services=[camera_of(log)])
    async with opened(tmp_path, generations=generations) as kit:
        run = await kit.begin_run("both")
        await quiet()
        replaced(kit)
        assert (await kit.ended(run)).state == "succeeded"
        await quiet()
        assert log == ["open camera1", "close camera1"]


async def test_run_that_is_to_start_over_holds_its_generation_no_longer(tmp_path: Path) -> None:
    log: list[str] = []
    made = task("t", step("t1", hold), recovery=Recovery.RESTART)
    async with opened(tmp_path, generations=PythonGenerations(made, services=[camera_of(log)])) as kit:
        run = await kit.begin_run("t")
        await quiet()
        replaced(kit)
        await quiet()
        assert log == ["open camera1"]
        await kit.engine.stop("cancel", 1)
        await quiet()
        assert (run.state, log) == ("queued", ["open camera1", "close camera1"])


# -- closing


async def raises() -> None:
    raise OSError("cannot close")


async def hangs() -> None:
    end = anyio.current_time() + LET_GO
    while anyio.current_time() < end:
        try:
            await anyio.sleep(1)
        except asyncio.CancelledError:
            continue


def closing_by(close: Callable[[], Any], log: list[str]) -> Callable[..., Any]:
    @service
    async def camera() -> AsyncIterator[Camera]:
        yield Camera(log)
        await close()

    return camera


async def raises_what_cannot_be_said() -> None:
    raise Unspeakable


@pytest.mark.parametrize("close", [raises, raises_what_cannot_be_said])
async def test_error_of_a_close_is_in_the_log_and_harms_nobody(tmp_path: Path, close: Callable[[], Any]) -> None:
    async with opened(tmp_path, generations=plans(closing_by(close, []))) as kit:
        await output(kit)
        replaced(kit, camera_of([]))
        await quiet()
        lines = [entry.record()["message"] for entry in await kit.engine.history.log_entries(limit=100)]
        assert "service camera of plan p failed as it was closed" in lines
        assert (await output(kit), status(kit)) == ("camera1", (1, 0))


async def test_service_that_yields_twice_is_named_as_it_closes(tmp_path: Path) -> None:
    @service
    async def camera() -> AsyncIterator[Camera]:
        yield Camera([])
        yield Camera([])

    async with opened(tmp_path, generations=plans(camera)) as kit:
        await output(kit)
        replaced(kit)
        await quiet()
        lines = [entry.record() for entry in await kit.engine.history.log_entries(limit=100)]
        line = next(line for line in lines if line["message"] == "service camera of plan p failed as it was closed")
        assert "yields more than once" in str(line["fields"])


async def test_close_that_hangs_is_left_behind_named_and_opened_anew(tmp_path: Path) -> None:
    log: list[str] = []
    async with opened(tmp_path, generations=plans(closing_by(hangs, log), hold=hold)) as kit:
        user = await kit.begin_run("hold")
        await quiet()
        replaced(kit, camera_of(log))
        kit.stop(user, Stop.CANCEL)
        await kit.advance(9)
        assert (kit.engine.state, status(kit)) == ("running", (0, 0))
        await kit.advance(2)
        assert (kit.engine.state, status(kit)) == ("degraded", (0, 1))
        assert kit.engine.reasons[0].startswith("service camera of plan p does not close and was left behind")
        assert f"{__file__}:" in kit.engine.reasons[0]
        assert await output(kit) == "camera2"
        await kit.advance(LET_GO)
        assert (kit.engine.state, status(kit)) == ("running", (1, 0))


async def test_close_that_hangs_at_the_stop_makes_the_server_leave_hard(tmp_path: Path) -> None:
    async with opened(tmp_path, generations=plans(closing_by(hangs, [])), grace=1.0) as kit:
        await output(kit)
        began = anyio.current_time()
        kit.server.request_stop()
        await until(lambda: kit.left)
        assert anyio.current_time() - began < 1.5
        assert (kit.left, kit.server.left, kit.server.left_services) == ([70], [], ["service camera of plan p"])


async def test_chain_whose_last_hangs_leaves_time_for_the_others(tmp_path: Path) -> None:
    log: list[str] = []
    bus, port, _ = chain(log)

    @service
    async def camera(port: Camera) -> AsyncIterator[Camera]:
        yield Camera(log)
        await hangs()

    async with opened(tmp_path, generations=plans(bus, port, camera), grace=1.0) as kit:
        await output(kit)
        kit.server.request_stop()
        await until(lambda: kit.left)
        assert log[3:] == ["close port", "close bus"]
        assert kit.server.left_services == ["service camera of plan p"]


async def test_stop_while_a_service_opens_ends_it_in_time(tmp_path: Path) -> None:
    log: list[str] = []

    @service
    async def camera() -> AsyncIterator[Camera]:
        try:
            await anyio.sleep(20)
        finally:
            await anyio.sleep(0.1)
            log.append("cleaned")
        yield Camera(log)

    async with opened(tmp_path, generations=plans(camera)) as kit:
        run = await kit.begin_run("t")
        await quiet()
        with no_hang(2):
            kit.server.request_stop()
            await kit.server.gone.wait()
        assert (log, run.state) == (["cleaned"], "cancelled")


async def test_second_signal_shortens_the_closing(tmp_path: Path) -> None:
    async with opened(tmp_path, generations=plans(closing_by(hangs, [])), grace=9.0) as kit:
        await output(kit)
        began = anyio.current_time()
        kit.server.request_stop()
        await turns(5)
        kit.server.request_stop()
        await until(lambda: kit.left)
        assert anyio.current_time() - began < 1.5


async def test_stuck_user_keeps_no_service_from_closing_with_the_server(tmp_path: Path) -> None:
    log: list[str] = []

    async def stuck(camera: Camera) -> None:
        await hangs()

    async with opened(tmp_path, generations=plans(camera_of(log), stuck=stuck)) as kit:
        await kit.begin_run("stuck")
        await quiet()
        replaced(kit)
        kit.server.request_stop()
        await until(lambda: kit.left)
        assert log == ["open camera1", "close camera1"]
