"""Chains of tasks that run each other, as far as files say which: found once, with the whole chain."""

from pathlib import Path

import pytest

from aura.builtin import shipped
from aura.loading.loader import check_plans

USED = {"notify": "uses: [lab]\n", "lab": "uses: [notify]\n"}


def problems(folder: Path, tasks: dict[str, str]) -> list[str]:
    """What is wrong with plans of such tasks, by ``plan/task``; each runs what its text names."""
    for name, text in tasks.items():
        plan, _, task = name.partition("/")
        file = folder / plan / "tasks" / f"{task}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if len({key.partition("/")[0] for key in tasks}) > 1:
            (folder / plan / "plan.yaml").write_text(USED[plan])
    return [str(problem) for checked in check_plans(folder, shipped()) for problem in checked.problems]


def run(task: str, plan: str = "", action: str = "task.run") -> str:
    named = f"task: {task}, plan: {plan}" if plan else f"task: {task}"
    return f"steps:\n  a: {{action: {action}, params: {{{named}}}}}\n"


END = "steps:\n  a: {action: log, params: {message: x}}\n"
SAID = "a task cannot run inside itself: "


@pytest.mark.parametrize(
    ("tasks", "found"),
    [
        pytest.param({"lab/x": run("x")}, [f"lab/tasks/x.yaml:2:40: {SAID}lab/x -> lab/x"], id="itself"),
        pytest.param(
            {"lab/x": run("y"), "lab/y": run("z"), "lab/z": run("x")},
            [f"lab/tasks/x.yaml:2:40: {SAID}lab/x -> lab/y -> lab/z -> lab/x"],
            id="a-chain-once",
        ),
        pytest.param(
            {"lab/in": run("x"), "lab/x": run("y"), "lab/y": run("x")},
            [f"lab/tasks/x.yaml:2:40: {SAID}lab/x -> lab/y -> lab/x"],
            id="not-at-its-way-in",
        ),
        pytest.param(
            {"lab/x": run("y", "notify"), "notify/y": run("x", "lab")},
            [
                f"lab/tasks/x.yaml:2:40: {SAID}lab/x -> notify/y -> lab/x",
                f"notify/tasks/y.yaml:2:40: {SAID}notify/y -> lab/x -> notify/y",
            ],
            id="over-two-plans",
        ),
        pytest.param(
            {"lab/x": END + "finally:\n  b: {action: task.run, params: {task: x}}\n"},
            [f"lab/tasks/x.yaml:4:40: {SAID}lab/x -> lab/x"],
            id="in-a-handler",
        ),
        pytest.param({"lab/x": run("y"), "lab/y": END}, [], id="no-chain"),
        pytest.param({"lab/x": run("x", action="task.start")}, [], id="started"),
        pytest.param({"lab/x": run('"{{ run.task_name }}"')}, [], id="only-a-run-can-tell"),
    ],
)
def test_chain_is_found(tmp_path: Path, tasks: dict[str, str], found: list[str]) -> None:
    assert problems(tmp_path, tasks) == found
