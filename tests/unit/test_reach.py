"""Steps that can never start: each is found, with the reason, and none is named that could."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.plans import problems_in

from aura.expressions import condition
from aura.graph import Graph
from aura.lifecycle import StepState
from aura.loading.reach import unreachable
from aura.loading.stepfile import STATES
from aura.task import Dependency, Source, Step

P = StepState


def written(steps: str) -> str:
    return f"steps: {steps}".replace("D", "action: log, params: {message: x}")


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        pytest.param("{a: {D, when: false}}", "1:54: step a can only be skipped: `when` is false", id="when"),
        pytest.param(
            "{a: {D}, b: {D, depends_on: {a: skipped}}}",
            "1:104: step b can only be skipped: it needs a to have been skipped, but a is never skipped",
            id="never-skipped",
        ),
        pytest.param(
            "{a: {D}, b: {D, depends_on: {a: timed_out}}}",
            "1:104: step b can only be skipped: it needs a to have timed out, but a has no timeout",
            id="no-timeout",
        ),
        pytest.param(
            "{a: {D}, b: {D, depends_on: {a: [skipped, timed_out]}}}",
            "1:104: step b can only be skipped: it needs a to have timed out or been skipped, but a is never",
            id="neither",
        ),
        pytest.param(
            "{a: {D}, b: {D, depends_on: a}, c: {D, depends_on: {a: failed, b: succeeded}}}",
            "1:170: step c can only be skipped: it needs a to have failed, and b, which needs a to have succeeded",
            id="contradiction",
        ),
        pytest.param(
            "{a: {D}, b: {D, depends_on: a}, c: {D, depends_on: {a: failed}}, d: {D, depends_on: [b, c]}}",
            "1:220: step d can only be skipped: it needs b, which needs a to have succeeded, and c, which needs a to",
            id="two-branches",
        ),
    ],
)
def test_step_that_can_never_start(tmp_path: Path, steps: str, problem: str) -> None:
    (found,) = problems_in(tmp_path, written(steps))
    assert found.startswith(problem), found


def test_steps_that_need_one_that_can_only_be_skipped_are_named_too(tmp_path: Path) -> None:
    first = "a: {D, when: false}, b: {D, depends_on: a}, c: {D, depends_on: {any: [a, b]}}"
    steps = written(f"{{{first}, d: {{D, depends_on: {{c: ended}}}}}}")
    found = [problem.partition(": ")[2] for problem in problems_in(tmp_path, steps)]
    assert found == [
        "step a can only be skipped: `when` is false",
        "step b can only be skipped: it needs a to have succeeded, but a can only be skipped",
        "step c can only be skipped: it needs one of a, b, and these can only be skipped",
    ]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param("{a: {D, when: true}, b: {D, depends_on: a}}", id="when-true"),
        pytest.param("{a: {D, when: '{{ false }}'}, b: {D, depends_on: {a: skipped}}}", id="when-of-an-expression"),
        pytest.param("{a: {D}, b: {D, depends_on: a}, c: {D, depends_on: {b: skipped}}}", id="skipped-by-its-own"),
        pytest.param(
            "{a: {D}, b: {D, depends_on: a}, c: {D, depends_on: {a: failed, b: skipped}}}", id="failed-skipped"
        ),
        pytest.param("{a: {D}, b: {D, depends_on: a}, c: {D, depends_on: {a: failed, b: ended}}}", id="failed-ended"),
        pytest.param("{a: {D, timeout: 1s}, b: {D, depends_on: {a: timed_out}}}", id="timed-out"),
        pytest.param(
            "{a: {D}, b: {D, depends_on: a}, c: {D, depends_on: {a: failed}}, d: {D, depends_on: {any: [b, c]}}}",
            id="any",
        ),
        pytest.param("{a: {D}, b: {D, depends_on: {a: cancelled}}}", id="cancelled"),
    ],
)
def test_step_that_can_start_is_not_named(tmp_path: Path, steps: str) -> None:
    assert problems_in(tmp_path, written(steps)) == []


_NAMES = "abcdef"
_WISHES = st.sampled_from(
    [frozenset({P.SUCCEEDED}), STATES["failed"], frozenset({P.TIMED_OUT}), frozenset({P.SKIPPED})]
)


@st.composite
def graphs(draw: st.DrawFn) -> Mapping[str, Step]:
    """A graph of a few steps, each with some wishes of those before it."""
    steps: dict[str, Step] = {}
    for index, name in enumerate(_NAMES[: draw(st.integers(2, 6))]):
        before = draw(st.lists(st.sampled_from(_NAMES[:index]), max_size=3, unique=True)) if index else []
        any_of = draw(st.booleans())
        wishes = [Dependency(step, frozenset({P.SUCCEEDED}) if any_of else draw(_WISHES | _more())) for step in before]
        when = draw(st.sampled_from([None, None, None, False, "{{ x }}"]))
        steps[name] = Step(
            name=name,
            action="log",
            source=Source("f", 1),
            depends_on=tuple(wishes),
            any_of=any_of,
            when=None if when is None else condition(when, "f:1"),
            timeout=draw(st.sampled_from([None, 1.0])),
        )
    return steps


def _more() -> st.SearchStrategy[frozenset[StepState]]:
    return st.lists(_WISHES, min_size=2, max_size=2).map(lambda two: two[0] | two[1])


def ends(step: Step) -> list[StepState | None]:
    """What can come of a step that may start; None: its ``when`` does not hold."""
    if step.when is not None and step.when.value is False:
        return [None]
    timed_out = [P.TIMED_OUT] if step.timeout else []
    return [P.SUCCEEDED, P.FAILED, *timed_out, *([None] if step.when is not None else [])]


def started(steps: Mapping[str, Step]) -> Iterator[str]:
    """Play the graph with everything that can come of its steps; give the names of those that started."""
    for outcomes in itertools.product(*(ends(step) for step in steps.values())):
        chosen = dict(zip(steps, outcomes, strict=True))
        graph = Graph(steps)
        while ready := graph.take_ready()[0]:
            for progress in ready:
                outcome = chosen[progress.name]
                if outcome is None:
                    graph.skip(progress, "when")
                    continue
                yield progress.name
                progress.move(P.RUNNING)
                graph.end(progress, outcome)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(graphs())
def test_what_is_named_never_starts_whatever_the_others_come_to(steps: Mapping[str, Step]) -> None:
    assert not {step.name for step, _ in unreachable(steps)} & set(started(steps))
