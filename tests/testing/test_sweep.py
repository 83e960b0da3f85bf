"""Sweeps: each point is stopped exactly there, what is wrong is found and named, and what is right is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.testing.kit import one_step, write_plan

from aura.errors import RequestError
from aura.lifecycle import Recovery
from aura.testing.run import Run
from aura.testing.sweeping.points import At, Point
from aura.testing.sweeping.sweep import Sweep, sample, sweeper
from aura.testing.sweeping.sweptrun import Setting, in_world, run_stopped, run_undisturbed
from aura.testing.sweeping.ways import EXPECTED, way_of
from aura.testing.virtual_time import Deadlock
from aura.testing.world import World

ACTIONS = """\
import asyncio
import tempfile
from collections.abc import AsyncIterator
import anyio
from aura import Context, action, service

@service
async def diary(ctx: Context) -> AsyncIterator[list]:
    yield []

@action
async def count(diary: list) -> int:
    for number in range(3):
        await anyio.sleep(0)
        diary.append(number)
    return 3

@action
async def work() -> int:
    await anyio.sleep(0.1)
    return 1

@action
async def break_down() -> None:
    raise ValueError("on purpose")

@action
async def swallow() -> int:
    try:
        await anyio.sleep(1)  # swallow
    except asyncio.CancelledError:
        pass
    return 1

async def deaf():
    try:
        await anyio.sleep(1)  # deaf
    except asyncio.CancelledError:
        await asyncio.sleep(0.1)

@action
async def deaf_child() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(deaf())

async def deafest():
    for _ in range(3):
        try:
            await anyio.sleep(1)  # deafest
        except asyncio.CancelledError:
            while True:
                try:
                    await anyio.sleep(1)
                except asyncio.CancelledError:
                    pass

@action
async def never_ends() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(deafest)

async def put_away():
    await anyio.sleep(0.1)

async def tidy():
    try:
        await anyio.sleep(1)
    finally:
        await put_away()  # lost

async def tidy_well(ctx):
    try:
        await anyio.sleep(1)
    finally:
        with ctx.cleanup():
            await put_away()

@action
async def lost() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(tidy)

@action
async def not_lost(ctx: Context) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(tidy_well, ctx)
        async with anyio.create_task_group() as inner:
            inner.start_soon(nested)
    async with asyncio.TaskGroup() as group:
        group.create_task(tidy())

async def nested():
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 1)
        group.start_soon(anyio.sleep, 1)

async def host_of_slow_child():
    async with asyncio.TaskGroup() as group:  # its child cleans up for long, and it swallows what comes meanwhile
        group.create_task(tidy())

@action
async def groups_within_groups() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(host_of_slow_child)

async def fails():
    await anyio.sleep(0.1)
    raise ValueError("on purpose")

async def tidy_with_a_group_that_fails(ctx):
    try:
        await anyio.sleep(1)
    finally:
        with ctx.cleanup():
            try:
                async with asyncio.TaskGroup() as group:  # one child, whose failure cancels its host once more
                    group.create_task(fails())
            except* ValueError:
                pass

@action
async def group_fails_in_clean_up(ctx: Context) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(tidy_with_a_group_that_fails, ctx)

@action
def in_a_thread() -> int:
    return 1

@action
async def slow() -> None:
    try:
        await anyio.sleep(1)
    finally:
        await anyio.sleep(100)  # slow

@action
async def hangs() -> None:
    try:
        await anyio.sleep(1)
    except asyncio.CancelledError:
        while True:
            try:
                await anyio.sleep(1000)  # hangs
            except asyncio.CancelledError:
                pass

@action
async def leaves_file() -> None:
    file = tempfile.NamedTemporaryFile(delete=False)  # leaves_file
    try:
        await anyio.sleep(1)
    except asyncio.CancelledError:
        file.close()
        raise
    import os
    file.close()
    os.unlink(file.name)

@action
async def counts_up(ctx: Context) -> None:
    await ctx.state.set("n", await ctx.state.get("n", 0) + 1)
    await anyio.sleep(1)  # counts_up

@action
async def random_way(diary: list) -> None:
    diary.append(1)
    if len(diary) == 1:
        for _ in range(3):
            await anyio.sleep(0.1)
"""
RULES = """\
rules:
  low: {triggers: [{event: low}], task: save}
  off: {triggers: [{event: off}], task: save, then: cancel}
