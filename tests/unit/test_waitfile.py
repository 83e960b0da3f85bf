"""What a plan file says of steps that wait: what it becomes, and what is refused, with its place."""

from itertools import accumulate
from pathlib import Path

import pytest
from tests.fakes.plans import write_files

from aura.builtin import shipped
from aura.loading.loader import CheckedPlan, check_plans
from aura.task import Step

BEFORE = "inputs: {v: string, n: {type: integer, default: 1}}\nsteps:\n  b: {action: log, params: {message: x}}\n"


def checked(folder: Path, step: str) -> CheckedPlan:
    """The plan of a task whose step ``a`` stands in line 4."""
    (found,) = check_plans(write_files(folder, {"lab/tasks/t.yaml": f"{BEFORE}  a: {step}\n"}), shipped())
    return found


def event(params: str) -> str:
    return f"{{action: event.wait, params: {{{params}}}}}"


def approval(params: str) -> str:
    return f"{{action: approval.wait, params: {{{params}}}}}"


def asking(inputs: str) -> str:
    return approval(f"message: x, inputs: {{{inputs}}}")


def step_of(folder: Path, step: str) -> Step:
    found = checked(folder, step)
    assert found.plan is not None, found.problems
    return found.plan.tasks["t"].steps["a"]


def test_when_of_an_event_is_no_parameter(tmp_path: Path) -> None:
    step = step_of(
        tmp_path, "{action: event.wait, params: {name: 'x.*', when: '{{ event.payload.n == inputs.n }}', timeout: 1h}}"
    )
    assert sorted(step.params) == ["name", "timeout"]
    assert step.event_when is not None
    assert step.event_when.test({"event": {"payload": {"n": 2}}, "inputs": {"n": 2}})
    assert step.event_when.at == "lab/tasks/t.yaml:4"


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(event("name: done"), id="no-when"),
        pytest.param(event("name: done, when: true"), id="true"),
        pytest.param(event("name: 'run.*'"), id="own-events"),
        pytest.param(event("name: '**'"), id="any-event"),
        pytest.param(event("name: '{{ inputs.v }}'"), id="rendered-name"),
        pytest.param(event("name: 'lab.{{ inputs.v }}', timeout: null"), id="rendered-part"),
        pytest.param(
            event("name: x, when: '{{ event.headers and steps.b.output }}'")[:-1] + ", depends_on: b}", id="step"
        ),
        pytest.param(event("name: x, when: '{{ event.id == loop.index }}'")[:-1] + ", loop: {times: 2}}", id="loop"),
        pytest.param(approval("message: '{{ inputs.v }}'"), id="rendered-message"),
        pytest.param(asking(""), id="no-inputs"),
        pytest.param(approval("message: x, inputs: '{{ inputs }}'"), id="rendered-inputs"),
        pytest.param(asking("a: string, b: {type: integer, maximum: '{{ inputs.n }}'}"), id="one-rendered-input"),
        pytest.param("{action: sleep, params: {duration: '{{ inputs.v }}'}}", id="rendered-sleep"),
        pytest.param("{action: sleep, params: {duration: 0}}", id="no-sleep"),
    ],
)
def test_step_that_is_right(tmp_path: Path, step: str) -> None:
    assert step_of(tmp_path, step).name == "a"


