"""Names in expressions: a misspelt one is found when a plan is loaded, where it stands."""

from pathlib import Path

import pytest
from tests.fakes.plans import LOG, problems_in, problems_of


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        pytest.param("{{ foo }}", "unknown name 'foo'", id="unknown"),
        pytest.param("{{ input.day }}", "unknown name 'input'; did you mean 'inputs'?", id="near"),
        pytest.param("{{ inputs.dya }}", "the task has no input 'dya'; did you mean 'day'?", id="input"),
        pytest.param("{{ inputs['dya'] }}", "the task has no input 'dya'", id="input-in-brackets"),
        pytest.param("{{ vars.inbx }}", "plan.yaml has no variable 'inbx'; did you mean 'inbox'?", id="variable"),
        pytest.param("{{ run.cdi }}", "run has no 'cdi'; did you mean 'cid'?", id="run"),
        pytest.param("{{ plan.path }}", "plan has no 'path'", id="plan"),
        pytest.param("{{ steps.nope.output }}", "the task has no step 'nope'", id="step"),
        pytest.param(
            "{{ steps.b.output }}", "steps.b is named here, but this step does not come after b", id="not-after"
        ),
        pytest.param("{{ steps.a.output }}", "steps.a is named here, but this step does not come after a", id="itself"),
        pytest.param("{{ steps.tidy.output }}", "steps.tidy is named here, but this step does not", id="handler"),
        pytest.param("{{ result.x }}", "`result` is there only in a step's outputs", id="result"),
        pytest.param("{{ error.message }}", "`error` is there only in on_failure and finally", id="error"),
        pytest.param("{{ due | date }}", "`due` is there only in a schedule; in a task it is run.due", id="due"),
        pytest.param("{{ state.x }}", "`state` is not supported yet", id="state"),
        pytest.param("{{ loop.item }}", "`loop` is not supported yet", id="loop"),
        pytest.param("{{ inputs.day | upcase }}", "there is no filter 'upcase'", id="filter"),
        pytest.param("{{ inputs.day", "a {{ is never closed", id="open"),
    ],
)
def test_problem_of_names(tmp_path: Path, message: str, problem: str) -> None:
    files = {
        "lab/plan.yaml": "vars: {inbox: /srv}\n",
        "lab/tasks/t.yaml": f'inputs: {{day: string}}\nsteps:\n  a: {{action: log, params: {{message: "{message}"}}}}\n'
        f"  b: {LOG}\nfinally: {{tidy: {LOG}}}\n",
    }
    (found,) = problems_of(tmp_path, files)
    assert found.startswith("lab/tasks/t.yaml:3:38: ")
    assert problem in found


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("outputs: {x: '{{ result }} {{ steps.b.output }}'}", id="result-in-outputs"),
        pytest.param("when: '{{ steps.a.output and steps.b.state }}'", id="all-before"),
        pytest.param("when: '{{ event is null or now() > run.due }}'", id="event-now-run"),
        pytest.param("params: {message: '{{ plan.name }}{{ days(1) }}{{ null }}{{ range(2) }}'}", id="functions"),
    ],
)
def test_names_that_are_there(tmp_path: Path, text: str) -> None:
    text = text if text.startswith("params") else f"params: {{message: x}}, {text}"
    last = f"{{action: log, depends_on: b, {text}}}"
    assert not problems_in(
        tmp_path, f"steps: {{c: {last}, a: {LOG}, b: {{action: log, params: {{message: x}}, depends_on: a}}}}"
    )


@pytest.mark.parametrize(
    ("where", "good"),
    [
        ("on_failure: {h: {action: log, params: {message: '{{ error.message }}{{ steps.a.state }}'}}}", True),
        ("finally: {h: {action: log, params: {message: '{{ error.type if error }}'}}}", True),
        ("on_cancel: {h: {action: log, params: {message: '{{ steps.a.output }}'}}}", True),
        ("on_cancel: {h: {action: log, params: {message: '{{ error.message }}'}}}", False),
        ("returns: {x: '{{ steps.a.output }}'}", True),
        ("returns: '{{ steps.b.output }}'", False),
        ("returns: '{{ result }}'", False),
    ],
)
def test_names_around_the_steps(tmp_path: Path, where: str, good: bool) -> None:
    assert bool(problems_in(tmp_path, f"steps: {{a: {LOG}}}\n{where}")) is not good


def test_problem_inside_a_list_is_at_its_line(tmp_path: Path) -> None:
    text = "steps:\n  a:\n    action: shell.run\n    params:\n      argv:\n        - echo\n        - '{{ foo }}'\n"
    assert problems_in(tmp_path, text) == ["7:11: unknown name 'foo'"]
