"""The points of a run: which there are, and that each has a name that says where."""

from pathlib import Path

import pytest
from tests.testing.kit import write_plan

from aura.testing.sweeping.points import Point, ordinal
from aura.testing.sweeping.sweptrun import Setting, in_world, run_undisturbed
from aura.testing.sweeping.ways import way_of

ACTIONS = """\
import asyncio
import anyio
from aura import Context, action

async def rest(seconds):
    await anyio.sleep(seconds)  # inner

@action
async def thrice() -> None:
    for _ in range(3):
        await anyio.sleep(0)  # thrice

@action
async def deep() -> None:
    await rest(0.1)

@action
async def parts() -> None:
    async with anyio.create_task_group() as group:  # opened
        group.start_soon(rest, 0.2)
        await anyio.sleep(0.1)  # host

@action
async def two() -> None:
    async with asyncio.TaskGroup() as group:  # opened
        group.create_task(rest(0.1))

@action
async def flaky(ctx: Context) -> None:
    await anyio.sleep(0.1)  # flaky
    if ctx.attempt == 1:
        raise ConnectionError("not yet")

@action
async def starts(ctx: Context) -> None:
    await ctx.start("child")

@action
async def quick() -> None:
    pass
"""
ONE = "steps:\n  a: {action: ACTION}\n"
BEGINS = "lab/tasks/main.yaml:2 (step a, its beginning)"
#: The task, and its points; ``{mark}`` stands for the line of the actions that ends with that comment.
TASKS = {
    "visits": (
        ONE.replace("ACTION", "thrice"),
        [BEGINS, *(f"{{thrice}} (step a, {n} visit)" for n in ("1st", "2nd", "3rd"))],
    ),
    "innermost": (ONE.replace("ACTION", "deep"), [BEGINS, "{inner} (step a, 1st visit)"]),
    "child": (
        ONE.replace("ACTION", "parts"),
        [BEGINS, "{host} (step a, 1st visit)", "{inner} (step a, 1st visit)", "{opened} (step a, 1st visit)"],
    ),
    "nothing-awaited": (ONE.replace("ACTION", "quick"), [BEGINS]),
    "shipped": (
        "steps:\n  a: {action: sleep, params: {duration: 500ms}}\n",
        [BEGINS, "lab/tasks/main.yaml:2 (step a, 1st visit)"],
    ),
    "wait-on-record": (
        "steps:\n  a: {action: sleep, params: {duration: 5s}}\n",
        [BEGINS, "lab/tasks/main.yaml:2 (step a, waiting, 1st visit)"],
    ),
    "item": (
        "steps:\n  a: {action: deep, loop: {times: 2}}\n",
        [
            "lab/tasks/main.yaml:2 (step a[0], its beginning)",
            "{inner} (step a[0], 1st visit)",
            "lab/tasks/main.yaml:2 (step a[1], its beginning)",
            "{inner} (step a[1], 1st visit)",
        ],
    ),
    "attempt": (
        "steps:\n  a: {action: flaky, retry: {attempts: 2, delay: 100ms}}\n",
        [
            BEGINS,
            "{flaky} (step a, 1st visit)",
            "lab/tasks/main.yaml:2 (step a, attempt 2, its beginning)",
            "{flaky} (step a, attempt 2, 1st visit)",
        ],
    ),
    "clean-up": (
        ONE.replace("ACTION", "quick") + "finally:\n  f: {action: deep}\n",
        [BEGINS, "lab/tasks/main.yaml:4 (step f, its beginning)", "{inner} (step f, 1st visit)"],
    ),
}


def marked(text: str) -> str:
    lines = ACTIONS.splitlines()
    marks: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        _, found, mark = line.partition("  # ")
        if found:
            marks.setdefault(mark, f"lab/actions.py:{number}")
    return text.format(**marks)


def points_of(tmp_path: Path, task: str, more: dict[str, str] | None = None) -> list[Point]:
    files = {"actions.py": ACTIONS, "tasks/main.yaml": task, "tasks/child.yaml": ONE.replace("ACTION", "deep")}
    plan = write_plan(tmp_path / "plans" / "lab", files | (more or {}))
    setting = Setting(plan=plan, task="main")
    return list(in_world(run_undisturbed, setting, way_of("cancel"), "succeeded").points)


@pytest.mark.parametrize("name", TASKS)
def test_points_are_named_by_step_line_and_visit(tmp_path: Path, name: str) -> None:
    task, expected = TASKS[name]
    assert [str(point) for point in points_of(tmp_path, task)] == [marked(text) for text in expected]


def test_points_are_the_same_in_each_run(tmp_path: Path) -> None:
    task = "steps:\n  a: {action: parts}\n  b: {action: two}\n  c: {action: thrice}\n"
    points = points_of(tmp_path, task)
    assert points == points_of(tmp_path, task)
    assert len(points) > len({point.line for point in points}) > 5


def test_points_of_a_child_of_asyncio_are_named(tmp_path: Path) -> None:
    assert marked("{inner}") in {point.line for point in points_of(tmp_path, ONE.replace("ACTION", "two"))}


def test_points_of_a_sub_task_are_the_runs(tmp_path: Path) -> None:
    points = points_of(tmp_path, "steps:\n  a: {action: task.run, params: {task: child}}\n")
    assert "a > a" in {point.step for point in points}
    assert marked("{inner}") in {point.line for point in points}


def test_points_of_a_run_that_was_started_are_its_own(tmp_path: Path) -> None:
    points = points_of(tmp_path, ONE.replace("ACTION", "starts"))
    assert {point.step for point in points} == {"a"}
    assert marked("{inner}") not in {point.line for point in points}


def test_points_of_clean_up_say_so(tmp_path: Path) -> None:
    points = points_of(tmp_path, TASKS["clean-up"][0])
    assert [point.in_clean_up for point in points] == [False, True, True]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (12, "12th"),
        (13, "13th"),
        (22, "22nd"),
        (111, "111th"),
    ],
)
def test_ordinal(number: int, text: str) -> None:
    assert ordinal(number) == text