#: A step, with ``§`` before the places of its problems, and how each begins.
WRONG: dict[str, tuple[str, list[str]]] = {
    "own event that is none": (event("name: §run.done"), ["name: Aura has no event 'run.done'"]),
    "no pattern": (event("name: §'a b'"), ["name: 'a b' is no pattern of events"]),
    "empty part": (event("name: §a..b"), ["name: 'a..b' is no pattern of events"]),
    "name is no text": (event("name: §3"), ["event.wait: name: Expected `str`, got `int`"]),
    "no name": ("{action: event.wait, §params: {timeout: 1h}}", ["event.wait needs the parameter name"]),
    "when is text": (event("name: x, when: §'{{ event }} is it'"), ["a condition is one whole {{ … }}"]),
    "when is false": (event("name: x, when: §false"), ["when: false: no event would ever"]),
    "when is no expression": (event("name: x, when: §'{{ event. }}'"), ["expected name or number"]),
    "unknown name": (event("name: x, when: §'{{ evnt.payload }}'"), ["unknown name 'evnt'; did you mean 'event'?"]),
    "key of an event": (event("name: x, when: §'{{ event.data }}'"), ["an event has no 'data'"]),
    "unknown input": (event("name: x, when: §'{{ inputs.w }}'"), ["the task has no input 'w'"]),
    "step that is not before": (event("name: x, when: §'{{ steps.b.output }}'"), ["steps.b is named here, but this"]),
    "its own output": (event("name: x, when: §'{{ steps.a.output }}'"), ["steps.a is named here, but this"]),
    "no loop": (event("name: x, when: §'{{ loop.item }}'"), ["`loop` is there only in a step that loops"]),
    "result": (event("name: x, when: §'{{ result }}'"), ["`result` is there only in"]),
    "no time": (event("name: x, timeout: §0"), ["timeout: 0 would be over at once"]),
    "no unit": (event("name: x, timeout: §90"), ["event.wait: timeout: 90 has no unit"]),
    "unknown parameter": (event("§nam: x, name: x"), ["event.wait has no parameter 'nam'"]),
    "no message": ("{§action: approval.wait, params: {}}", ["approval.wait needs the parameter message"]),
    "empty message": (approval("message: §' '"), ["message: say what is to be approved"]),
    "long message": (approval(f"message: §{'x' * 4001}"), ["message: it has 4001 characters"]),
    "when of an approval": (approval("message: x, §when: true"), ["approval.wait has no parameter 'when'"]),
    "inputs are a list": (approval("message: x, inputs: §[a]"), ["approval.wait: inputs: Expected `object`"]),
    "name of an input": (asking("§Ok: string"), ["'Ok' cannot name an input"]),
    "name beside an expression": (asking("§Ok: '{{ inputs.v }}'"), ["'Ok' cannot name an input"]),
    "type of an input": (asking("a: §strin"), ["an input needs a type"]),
    "key of an input": (asking("a: {type: string, §minimum: 1}"), ["minimum means nothing for type string"]),
    "default that does not fit": (asking("a: {type: integer, default: §x}"), ["default: integer is needed"]),
    "two at once": (asking("a: {type: §x}, b: {type: §y}"), ["an input needs a type"] * 2),
    "unknown step in inputs": (
        asking("a: {type: string, description: §'{{ steps.c }}'}"),
        ["the task has no step 'c'"],
    ),
    "sleep without a unit": ("{action: sleep, params: {duration: §5}}", ["sleep: duration: 5 has no unit"]),
    "sleep for no time": ("{action: sleep, params: {duration: §soon}}", ["sleep: duration: 'soon' is not a duration"]),
    "sleep backwards": ("{action: sleep, params: {duration: §-5s}}", ["sleep: duration: "]),
    "sleep for nothing": ("{§action: sleep}", ["sleep needs the parameter duration"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_step_that_is_wrong(tmp_path: Path, name: str) -> None:
    marked, expected = WRONG[name]
    columns = [len("  a: ") + len(before) + 1 for before in accumulate(marked.split("§")[:-1])]
    problems = checked(tmp_path, marked.replace("§", "")).problems
    assert [(problem.line, problem.column) for problem in problems] == [(4, column) for column in columns], problems
    for problem, begin in zip(problems, expected, strict=True):
        assert problem.message.startswith(begin), problem


def test_too_many_inputs_are_refused(tmp_path: Path) -> None:
    many = ", ".join(f"i{number}: string" for number in range(101))
    problems = checked(tmp_path, f"{{action: approval.wait, params: {{message: x, inputs: {{{many}}}}}}}").problems
    assert [problem.message for problem in problems] == ["inputs: at most 100 can be asked for"]
