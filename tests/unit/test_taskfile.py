"""The grammar of a task: what its keys become, and what is refused, with its place, a near name or a hint."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.plans import LOG, problems_in, task_of

from aura.lifecycle import Recovery, StepState
from aura.loading import loopfile, modefile, retryfile, stepfile, taskfile
from aura.loading.fields import Reader
from aura.loading.planfile import PlanHead
from aura.loading.taskfile import HANDLERS, read_task
from aura.loading.yamlfile import load
from aura.plan import Semaphore
from aura.task import Dependency, Retry

#: A step that can time out.
TIMED = "{action: log, params: {message: x}, timeout: 1s}"
ENDED = frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED, StepState.TIMED_OUT})


def test_task_with_everything(tmp_path: Path) -> None:
    task = task_of(
        tmp_path,
        """
        title: Nightly
        description: All of it
        lane: event
        priority: -5
        labels: {team: ops}
        timeout: 10m
        queue_timeout: 1h
        cleanup_timeout: 500ms
        recovery: restart
        steps:
          a:
            action: ping
            params: {host: h}
            retry: {attempts: 3, delay: 1s}
            timeout: 20s
            continue_on_failure: true
            idempotent: true
            outputs: {n: "{{ result }}"}
        finally:
          tidy: {action: log, params: {message: "{{ error.message }}"}}
        returns: "{{ steps.a.outputs.n }}"
        """,
    )
    step = task.steps["a"]
    assert (task.title, task.lane, task.priority, task.labels) == ("Nightly", "event", -5, {"team": "ops"})
    assert (task.timeout, task.queue_timeout, task.cleanup_timeout) == (600.0, 3600.0, 0.5)
    assert task.recovery is Recovery.RESTART
    assert (step.action, step.retry, step.timeout) == ("lab.ping", Retry(3, 1.0), 20.0)
    assert step.continue_on_failure
    assert step.idempotent
    assert (step.source.file, step.source.line, step.source.column) == ("lab/tasks/t.yaml", 12, 3)
    assert task.finally_["tidy"].action == "log"


def test_defaults_of_a_task(tmp_path: Path) -> None:
    task = task_of(tmp_path, f"steps: {{a: {LOG}}}")
    assert (task.lane, task.priority, task.timeout, task.cleanup_timeout) == (None, 0, None, 10.0)
    assert task.recovery is Recovery.FAIL
    assert task.returns is None
    assert task.steps["a"].retry == Retry(1, 0.0)


@pytest.mark.parametrize(
    ("depends_on", "dependencies", "any_of"),
    [
        pytest.param("a", {"a": {StepState.SUCCEEDED}}, False, id="name"),
        pytest.param("[a, b]", {"a": {StepState.SUCCEEDED}, "b": {StepState.SUCCEEDED}}, False, id="list"),
        pytest.param("{any: [a, b]}", {"a": {StepState.SUCCEEDED}, "b": {StepState.SUCCEEDED}}, True, id="any"),
        pytest.param("{a: failed}", {"a": {StepState.FAILED, StepState.TIMED_OUT}}, False, id="failed-with-timed-out"),
        pytest.param("{t: timed_out}", {"t": {StepState.TIMED_OUT}}, False, id="timed-out-alone"),
        pytest.param(
            "{a: [succeeded, skipped]}", {"a": {StepState.SUCCEEDED, StepState.SKIPPED}}, False, id="list-of-states"
        ),
        pytest.param("{a: ended, b: succeeded}", {"a": ENDED, "b": {StepState.SUCCEEDED}}, False, id="ended"),
        pytest.param("[]", {}, False, id="nothing"),
    ],
)
def test_depends_on(tmp_path: Path, depends_on: str, dependencies: dict[str, set[StepState]], any_of: bool) -> None:
    waiting = f"{{action: log, params: {{message: x}}, depends_on: {depends_on}}}"
    task = task_of(tmp_path, f"steps: {{c: {waiting}, a: {LOG}, b: {LOG}, t: {TIMED}}}")
    step = task.steps["c"]
    assert step.depends_on == tuple(Dependency(name, frozenset(states)) for name, states in dependencies.items())
    assert step.any_of is any_of


def test_steps_are_in_an_order_that_respects_the_graph(tmp_path: Path) -> None:
    late = "{action: log, params: {message: x}, depends_on: b}"
    assert list(task_of(tmp_path, f"steps: {{c: {late}, b: {LOG}, a: {LOG}}}").steps) == ["b", "a", "c"]


def test_list_of_steps_is_a_sequence(tmp_path: Path) -> None:
    item = "action: log, params: {message: x}"
    task = task_of(tmp_path, f"steps: [{{name: b, {item}}}, {{name: a, {item}}}, {{name: c, {item}, depends_on: b}}]")
    assert {name: [d.step for d in step.depends_on] for name, step in task.steps.items()} == {
        "b": [],
        "a": ["b"],
        "c": ["b"],
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "1:1: the file is empty", id="empty"),
        pytest.param("# nothing\n", "1:1: the file is empty", id="only-comments"),
        pytest.param("[]", "1:1: a task must be a mapping, not a list", id="list"),
        pytest.param("title: x", "1:1: a task needs `steps`", id="no-steps"),
        pytest.param("steps: {}", "1:8: steps: a task needs at least one step", id="no-step"),
        pytest.param("steps: x", "1:8: steps must be a mapping, not text", id="steps-text"),
        pytest.param(
            f"titel: x\nsteps: {{a: {LOG}}}", "1:1: a task has no key 'titel'; did you mean 'title'?", id="key"
        ),
        pytest.param(f"title: 1\nsteps: {{a: {LOG}}}", "1:8: title: text is needed, not a number", id="title"),
        pytest.param(
            f"lane: mian\nsteps: {{a: {LOG}}}", "1:7: lane: main or event is needed, not 'mian'; did", id="lane"
        ),
        pytest.param(
            f"lane: interrupt\nsteps: {{a: {LOG}}}", "1:7: lane: main or event is needed, not 'interrupt'", id="lane-i"
        ),
        pytest.param(
            f"priority: 1001\nsteps: {{a: {LOG}}}", "1:11: priority: a whole number from -1000", id="priority"
        ),
        pytest.param(f"priority: true\nsteps: {{a: {LOG}}}", "1:11: priority: a whole number", id="priority-boolean"),
        pytest.param(f"timeout: 90\nsteps: {{a: {LOG}}}", "1:10: timeout: 90 has no unit; say 90s", id="timeout"),
        pytest.param(f"timeout: 0\nsteps: {{a: {LOG}}}", "1:10: timeout: 0 would be over at once", id="timeout-0"),
        pytest.param(
            f"recovery: resum\nsteps: {{a: {LOG}}}",
            "1:11: recovery: fail or resume or restart is needed, not 'resum'; did you mean 'resume'?",
            id="recovery",
        ),
        pytest.param(f"labels: {{a: 1}}\nsteps: {{a: {LOG}}}", "1:13: the label a must be plain text", id="label"),
        pytest.param(f"labels: [a]\nsteps: {{a: {LOG}}}", "1:9: labels must be a mapping, not a list", id="labels"),
        pytest.param("steps: {A-b: " + LOG + "}", "1:9: 'A-b' cannot name a step", id="step-name"),
        pytest.param("steps: {any: " + LOG + "}", "1:9: a step cannot be called any", id="step-any"),
        pytest.param("steps: {a: {}}", "1:9: step a says no action", id="no-action"),
        pytest.param("steps: {a: x}", "1:12: step a must be a mapping, not text", id="step-text"),
        pytest.param(
            "steps: {a: {actoin: log}}", "1:13: step a has no key 'actoin'; did you mean 'action'?", id="key-near"
        ),
        pytest.param("steps: {a: {action: log, retrys: 1}}", "1:26: step a has no key 'retrys'; did you", id="retrys"),
        pytest.param("steps: [x]", "1:9: an element of a list of steps is a mapping that", id="list-element"),
        pytest.param("steps: [{action: log}]", "1:9: an element of a list of steps", id="list-without-name"),
        pytest.param(
            "steps: {a: {action: log, params: {message: x}, timeout: soon}}", "1:57: timeout: 'soon' is not", id="soon"
        ),
        pytest.param(
            "steps: {a: {action: log, params: {message: x}, idempotent: 1}}", "1:60: idempotent: true or", id="boolean"
        ),
        pytest.param(
            "steps: {a: {action: log, params: {message: x}, retry: 3}}", "1:55: retry must be a mapping", id="retry"
        ),
        pytest.param(
            "steps: {a: {action: log, params: {message: x}, retry: {attempts: 0}}}", "1:66: attempts: a", id="attempts"
        ),
        pytest.param(
            "steps: {a: {action: log, params: {message: x}, retry: {delay: 1}}}",
            "1:63: delay: 1 has no unit",
            id="delay",
        ),
        pytest.param(
            "steps: {a: {action: log, params: [x]}}", "1:34: params must be a mapping, not a list", id="params"
        ),
    ],
)
def test_problem_of_the_grammar(tmp_path: Path, text: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems_in(tmp_path, text)), problems_in(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(f"preempt: nver\nsteps: {{a: {LOG}}}", "1:10: preempt: now or at_step_end or never", id="task"),
        pytest.param(
            "steps: {a: {action: log, params: {message: x}, preempt: no}}",
            "1:57: preempt: now or at_step_end or never is needed, not 'no'",
            id="step",
        ),
    ],
)
def test_preempt_that_is_no_word_of_it(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems_in(tmp_path, text)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        pytest.param("{a: {D, depends_on: b}}", "steps has no step 'b'", id="unknown"),
        pytest.param("{pong: {D, depends_on: ping}, pign: {D}}", "steps has no step 'ping'; did you mean", id="near"),
        pytest.param("{a: {D, depends_on: a}}", "the steps wait for each other: a → a", id="self"),
        pytest.param(
            "{a: {D, depends_on: c}, b: {D, depends_on: a}, c: {D, depends_on: [b]}}",
            "the steps wait for each other: a → c → b → a",
            id="circle",
        ),
        pytest.param(
            "{a: {D}, b: {D, depends_on: {a: done}}}", "failed, skipped, succeeded, timed_out are", id="state"
        ),
        pytest.param("{a: {D}, b: {D, depends_on: {a: []}}}", "are the states to wait for", id="no-state"),
        pytest.param("{a: {D}, b: {D, depends_on: [a, a]}}", "a is named twice", id="twice"),
        pytest.param("{a: {D}, b: {D, depends_on: [1]}}", "the name of a step is needed, not a number", id="number"),
        pytest.param("{a: {D}, b: {D, depends_on: {any: a}}}", "a step's name, a list of names, {any", id="any-name"),
        pytest.param("{a: {D}, b: {D, depends_on: {any: []}}}", "`any` of no steps can never be", id="any-none"),
        pytest.param("{a: {D}, b: {D, depends_on: {any: [a], a: failed}}}", "beside `any` nothing else", id="any-more"),
        pytest.param("{a: {D}, b: {D, depends_on: 1}}", "a step's name, a list of names", id="wrong"),
        pytest.param("[{name: a, D}, {name: a, D}]", "the step 'a' is here a second time", id="twice-in-a-list"),
    ],
)
def test_problem_of_dependencies(tmp_path: Path, steps: str, problem: str) -> None:
    text = f"steps: {steps}".replace("D", "action: log, params: {message: x}")
    (found,) = problems_in(tmp_path, text)
    assert problem in found


@pytest.mark.parametrize("handler", HANDLERS)
def test_step_of_a_handler_has_a_name_of_its_own(tmp_path: Path, handler: str) -> None:
    (problem,) = problems_in(tmp_path, f"steps: {{a: {LOG}}}\n{handler}: {{a: {LOG}}}")
    assert problem.startswith(f"2:{len(handler) + 4}: the step 'a' is in steps already")


def test_all_steps_are_those_of_the_task_and_of_each_handler(tmp_path: Path) -> None:
    handlers = "".join(f"{key}: {{in_{key}: {LOG}}}\n" for key in HANDLERS)
    task = task_of(tmp_path, f"steps: {{a: {LOG}}}\n{handlers}")
    assert [step.name for step in task.all_steps()] == ["a", *(f"in_{key}" for key in HANDLERS)]
    assert (list(task.on_preempt), list(task.on_resume)) == (["in_on_preempt"], ["in_on_resume"])


_KEYS = sorted({*taskfile.KEYS, *stepfile.KEYS, *retryfile.KEYS, *loopfile.KEYS, *modefile.KEYS, "a", "any", "name"})
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["", "a", "1s", "log", "{{ steps.a.output }}", "{{ loop.x[0] }}", "{{ 1 +", "single", "failed", "2"]
    ),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=12,
)
_STEPS = st.fixed_dictionaries({"action": st.just("log")}, optional=dict.fromkeys((*stepfile.KEYS[1:], "x"), _VALUES))
_TASKS = _VALUES | st.fixed_dictionaries(
    {"steps": st.dictionaries(st.sampled_from(["a", "b", "any", "A"]), _STEPS | _VALUES, max_size=3) | _VALUES},
    optional={key: _VALUES for key in taskfile.KEYS if key != "steps"},
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_TASKS)
def test_whatever_a_task_file_says_it_is_read(value: Any) -> None:
    reader = Reader(load(json.dumps(value), "lab/tasks/t.yaml"))
    draft = read_task(reader, "lab", "t", PlanHead(), lambda name: name, {"screen": Semaphore(1)})
    assert reader.problems or draft.task.steps
    assert all(problem.line == 1 and problem.column >= 1 for problem in reader.problems)
