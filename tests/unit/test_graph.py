"""Readiness, skipping and outcome of a graph of steps, against the rules themselves on random graphs."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura.errors import InternalError
from aura.graph import Graph, StepProgress
from aura.lifecycle import STEP_FINAL, RunState, StepState
from aura.task import Dependency, Source, Step

P = StepState
AT = Source("t.yaml", 1)


def made(name: str, *needs: str, states: frozenset[StepState] = frozenset({P.SUCCEEDED}), **keys: object) -> Step:
    dependencies = tuple(Dependency(n, states) for n in needs)
    return Step(name=name, action="log", source=AT, depends_on=dependencies, **keys)  # type: ignore[arg-type]


def graph(*steps: Step) -> Graph:
    return Graph({s.name: s for s in steps})


def names(progress: list[StepProgress]) -> list[str]:
    return [p.name for p in progress]


def start_and_end(g: Graph, name: str, state: StepState) -> None:
    g.steps[name].move(P.RUNNING)
    g.end(g.steps[name], state)


def test_what_had_ended_before_lets_start_what_depends_on_it_and_is_counted() -> None:
    g = graph(made("a"), made("b", "a"), made("c", "b"), made("d", "x"), made("x"))
    for name, state in (("a", P.SUCCEEDED), ("b", P.SUCCEEDED), ("x", P.FAILED)):
        g.put_ended(g.steps[name], state)
    ready, skipped = g.take_ready()
    assert (names(ready), names(skipped), g.ended) == (["c"], ["d"], False)
    start_and_end(g, "c", P.SUCCEEDED)
    assert (g.ended, g.outcome()) == (True, RunState.FAILED)


def test_what_depends_on_nothing_starts_together_and_once() -> None:
    g = graph(made("a"), made("b"), made("c", "a"))
    assert names(g.take_ready()[0]) == ["a", "b"]
    assert g.take_ready() == ([], [])


def test_given_back_step_is_ready_again() -> None:
    g = graph(made("a"))
    (a,) = g.take_ready()[0]
    a.move(P.RUNNING)
    g.give_back(a)
    assert names(g.take_ready()[0]) == ["a"]


def test_failure_skips_down_the_chain_at_once() -> None:
    g = graph(made("a"), made("b", "a"), made("c", "b"))
    g.take_ready()
    start_and_end(g, "a", P.FAILED)
    ready, skipped = g.take_ready()
    assert (ready, names(skipped), g.ended) == ([], ["b", "c"], True)
    assert g.steps["c"].skipped_because == "b skipped"
    assert g.outcome() is RunState.FAILED


@pytest.mark.parametrize(
    ("state", "forgiven", "outcome"),
    [
        (P.SUCCEEDED, False, RunState.SUCCEEDED),
        (P.FAILED, False, RunState.FAILED),
        (P.TIMED_OUT, False, RunState.FAILED),
        (P.FAILED, True, RunState.SUCCEEDED),
        (P.CANCELLED, False, None),
    ],
    ids=str,
)
def test_outcome_by_the_steps_end(state: StepState, forgiven: bool, outcome: RunState | None) -> None:
    g = graph(made("a", continue_on_failure=forgiven))
    g.take_ready()
    assert g.outcome() is None
    start_and_end(g, "a", state)
    assert g.outcome() is outcome


def test_early_end_skips_what_has_not_begun_and_waits_for_what_runs() -> None:
    g = graph(made("a"), made("b"), made("c", "b"))
    g.take_ready()
    g.steps["b"].move(P.RUNNING)
    start_and_end(g, "a", P.SUCCEEDED)
    assert names(g.end_early("a")) == ["c"]
    assert g.outcome() is None
    g.end(g.steps["b"], P.CANCELLED)
    assert g.outcome() is RunState.SUCCEEDED


def test_illegal_move_of_a_step_is_an_internal_error() -> None:
    with pytest.raises(InternalError):
        graph(made("a")).steps["a"].move(P.SUCCEEDED)


STATES = [frozenset({P.SUCCEEDED}), frozenset({P.FAILED, P.TIMED_OUT}), frozenset(STEP_FINAL)]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    steps = []
    for index in range(draw(st.integers(1, 14))):
        needs = draw(st.lists(st.integers(0, index - 1), max_size=3, unique=True)) if index else []
        dependencies = tuple(Dependency(f"s{n}", draw(st.sampled_from(STATES))) for n in needs)
        steps.append(
            Step(name=f"s{index}", action="log", source=AT, depends_on=dependencies, any_of=draw(st.booleans()))
        )
    return graph(*steps)


def may_start(g: Graph, step: Step) -> bool:
    met = [g.steps[d.step].state in d.states for d in step.depends_on]
    return not met or (any(met) if step.any_of else all(met))


@given(graphs(), st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_every_step_of_any_graph_ends_and_none_starts_early(g: Graph, seed: int) -> None:
    rng = random.Random(seed)
    running: list[StepProgress] = []
    while True:
        ready, skipped = g.take_ready()
        assert all(may_start(g, p.step) for p in ready)
        assert not any(may_start(g, p.step) for p in skipped)
        for progress in ready:
            progress.move(P.RUNNING)
        running += ready
        if not running:
            break
        ending = running.pop(rng.randrange(len(running)))
        g.end(ending, rng.choice([P.SUCCEEDED, P.FAILED, P.TIMED_OUT]))
    assert g.ended
    assert g.outcome() in (RunState.SUCCEEDED, RunState.FAILED)
    assert all(p.state in STEP_FINAL for p in g)
