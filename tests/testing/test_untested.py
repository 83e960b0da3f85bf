"""``--aura-sweep``: which tasks are tests then, and what becomes of each."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.fakes.plans import write_files

from aura.testing.sweeping.untested import sweep_untested

ACTIONS = """
import anyio
from aura import action

@action
async def stubborn() -> None:
    try:
        await anyio.sleep(10)
    except BaseException:
        pass

@action(isolation="process")
def far() -> int: ...
"""
PLANS = {
    "lab/actions.py": ACTIONS,
    "lab/tasks/deep/outside.yaml": """
inputs: {day: {type: string, pattern: '^\\d{4}-\\d{2}$'}}
steps:
  - {name: a, action: shell.run, params: {shell: 'echo "$DAY"', env: {DAY: "{{ inputs.day }}"}}}
  - {name: b, action: http.request, params: {url: "http://127.0.0.1:1/"}}
  - {name: c, action: far}
""",
    "lab/tasks/stubborn.yaml": "steps: {a: {action: stubborn}}\n",
    "lab/tasks/nothing.yaml": (
        "inputs: {x: {type: string, pattern: 'a{3}', max_length: 2}}\nsteps: {a: {action: log, params: {message: x}}}\n"
    ),
    "lab/tasks/asks.yaml": "steps: {a: {action: approval.wait, params: {message: well}}}\n",
    "lab/tasks/fails.yaml": "steps: {a: {action: fail, params: {message: never}}}\n",
    "done/tasks/t.yaml": "steps: {a: {action: log, params: {message: x}}}\n",
    "done/tests/test_t.py": "def test_t(): pass\n",
}


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    write_files(tmp_path / "plans", PLANS)
    return tmp_path / "plans"


def test_what_leaves_the_process_is_faked_and_the_task_is_swept(plans: Path) -> None:
    sweep_untested(plans / "lab", "deep/outside")


def test_task_that_does_not_clean_up_fails(plans: Path) -> None:
    with pytest.raises(AssertionError, match=r"cancelled at lab/actions\.py:8 \(step a, 1st visit\)"):
        sweep_untested(plans / "lab", "stubborn")


@pytest.mark.parametrize(
    ("task", "said"),
    [
        pytest.param("nothing", "nothing can be made up for lab/nothing: input x: no text was found", id="no-inputs"),
        pytest.param("asks", "lab/asks does not succeed with inputs that are made up, {}: ", id="deadlock"),
        pytest.param("fails", "never", id="fails"),
    ],
)
def test_task_for_which_nothing_can_be_made_up_is_skipped(plans: Path, task: str, said: str) -> None:
    with pytest.raises(pytest.skip.Exception) as raised:
        sweep_untested(plans / "lab", task)
    assert said in str(raised.value)


def test_plan_that_cannot_be_served_fails(plans: Path) -> None:
    (plans / "lab/tasks/asks.yaml").write_text("stepps: 1\n")
    with pytest.raises(AssertionError, match=r"lab/tasks/asks\.yaml:1:1"):
        sweep_untested(plans / "lab", "asks")


def test_tasks_of_plans_without_tests_are_tests(plans: Path) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--aura-sweep", "--collect-only"]
    done = subprocess.run([*argv, "."], cwd=plans, capture_output=True, text=True, check=False)
    names = [line for line in done.stdout.splitlines() if "::" in line]
    tasks = ("asks", "deep/outside", "fails", "nothing", "stubborn")
    assert sorted(names) == ["done/tests/test_t.py::test_t", *(f"lab/tasks/{task}.yaml::sweep" for task in tasks)]
