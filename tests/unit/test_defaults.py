"""What ``defaults`` of ``plan.yaml`` says for the tasks and steps of the plan that do not say it themselves."""

from pathlib import Path

import pytest
from tests.fakes.plans import LOG, SHIPPED, problems_of, write_files

from aura.lifecycle import Recovery
from aura.loading.loader import check_plans
from aura.task import ModeKind, Retry, Task

PLAN = """
resources: {screen: 2}
defaults:
  task:
    lane: event
    priority: 7
    mode: {kind: queued, max: 3}
    timeout: 1h
    queue_timeout: 2h
    cleanup_timeout: 3s
    recovery: restart
    labels: {team: ops, kind: any}
    resources: {screen: 1}
  step:
    retry: {attempts: 2, delay: 1s}
    timeout: 10s
    continue_on_failure: true
    idempotent: true
    resources: {screen: 1}
"""


def task_with_defaults(tmp_path: Path, text: str) -> Task:
    (checked,) = check_plans(write_files(tmp_path, {"lab/plan.yaml": PLAN, "lab/tasks/t.yaml": text}), SHIPPED)
    assert checked.plan is not None, checked.problems
    return checked.plan.tasks["t"]


def test_what_a_task_does_not_say_is_as_the_plan_says(tmp_path: Path) -> None:
    task = task_with_defaults(tmp_path, f"steps: {{a: {LOG}}}")
    assert (task.lane, task.priority, task.mode.kind, task.mode.max) == ("event", 7, ModeKind.QUEUED, 3)
    assert (task.timeout, task.queue_timeout, task.cleanup_timeout) == (3600.0, 7200.0, 3.0)
    assert (task.recovery, task.labels) == (Recovery.RESTART, {"team": "ops", "kind": "any"})
    assert task.resources == {"screen": 1}


def test_what_a_step_does_not_say_is_as_the_plan_says_in_handlers_too(tmp_path: Path) -> None:
    task = task_with_defaults(tmp_path, f"steps: {{a: {LOG}}}\nfinally: {{z: {LOG}}}")
    for step in task.all_steps():
        assert (step.retry, step.timeout, step.resources) == (Retry(2, 1.0), 10.0, {"screen": 1})
        assert step.continue_on_failure
        assert step.idempotent


def test_what_a_task_says_goes_before_and_labels_are_added(tmp_path: Path) -> None:
    told = "lane: main\npriority: 0\nmode: single\ntimeout: 1s\nrecovery: fail\nlabels: {kind: own}\nresources: {}\n"
    task = task_with_defaults(tmp_path, f"{told}steps: {{a: {LOG}}}")
    assert (task.lane, task.priority, task.mode.kind, task.mode.max) == ("main", 0, ModeKind.SINGLE, None)
    assert (task.timeout, task.queue_timeout, task.recovery) == (1.0, 7200.0, Recovery.FAIL)
    assert (task.labels, task.resources) == ({"team": "ops", "kind": "own"}, {})


def test_what_a_step_says_goes_before_as_a_whole(tmp_path: Path) -> None:
    told = "retry: {attempts: 5}, timeout: 1s, continue_on_failure: false, idempotent: false, resources: {}"
    step = task_with_defaults(tmp_path, f"steps: {{a: {{action: log, params: {{message: x}}, {told}}}}}").steps["a"]
    assert (step.retry, step.timeout, step.resources) == (Retry(5, 0.0), 1.0, {})
    assert not step.continue_on_failure
    assert not step.idempotent


@pytest.mark.parametrize(
    ("defaults", "problem"),
    [
        pytest.param("[]", "1:11: defaults must be a mapping, not a list", id="list"),
        pytest.param("{steps: {}}", "1:12: defaults has no key 'steps'; did you mean 'step'?", id="near"),
        pytest.param("{task: {steps: {}}}", "1:19: defaults.task has no key 'steps'", id="task-key"),
        pytest.param("{task: 1}", "1:18: defaults.task must be a mapping, not a number", id="task"),
        pytest.param("{task: {timeout: 5}}", "1:28: timeout: 5 has no unit", id="timeout"),
        pytest.param("{step: {loop: {times: 2}}}", "1:19: defaults.step has no key 'loop'", id="step-key"),
        pytest.param("{step: {retry: {attempts: 0}}}", "1:37: attempts: a whole number from 1", id="retry"),
    ],
)
def test_problem_of_defaults_is_said_once_at_its_place(tmp_path: Path, defaults: str, problem: str) -> None:
    files = {"lab/plan.yaml": f"defaults: {defaults}\n", "lab/tasks/t.yaml": f"steps: {{a: {LOG}, b: {LOG}}}"}
    (found,) = problems_of(tmp_path, files)
    assert found.startswith(f"lab/plan.yaml:{problem}"), found