"""
SAVE = "steps:\n  s: {action: work}\n"


def line_of(mark: str) -> str:
    [number] = [n for n, line in enumerate(ACTIONS.splitlines(), 1) if line.endswith(f"  # {mark}")]
    return f"lab/actions.py:{number}"


def task_of(action: str, more: str = "") -> str:
    return (
        f"{more}steps:\n  a: {{action: {action}, idempotent: true}}\nfinally:\n  f: {{action: work}}\n"
        'returns: "{{ steps.a.output }}"\n'
    )


def plan_with(tmp_path: Path, task: str) -> Path:
    files = {"actions.py": ACTIONS, "interrupts.yaml": RULES, "tasks/save.yaml": SAVE, "tasks/main.yaml": task}
    return write_plan(tmp_path / "plans" / "lab", files)


def swept(tmp_path: Path, task: str, **keys: Any) -> Sweep:
    return sweeper(plan_with(tmp_path, task))("main", **keys)


# -- exactly there


@pytest.mark.parametrize("by", ["cancel", "timeout", "shutdown", "crash", "interrupt:off"])
def test_each_point_is_hit_before_the_next_line(tmp_path: Path, by: str) -> None:
    diary: list[int] = []
    setting = Setting(plan=plan_with(tmp_path, task_of("count")), task="main", services={"diary": diary})
    points = in_world(run_undisturbed, setting, way_of(by), "succeeded").points
    written = []
    for point in [point for point in points if point.step == "a"]:
        diary.clear()
        assert run_stopped(setting, way_of(by), point, 1.0) is not None
        written.append(list(diary))
    assert written == [[], [], [], [0], [0, 1]]  # its beginning, the opening of the diary, three awaits


@pytest.mark.parametrize(
    ("by", "recovery", "state"),
    [(word, recovery, state) for word, rows in EXPECTED.items() if word != "interrupt"
     for recovery in Recovery for state in [rows.get(recovery, rows.get(""))]],
)  # fmt: skip
def test_run_ends_as_the_table_says(tmp_path: Path, by: str, recovery: Recovery, state: frozenset[str]) -> None:
    plan = plan_with(tmp_path, task_of("work", f"recovery: {recovery}\n"))
    setting, way = Setting(plan=plan, task="main"), way_of(by)
    undisturbed = in_world(run_undisturbed, setting, way, "succeeded")
    point = next(point for point in undisturbed.points if point.at is At.AWAIT)
    seen = run_stopped(setting, way, point, 1.0)
    assert seen is not None
    assert seen.record.state in {"succeeded" if one == "same" else one for one in state}
    assert way.expected(recovery, None) == state


@pytest.mark.parametrize(("rule", "state"), [("low", "succeeded"), ("off", "cancelled")])
def test_interrupted_run_ends_as_the_rule_says(tmp_path: Path, rule: str, state: str) -> None:
    setting, way = Setting(plan=plan_with(tmp_path, task_of("work")), task="main"), way_of(f"interrupt:{rule}")
    points = in_world(run_undisturbed, setting, way, "succeeded").points
    seen = run_stopped(setting, way, points[1], 1.0)
    assert seen is not None
    assert seen.record.state == state
    assert seen.record.preemptions == 1


# -- what is right


@pytest.mark.parametrize("by", ["cancel", "timeout", "pause", "interrupt:low", "interrupt:off", "shutdown", "crash"])
@pytest.mark.parametrize(
    "action", ["work", "not_lost", "groups_within_groups", "group_fails_in_clean_up", "in_a_thread"]
)
def test_task_that_cleans_up_is_clean(tmp_path: Path, action: str, by: str) -> None:
    found = swept(tmp_path, task_of(action, "recovery: resume\n"), by=by, max_points=5)
    found.assert_clean()
    if by in ("pause", "interrupt:low", "shutdown", "crash"):
        found.assert_same_result()
    assert len(found.tried) == min(5, len(found.points))


def test_task_that_waits_is_stopped_there_and_setup_answers_it(tmp_path: Path) -> None:
    task = "steps:\n  a: {action: approval.wait, params: {message: go}}\nfinally:\n  f: {action: work}\n"

    async def answers(world: World, run: Run) -> None:
        await world.until(run, step="a", state="waiting")
        await run.answer("a")

    for by in ("cancel", "pause", "shutdown", "crash"):
        found = swept(tmp_path, task, by=by, setup=answers)
        found.assert_clean()
        assert At.WAIT in {point.at for point in found.tried}


def test_worlds_get_what_the_sweep_is_given(tmp_path: Path) -> None:
    task = "inputs: {n: integer}\nsteps:\n  a: {action: work}\n  b: {action: counts_up, depends_on: a}\n"
    found = swept(tmp_path, task, inputs={"n": 3}, fakes={"work": {"returns": 7, "takes": "2s"}}, state={"n": 5})
    found.assert_clean()
    assert found._undisturbed.seen.kept == {"n": 6}
    assert found._undisturbed.seen.record.inputs == {"n": 3}


# -- what is wrong


CATCHES = {
    "except": """
    try:
        await anyio.sleep(1)
    except ValueError:
        raise
    except asyncio.CancelledError:  # caught
        pass
