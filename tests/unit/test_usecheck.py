"""The actions that steps use: that they are there, and that the parameters fit."""

from pathlib import Path

import pytest
from tests.fakes.plans import problems_in, task_of


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        pytest.param("{action: pong}", "1:21: there is no action 'pong' in this plan; did you mean", id="own"),
        pytest.param("{action: lgo}", "1:21: there is no action 'lgo' in this plan; did you mean", id="shipped"),
        pytest.param("{action: shell.rnu}", "1:21: there is no action 'shell.rnu'; did you mean", id="dot"),
        pytest.param("{action: ping}", "1:13: lab.ping needs the parameter host", id="missing"),
        pytest.param("{action: ping, params: {hots: h}}", "1:36: lab.ping has no parameter 'hots'; did", id="unknown"),
        pytest.param("{action: log, params: {message: 5}}", "1:44: log: message: Expected `str`, got `int`", id="type"),
        pytest.param("{action: sleep, params: {duration: 90}}", "1:47: sleep: duration: 90 has no unit", id="duration"),
        pytest.param("{action: 7}", "1:21: action: text is needed, not a number", id="number"),
    ],
)
def test_problem_of_an_action(tmp_path: Path, step: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems_in(tmp_path, f"steps: {{a: {step}}}"))


def test_own_action_may_be_named_in_full(tmp_path: Path) -> None:
    task = task_of(tmp_path, "steps: {a: {action: lab.ping, params: {host: '{{ plan.name }}', count: 2}}}")
    assert task.steps["a"].action == "lab.ping"
