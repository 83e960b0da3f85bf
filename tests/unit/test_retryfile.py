"""The grammar of ``retry``: what it becomes, and what is refused, with its place."""

from pathlib import Path

import pytest
from tests.fakes.plans import problems_in, task_of

from aura.task import Retry


def retry_of(tmp_path: Path, text: str) -> Retry:
    return task_of(tmp_path, f"steps: {{a: {{action: log, params: {{message: x}}, retry: {text}}}}}").steps["a"].retry


def test_retry_with_everything(tmp_path: Path) -> None:
    told = (
        "attempts: 3, delay: 1s, backoff: 2, max_delay: 30s, jitter: true, errors: [OSError, Shut], when: '{{ error }}'"
    )
    retry = retry_of(tmp_path, f"{{{told}}}")
    assert (retry.attempts, retry.delay, retry.backoff, retry.max_delay, retry.jitter) == (3, 1.0, 2.0, 30.0, True)
    assert retry.errors == {"OSError", "Shut"}
    assert retry.when is not None
    assert retry.when.value == "{{ error }}"


@pytest.mark.parametrize(
    "text", ["{}", "{attempts: 1}", "{delay: 0}", "{attempts: 1, delay: '0', backoff: 1, jitter: false}"]
)
def test_retry_that_says_what_is_so_anyway(tmp_path: Path, text: str) -> None:
    assert retry_of(tmp_path, text) == Retry()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("{attempt: 2}", "56: retry has no key 'attempt'; did you mean 'attempts'?", id="near"),
        pytest.param("{attempts: 0}", "66: attempts: a whole number from 1 to 1000 is needed, not 0", id="attempts"),
        pytest.param("{attempts: 2, backoff: 0.5}", "78: backoff: a number from 1 to 100 is needed, not 0.5", id="b"),
        pytest.param("{attempts: 2, backoff: 101}", "78: backoff: a number from 1 to 100 is needed", id="backoff-high"),
        pytest.param(
            "{attempts: 2, backoff: twice}", "78: backoff: a number from 1 to 100 is needed", id="backoff-text"
        ),
        pytest.param("{attempts: 2, max_delay: 0}", "80: max_delay: 0 would be over at once", id="max-0"),
        pytest.param(
            "{attempts: 2, delay: 2s, max_delay: 1s}", "91: max_delay: is shorter than delay", id="max-below-delay"
        ),
        pytest.param("{attempts: 2, jitter: 1}", "77: jitter: true or false is needed, not a number", id="jitter"),
        pytest.param(
            "{attempts: 2, errors: OSError}", "77: errors: a list of names of exceptions is needed", id="errors"
        ),
        pytest.param("{attempts: 2, errors: []}", "77: errors: a list of names of exceptions is needed", id="no-error"),
        pytest.param(
            "{attempts: 2, errors: [1]}", "78: the name of an exception is needed, such as", id="error-number"
        ),
        pytest.param("{attempts: 2, errors: [a.B]}", "78: the name of an exception is needed", id="error-module"),
        pytest.param("{attempts: 2, errors: [A, A]}", "81: A is named twice", id="error-twice"),
        pytest.param("{errors: [A]}", "55: retry: errors has no effect without attempts: 2 or more", id="errors-alone"),
        pytest.param("{delay: 5s}", "55: retry: delay has no effect without attempts: 2 or more", id="delay-alone"),
        pytest.param("{attempts: 1, when: true}", "55: retry: when has no effect without attempts", id="when-alone"),
        pytest.param("{errors: [A], when: true}", "55: retry: errors and when have no effect", id="both-alone"),
        pytest.param("{attempts: 2, when: 1}", "75: a condition is one whole {{ … }}, or true or false", id="when"),
    ],
)
def test_problem_of_a_retry(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems_in(tmp_path, f"steps: {{a: {{action: log, params: {{message: x}}, retry: {text}}}}}")
    assert found.startswith(f"1:{problem}"), found