""",
    "suppress": """
    with contextlib.suppress(asyncio.CancelledError):  # caught
        await anyio.sleep(1)
""",
    "finally": """
    try:
        await anyio.sleep(1)
    finally:
        return 1  # caught
""",
    "finally-with-a-name-like-a-keyword": """
    try:
        await anyio.sleep(1)
    finally:
        exceptions = 1
        return exceptions  # caught
""",
    "further-out": """
    async def inner():
        try:
            await anyio.sleep(1)
        finally:
            len("tidied up")
    try:
        await inner()
    except BaseException:  # caught
        await anyio.sleep(1)
""",
}


@pytest.mark.parametrize("how", CATCHES)
def test_line_that_swallows_a_cancellation_is_named(tmp_path: Path, how: str) -> None:
    head = (
        "import asyncio\nimport contextlib\nimport anyio\nfrom aura import action\n\n@action\nasync def act() -> int:"
    )
    code = f"{head}{CATCHES[how]}    return 1\n"
    plan = write_plan(tmp_path / "lab", {"actions.py": code, "tasks/it.yaml": one_step("act")})
    said = {one.kind: one.message for one in sweeper(plan)("it", max_points=1).findings}
    line = next(n for n, text in enumerate(code.splitlines(), 1) if text.endswith("# caught"))
    assert f" was swallowed at lab/actions.py:{line}, " in said["swallowed"]


@pytest.mark.parametrize(
    ("action", "kind", "mark", "text"),
    [
        pytest.param("swallow", "swallowed", "swallow", "the step has returned a value", id="swallowed"),
        pytest.param("deaf_child", "swallowed", "deaf", "by a child, which has gone on awaiting", id="by-a-child"),
        pytest.param("never_ends", "swallowed", "deafest", "was swallowed", id="by-a-child-for-ever"),
        pytest.param("lost", "lost clean-up", "lost", "put it in `with ctx.cleanup():`", id="lost-clean-up"),
        pytest.param("slow", "clean-up", "slow", "took longer than it may", id="clean-up-too-long"),
        pytest.param("hangs", "state", "hangs", "it does not end: it hangs at", id="hangs"),
        pytest.param("leaves_file", "temporary file", "leaves_file", "is left (made there: ", id="leak"),
    ],
)
def test_bug_is_found_and_named(tmp_path: Path, action: str, kind: str, mark: str, text: str) -> None:
    found = swept(tmp_path, task_of(action), max_points=4)
    kinds = {finding.kind: finding.message for finding in found.findings}
    assert kind in kinds
    with pytest.raises(AssertionError) as failed:
        found.assert_clean()
    assert text in str(failed.value)
    assert line_of(mark) in str(failed.value)
    assert "cancelled at lab/actions.py:" in str(failed.value)
    assert "step a" in str(failed.value)


def test_step_that_means_to_finish_is_excused(tmp_path: Path) -> None:
    swept(tmp_path, task_of("swallow"), finishes=("a",)).assert_clean()


def test_finally_that_fails_when_stopped_is_found(tmp_path: Path) -> None:
    task = (
        "steps:\n  a: {action: work}\nfinally:\n  f: {action: break_down, when: \"{{ run.state == 'cancelled' }}\"}\n"
    )
    with pytest.raises(AssertionError, match=r"its clean-up failed: ValueError: on purpose in step f at lab@?.*:"):
        swept(tmp_path, task).assert_clean()


@pytest.mark.parametrize("by", ["pause", "interrupt:low", "shutdown", "crash"])
def test_state_that_is_written_twice_is_shown(tmp_path: Path, by: str) -> None:
    found = swept(tmp_path, task_of("counts_up", "recovery: resume\n"), by=by)
    found.assert_clean()
    with pytest.raises(AssertionError, match=r"the plan's state 'n' is 2, not 1") as failed:
        found.assert_same_result()
    assert line_of("counts_up") in str(failed.value)


def test_step_that_is_not_idempotent_ends_a_crashed_run(tmp_path: Path) -> None:
    task = "recovery: resume\nsteps:\n  a: {action: work}\n"
    found = swept(tmp_path, task, by="crash")
    found.assert_clean()
    with pytest.raises(AssertionError, match="state is 'crashed', not 'succeeded'"):
        found.assert_same_result()


def test_points_that_are_not_reached_again_are_told(tmp_path: Path) -> None:
    found = swept(tmp_path, task_of("random_way"), services={"diary": []})
    assert len(found.unreached) == 3
    with pytest.raises(AssertionError, match="3 of 7 points were not reached again, such as lab/"):
        found.assert_clean()


def test_same_finding_is_shown_once_with_ten_points(tmp_path: Path) -> None:
    task = "steps:\n  a: {action: swallow, loop: {times: 12}}\n"
    report = swept(tmp_path, task, finishes=()).report()
    assert report.count("was swallowed") == 1
    assert "and so at 11 other points" in report
    assert "… and 2 more" in report


# -- what cannot be swept


@pytest.mark.parametrize(
    ("keys", "error", "text"),
    [
        pytest.param({"by": "cancle"}, ValueError, "did you mean 'cancel'", id="unknown-way"),
        pytest.param({"by": "interrupt"}, ValueError, "say interrupt:RULE", id="no-rule"),
        pytest.param({"by": "interrupt:lwo"}, RequestError, "did you mean 'low'", id="unknown-rule"),
        pytest.param({"max_points": 0}, ValueError, "at least one point", id="no-points"),
        pytest.param({"inputs": {"x": 1}}, RequestError, "x", id="unknown-input"),
        pytest.param({"fakes": {"wrok": {}}}, AssertionError, "did you mean 'work'", id="unknown-fake"),
    ],
)
def test_what_means_nothing_is_refused(
    tmp_path: Path, keys: Mapping[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        swept(tmp_path, task_of("work"), **keys)


def test_unknown_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="did you mean 'main'"):
        sweeper(plan_with(tmp_path, task_of("work")))("mian")


def test_task_that_fails_by_itself_is_not_swept_unless_expected(tmp_path: Path) -> None:
    task = "steps:\n  w: {action: work}\n  a: {action: break_down, depends_on: w}\nfinally:\n  f: {action: work}\n"
    with pytest.raises(AssertionError, match=r"(?s)the undisturbed run is failed, not succeeded.*on purpose"):
        swept(tmp_path, task)
    swept(tmp_path, task, expect="failed").assert_clean()


def test_task_that_waits_for_nobody_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Deadlock, match=r"Say setup=…, an async function"):
        swept(tmp_path, "steps:\n  a: {action: approval.wait, params: {message: go}}\n")


@pytest.mark.anyio
async def test_async_test_is_told_to_be_plain(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="make its test a plain `def`"):
        swept(tmp_path, task_of("work"))


def test_same_result_of_what_does_not_come_back_is_refused(tmp_path: Path) -> None:
    found = swept(tmp_path, task_of("work"), max_points=1)
    with pytest.raises(ValueError, match="a run that was cancelled does not go on"):
        found.assert_same_result()


# -- samples


def points_at(*lines: tuple[str, int]) -> list[Point]:
    return [Point("a", None, 1, line, visit) for line, visit in lines]


def test_sample_has_the_first_visit_of_each_line() -> None:
    points = points_at(*(("x", n) for n in range(1, 50)), ("y", 1), *(("y", n) for n in range(2, 50)))
    chosen = sample(points, 5, seed=7)
    assert len(chosen) == 5
    assert {(point.line, point.visit) for point in chosen} >= {("x", 1), ("y", 1)}
    assert chosen == sorted(chosen, key=points.index)


def test_sample_is_the_same_for_the_same_seed() -> None:
    points = points_at(*(("x", n) for n in range(1, 100)))
    assert sample(points, 10, seed=7) == sample(points, 10, seed=7)
    assert sample(points, 10, seed=7) != sample(points, 10, seed=8)
    assert sample(points, 200, seed=7) == points


def test_report_says_of_how_many_points_and_by_which_seed(tmp_path: Path) -> None:
    found = swept(tmp_path, task_of("count"), max_points=2, seed=7, services={"diary": []})
    assert f"2 of {len(found.points)} points, seed 7" in found.report()
