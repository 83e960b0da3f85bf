"""The grammar of ``mode`` and ``resources``, and whether resources can ever be had."""

from pathlib import Path

import pytest
from tests.fakes.plans import LOG, SHIPPED, problems_in, problems_of, task_of, write_files

from aura.loading.loader import check_plans
from aura.plan import Semaphore
from aura.task import ModeKind

STEPS = f"steps: {{a: {LOG}}}"


@pytest.mark.parametrize(
    ("text", "kind", "bound", "key"),
    [
        pytest.param("single", ModeKind.SINGLE, None, None, id="single"),
        pytest.param("restart", ModeKind.RESTART, None, None, id="restart"),
        pytest.param("queued", ModeKind.QUEUED, 10, None, id="queued"),
        pytest.param("parallel", ModeKind.PARALLEL, None, None, id="parallel"),
        pytest.param("{kind: queued, max: 2}", ModeKind.QUEUED, 2, None, id="queued-max"),
        pytest.param("{kind: queued, key: k}", ModeKind.QUEUED, 10, "k", id="queued-key"),
        pytest.param("{kind: parallel, max: 4, key: 'a{{ vars }}'}", ModeKind.PARALLEL, 4, "a{{ vars }}", id="all"),
        pytest.param("{kind: single, key: '{{ vars }}'}", ModeKind.SINGLE, None, "{{ vars }}", id="key"),
    ],
)
def test_mode(tmp_path: Path, text: str, kind: ModeKind, bound: int | None, key: str | None) -> None:
    mode = task_of(tmp_path, f"mode: {text}\n{STEPS}").mode
    assert (mode.kind, mode.max, mode.key.value if mode.key else None) == (kind, bound, key)


def test_mode_unless_the_task_says_one(tmp_path: Path) -> None:
    mode = task_of(tmp_path, STEPS).mode
    assert (mode.kind, mode.max, mode.key) == (ModeKind.PARALLEL, None, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "singel", "7: mode: single or restart or queued or parallel is needed, not 'singel'; did", id="near"
        ),
        pytest.param("[single]", "7: mode: single or restart or queued or parallel is needed, not a list", id="list"),
        pytest.param("{max: 2}", "7: mode: a mode needs a kind: single, restart, queued, parallel", id="no-kind"),
        pytest.param("{kind: 1}", "14: kind: single or restart", id="kind"),
        pytest.param("{kind: single, max: 2}", "27: max: means nothing for mode single", id="single-max"),
        pytest.param("{kind: restart, max: 2}", "28: max: means nothing for mode restart", id="restart-max"),
        pytest.param("{kind: queued, max: 0}", "27: max: a whole number from 1 to 100000 is needed", id="max"),
        pytest.param("{kind: queued, key: 1}", "27: key: text is needed", id="key-number"),
        pytest.param("{kind: queued, key: ''}", "27: key: text is needed", id="key-empty"),
        pytest.param("{kind: queued, key: '{{ 1 + }}'}", "27: unexpected 'end of template' in", id="key-syntax"),
        pytest.param("{kind: queued, maximum: 1}", "22: mode has no key 'maximum'", id="unknown"),
    ],
)
def test_problem_of_a_mode(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems_in(tmp_path, f"mode: {text}\n{STEPS}")
    assert found.startswith(f"1:{problem}"), found


PLAN = "resources: {screen: 2, arm: 1, api: {rate: 3, per: 1m}}\n"


def needing(run: str, step: str) -> str:
    return f"resources: {run}\nsteps: {{a: {{action: log, params: {{message: x}}, resources: {step}}}}}\n"


def test_resources_that_there_are(tmp_path: Path) -> None:
    files = {"lab/plan.yaml": PLAN, "lab/tasks/t.yaml": needing("{screen: 1, api: 3}", "{screen: 1, arm: 1, api: 3}")}
    (checked,) = check_plans(write_files(tmp_path, files), SHIPPED)
    assert checked.plan is not None, checked.problems
    task = checked.plan.tasks["t"]
    assert task.resources == {"screen": 1, "api": 3}
    assert task.steps["a"].resources == {"screen": 1, "arm": 1, "api": 3}


@pytest.mark.parametrize(
    ("run", "step", "problem"),
    [
        pytest.param(
            "{scren: 1}", "{}", "1:13: there is no resource 'scren'; did you mean 'screen'?; declare", id="near"
        ),
        pytest.param(
            "{}", "{desk: 1}", "2:60: there is no resource 'desk'; declare it under `resources` in", id="step"
        ),
        pytest.param("{screen: 3}", "{}", "1:21: screen: 3 can never be had, since there are 2", id="run-too-many"),
        pytest.param("{}", "{arm: 2}", "2:65: arm: 2 can never be had, since there are 1", id="step-too-many"),
        pytest.param(
            "{screen: 1}",
            "{screen: 2}",
            "2:68: screen: 2 more can never be had: the run holds 1 meanwhile",
            id="together",
        ),
        pytest.param("{api: 4}", "{}", "1:18: api: 4 can never be had, since there are 3", id="rate"),
        pytest.param("{screen: 0}", "{}", "1:21: screen: a whole number from 1 to 1000000 is needed, not 0", id="none"),
        pytest.param("{screen: '1'}", "{}", "1:21: screen: a whole number from 1", id="text"),
        pytest.param("[screen]", "{}", "1:12: resources must be a mapping, not a list", id="list"),
        pytest.param("{Screen: 1}", "{}", "1:13: 'Screen' cannot name a resource", id="name"),
    ],
)
def test_problem_of_resources(tmp_path: Path, run: str, step: str, problem: str) -> None:
    found = problems_of(tmp_path, {"lab/plan.yaml": PLAN, "lab/tasks/t.yaml": needing(run, step)})
    assert found[0].startswith(f"lab/tasks/t.yaml:{problem}"), found


def test_step_of_a_handler_asks_beside_what_the_run_holds(tmp_path: Path) -> None:
    tidy = "finally: {z: {action: log, params: {message: x}, resources: {arm: 1}}}\n"
    files = {"lab/plan.yaml": PLAN, "lab/tasks/t.yaml": f"{tidy}{needing('{arm: 1}', '{}')}"}
    (found,) = problems_of(tmp_path, files)
    assert found.startswith("lab/tasks/t.yaml:1:67: arm: 1 more can never be had")


def test_resources_of_all_plans_are_known_and_the_plan_s_own_go_before(tmp_path: Path) -> None:
    files = {"lab/plan.yaml": PLAN, "lab/tasks/t.yaml": needing("{desk: 2}", "{screen: 2}")}
    shared = {"desk": Semaphore(2), "screen": Semaphore(1)}
    (checked,) = check_plans(write_files(tmp_path, files), SHIPPED, resources=shared)
    assert checked.problems == ()
