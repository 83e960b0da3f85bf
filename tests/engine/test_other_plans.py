"""Runs whose steps are of another plan: whose code and variables they get over reloads, and what failures name."""

import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes.plans import write_files

from aura.testing.run import Run
from aura.testing.world import World, open_world

NOTIFY = """
    import anyio
    from aura import Context, action
    from .values import VERSION

    @action
    def version() -> int:
        return VERSION

    @action
    async def slow() -> list[int]:
        await anyio.sleep(60)
        from .values import VERSION as late
        return [VERSION, late]

    @action
    async def where(ctx: Context) -> str:
        return ctx.vars["host"]

    @action
    async def lose() -> None:
        raise OSError("no line")

    @action
    async def flaky() -> int:
        if VERSION == 1:
            raise OSError("too old")
        return VERSION

    @action
    async def deaf() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(600)  # HERE
    """
LAB = """
    import anyio
    from aura import Context, action

    @action
    async def where(ctx: Context) -> str:
        return ctx.vars["host"]

    @action
    async def wait() -> None:
        await anyio.sleep(60)
    """
BOTH = '[{name: a, action: %s}, {name: wait, action: wait}, {name: b, action: %s}]\nreturns: ["{{ steps.a.output }}", '
BOTH += '"{{ steps.b.output }}"]\n'
TASKS = {
    "versions": "steps: " + BOTH % ("notify.version", "notify.version"),
    "places": "steps: " + BOTH % ("where", "notify.where"),
    "slow": 'steps: {a: {action: notify.slow}}\nreturns: "{{ steps.a.output }}"\n',
    "fails": "steps: {a: {action: notify.lose}}\n",
    "flaky": "steps: {a: {action: notify.flaky, retry: {attempts: 2, delay: 60s}}}\n",
    "deaf": "cleanup_timeout: 1s\nsteps: {a: {action: notify.deaf}}\n",
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    tasks = {f"lab/tasks/{name}.yaml": text for name, text in TASKS.items()}
    heads = {"lab/plan.yaml": "uses: [notify]\nvars: {host: here}\n", "notify/plan.yaml": "vars: {host: there}\n"}
    code = {"lab/actions.py": LAB, "notify/actions/main.py": NOTIFY, "notify/actions/values.py": "VERSION = 1\n"}
    write_files(tmp_path, tasks | heads | code)
    async with open_world(tmp_path / "lab") as opened:
        yield opened


async def change(world: World, files: dict[str, str]) -> None:
    write_files(world.server.settings.plans, files)
    await world.engine.reload()


async def reached(world: World, task: str, step: str, state: str) -> Run:
    """A run of which a step is in a state, and nothing more happens at this time."""
    run = await world.start(task)
    await world.until(run, step=step, state=state)
    await world.loop.wait_quiet()
    return run


async def test_each_action_sees_the_variables_of_its_own_plan(world: World) -> None:
    assert (await world.run("places")).result == ["here", "there"]


async def test_resources_of_a_plan_are_shown_before_anybody_has_taken_one(world: World) -> None:
    await change(world, {"lab/plan.yaml": "{uses: [notify], resources: {screen: 2}}"})
    assert world.engine.status()["resources"] == {"lab/screen": {"capacity": 2, "in_use": 0, "waiting": 0}}


async def test_step_gets_the_version_that_is_served_when_it_begins(world: World) -> None:
    lab = world.engine.generations.current("lab")
    run = await reached(world, "versions", "wait", "running")
    await change(world, {"notify/actions/values.py": "VERSION = 2\n"})
    await world.settle()
    assert run.result == [1, 2]
    assert world.engine.generations.current("lab") is lab


async def test_attempt_that_has_begun_keeps_its_version_to_the_end(world: World) -> None:
    run = await reached(world, "slow", "a", "running")
    await change(world, {"notify/actions/values.py": "VERSION = 2\n"})
    gc.collect()
    await world.settle()
    assert run.result == [1, 1]


async def test_next_try_gets_the_version_that_is_served_then(world: World) -> None:
    run = await reached(world, "flaky", "a", "retrying")
    await change(world, {"notify/actions/values.py": "VERSION = 2\n"})
    await world.settle()
    assert run.steps["a"].output == 2


async def test_run_keeps_no_old_version_of_a_plan_that_it_uses(world: World) -> None:
    old = weakref.ref(world.engine.generations.current("notify"))
    run = await reached(world, "versions", "wait", "running")
    await change(world, {"notify/actions/values.py": "VERSION = 2\n"})
    gc.collect()  # for what waited for the thread of the import
    assert old() is None
    assert run.state == "running"


async def test_failure_names_the_file_of_the_plan_whose_code_failed(world: World) -> None:
    error = (await world.run("fails")).error
    assert error is not None
    prefix = world.engine.generations.current("notify").code_prefix
    line = next(n for n, text in enumerate(NOTIFY.splitlines(), 1) if "no line" in text)
    assert (error["type"], error["file"], error["line"]) == ("OSError", f"{prefix}actions/main.py", line)


async def test_stuck_step_is_named_where_it_hangs_in_the_other_plan(world: World) -> None:
    run = await reached(world, "deaf", "a", "running")
    await world.engine.cancel(run.cid, None)
    await world.until(lambda: run.record.stuck)
    assert run.live is not None
    (attempt,) = run.live.live.values()
    prefix = world.engine.generations.current("notify").code_prefix
    line = next(n for n, text in enumerate(NOTIFY.splitlines(), 1) if "HERE" in text)
    assert attempt.hangs_at() == f"{prefix}actions/main.py:{line}"
    await world.settle()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        pytest.param(
            {"notify/actions/main.py": NOTIFY.replace("def version", "def verse")},
            "there is no action 'notify.version' in the version that is served; did you mean 'verse'?",
            id="action",
        ),
        pytest.param({}, "there is no action 'notify.version': there is no plan 'notify'", id="plan"),
    ],
)
async def test_action_that_is_gone_fails_the_step(world: World, files: dict[str, str], said: str) -> None:
    run = await reached(world, "versions", "wait", "running")
    if not files:
        (world.server.settings.plans / "notify").rename(world.server.settings.plans / ".notify")
    await change(world, files)
    await world.settle()
    assert run.state == "failed"
    assert run.error is not None
    assert (run.error["type"], run.error["message"], run.error["step"]) == ("action_missing", said, "b")


async def test_action_that_no_thread_took_has_not_begun_whatever_became_of_its_plan(world: World) -> None:
    threads, taken = world.engine.runtime.threads, object()
    threads.total_tokens = 1
    threads.acquire_on_behalf_of_nowait(taken)
    run = await reached(world, "versions", "a", "running")
    await change(world, {"notify/actions/main.py": NOTIFY.replace("def version", "def verse")})
    await world.engine.pause(run.cid, None)
    await world.until(run, state="preempted")
    assert run.record.error is None
    assert [(step.state, step.attempt) for step in run.steps.values()] == [("pending", 0)]
    threads.release_on_behalf_of(taken)
    await change(world, {"notify/actions/main.py": NOTIFY})
    await world.engine.resume(run.cid)
    await world.settle()
    assert (run.result, run.steps["a"].attempt) == ([1, 1], 1)
