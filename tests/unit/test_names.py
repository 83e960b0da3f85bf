"""Names in expressions: a misspelt one is found when a plan is loaded, where it stands."""

from pathlib import Path

import pytest
from tests.fakes.plans import LOG, problems_in, problems_of


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        pytest.param("{{ foo }}", "unknown name 'foo'", id="unknown"),
        pytest.param("{{ input.day }}", "unknown name 'input'; did you mean 'inputs'?", id="near"),
        pytest.param("{{ day }}", "unknown name 'day'; did you mean 'inputs.day'?", id="input-alone"),
        pytest.param("{{ tidy.output }}", "unknown name 'tidy'; did you mean 'steps.tidy'?", id="step-alone"),
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
        pytest.param("{{ error.message }}", "`error` is there only in a step's retry.when, in on_failure", id="error"),
        pytest.param("{{ due | date }}", "`due` is there only in a schedule; in a task it is run.due", id="due"),
        pytest.param("{{ secrets.x }}", "plan.yaml does not declare the secret 'x'", id="secrets"),
        pytest.param("{{ loop.item }}", "`loop` is there only in a step that loops: in its params", id="loop"),
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
        pytest.param("params: {message: '{{ state.any.thing }}{{ state[event.name] }}'}", id="state"),
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


#: A step before that loops, one that does not, and one in which a text of the table stands.
_STEPS = """
steps:
  many: {action: log, params: {message: x}, loop: {times: 2}, outputs: {n: "{{ result }}"}}
  one: {action: log, params: {message: x}, outputs: {path: "{{ result }}"}}
  last: {action: log, params: {message: x}, depends_on: [many, one], HERE}
"""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("when: '{{ steps.one.outptu }}'", "steps.one has no 'outptu'; did you mean 'output'?", id="key"),
        pytest.param("when: '{{ steps[\"one\"].x }}'", "steps.one has no 'x'", id="key-in-brackets"),
        pytest.param(
            "when: '{{ steps.one.outputs.pth }}'", "step one has no output 'pth'; did you mean 'path'?", id="output"
        ),
        pytest.param(
            "when: '{{ steps.one.each }}'", "steps.one.each is there only of a step that loops, and one", id="each"
        ),
        pytest.param("when: '{{ steps.one.failed[0] }}'", "steps.one.failed is there only of a step that", id="failed"),
        pytest.param(
            "when: '{{ steps.many.each[0].outptu }}'", "an element of steps.many.each has no 'outptu'", id="item"
        ),
        pytest.param("when: '{{ steps.one.error.mesage }}'", "steps.one.error has no 'mesage'; did you", id="error-of"),
        pytest.param("when: '{{ loop.index }}'", "`loop` is there only in a step that loops", id="loop-elsewhere"),
        pytest.param(
            "loop: {times: 2}, when: '{{ loop.index }}'", "`loop` is there only in a step that", id="loop-when"
        ),
        pytest.param("loop: {times: '{{ loop.index }}'}", "`loop` is there only in a step that loops", id="loop-times"),
        pytest.param("loop: {for_each: [1, '{{ loop.item }}']}", "`loop` is there only in a step", id="loop-for-each"),
        pytest.param("loop: {while: '{{ loop.lst }}'}", "loop has no 'lst'; did you mean 'last'?", id="loop-key"),
        pytest.param("loop: {until: '{{ result }}'}", "`result` is there only in a step's outputs", id="result-until"),
        pytest.param(
            "outputs: {n: '{{ error }}'}", "`error` is there only in a step's retry.when", id="error-in-outputs"
        ),
        pytest.param("retry: {attempts: 2, when: '{{ loop.index }}'}", "`loop` is there only", id="loop-in-retry"),
        pytest.param(
            "retry: {attempts: 2, when: '{{ error.typ }}'}", "error has no 'typ'; did you mean 'type'?", id="error-key"
        ),
        pytest.param(
            "retry: {attempts: 2, when: '{{ steps.last.state }}'}", "step does not come after last", id="itself"
        ),
    ],
)
def test_problem_of_names_of_steps_and_loops(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems_in(tmp_path, _STEPS.replace("HERE", text))
    assert found.startswith("5:")
    assert problem in found


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("when: '{{ steps.many.each[0].error.type or steps.many.failed | length }}'", id="each"),
        pytest.param("when: '{{ steps.many.output[0].x or steps.many.outputs.n[0].y }}'", id="lists"),
        pytest.param("when: '{{ steps.one.outputs.path.anything or steps.one.output.items }}'", id="what-is-in-values"),
        pytest.param("loop: {times: 2}, outputs: {n: '{{ loop.item }}{{ result }}'}", id="outputs"),
        pytest.param("loop: {while: '{{ loop.last.x }}', delay: 1s}", id="while"),
        pytest.param("loop: {until: '{{ loop.index > 3 and steps.one.output }}'}", id="until"),
        pytest.param(
            "loop: {times: 2}, retry: {attempts: 2, when: '{{ loop.index and (result or error.type) }}'}", id="retry"
        ),
    ],
)
def test_names_of_steps_and_loops_that_are_there(tmp_path: Path, text: str) -> None:
    assert problems_in(tmp_path, _STEPS.replace("HERE", text)) == []


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        pytest.param("{{ inputs.day }}-{{ run.labels.team }}-{{ plan.name }}-{{ now() | date }}", None, id="all"),
        pytest.param("{{ inputs.dya }}", "the task has no input 'dya'; did you mean 'day'?", id="input"),
        pytest.param("{{ run.cid }}", "`run.cid` is not there in the key of a mode", id="run"),
        pytest.param("{{ run.cdi }}", "run has no 'cdi'; did you mean 'cid'?", id="run-key"),
        pytest.param("{{ steps.a.output }}", "`steps` is not there in the key of a mode", id="steps"),
        pytest.param("{{ event }}", "`event` is not there in the key of a mode", id="event"),
        pytest.param("{{ loop.item }}", "`loop` is there only in a step that loops", id="loop"),
    ],
)
def test_names_in_the_key_of_a_mode(tmp_path: Path, key: str, problem: str | None) -> None:
    text = f"inputs: {{day: string}}\nmode: {{kind: single, key: '{key}'}}\nsteps: {{a: {LOG}}}"
    found = problems_in(tmp_path, text)
    assert (found == []) if problem is None else found[0].startswith(f"2:27: {problem}"), found
