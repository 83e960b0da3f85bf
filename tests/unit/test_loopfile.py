"""The grammar of ``loop``: what it becomes, and what is refused, with its place."""

from pathlib import Path

import pytest
from tests.fakes.plans import problems_in, task_of

from aura.task import Loop


def loop_of(tmp_path: Path, text: str) -> Loop:
    found = task_of(tmp_path, f"steps: {{a: {{action: log, params: {{message: x}}, loop: {text}}}}}").steps["a"].loop
    assert found is not None
    return found


def test_loop_with_everything_over_items(tmp_path: Path) -> None:
    loop = loop_of(tmp_path, "{for_each: '{{ vars }}', parallelism: 1000, on_item_failure: continue}")
    assert loop.for_each is not None
    assert loop.for_each.value == "{{ vars }}"
    assert (loop.parallelism, loop.stop_on_failure, loop.while_, loop.until, loop.times) == (
        1000,
        False,
        None,
        None,
        None,
    )


def test_loop_with_everything_over_rounds(tmp_path: Path) -> None:
    loop = loop_of(tmp_path, "{while: '{{ loop.index < 3 }}', delay: 1m, max_iterations: 5}")
    assert loop.while_ is not None
    assert loop.while_.value == "{{ loop.index < 3 }}"
    assert (loop.delay, loop.max_iterations, loop.stop_on_failure, loop.for_each, loop.until) == (
        60.0,
        5,
        True,
        None,
        None,
    )


def test_defaults_of_a_loop(tmp_path: Path) -> None:
    loop = loop_of(tmp_path, "{until: true}")
    assert (loop.parallelism, loop.delay, loop.max_iterations, loop.stop_on_failure) == (1, 0.0, 1000, True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("[1, '{{ vars }}']", [1, "{{ vars }}"], id="list"),
        pytest.param("[]", [], id="empty-list"),
        pytest.param("{a: 1}", {"a": 1}, id="mapping"),
        pytest.param("{}", {}, id="empty-mapping"),
    ],
)
def test_for_each(tmp_path: Path, text: str, value: object) -> None:
    loop = loop_of(tmp_path, f"{{for_each: {text}}}")
    assert loop.for_each is not None
    assert loop.for_each.value == value


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("100000", 100_000), ("'{{ 2 + 1 }}'", "{{ 2 + 1 }}")])
def test_times(tmp_path: Path, text: str, value: object) -> None:
    loop = loop_of(tmp_path, f"{{times: {text}}}")
    assert loop.times is not None
    assert loop.times.value == value


KINDS = "for_each, times, while, until"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("3", "54: loop must be a mapping, not a number", id="number"),
        pytest.param("[]", "54: loop must be a mapping, not a list", id="list"),
        pytest.param("{}", f"54: a loop goes by one of {KINDS}", id="nothing"),
        pytest.param("{parallelism: 2}", f"54: a loop goes by one of {KINDS}", id="no-kind"),
        pytest.param("{times: 1, while: true}", f"54: a loop goes by one of {KINDS}, not times and while", id="two"),
        pytest.param("{times: 1, delai: 1s}", "65: loop has no key 'delai'; did you mean 'delay'?", id="near"),
        pytest.param(
            "{for_each: 3}", "65: for_each: a list, a mapping or one whole {{ … }} is needed, not a n", id="3"
        ),
        pytest.param("{for_each: a b}", "65: for_each: a list, a mapping or one whole {{ … }} is needed", id="text"),
        pytest.param("{for_each: 'a{{ 1 }}'}", "65: for_each: a list, a mapping or one whole {{ … }}", id="part"),
        pytest.param("{for_each: '{{ 1 + }}'}", "65: unexpected 'end of template' in", id="for-each-syntax"),
        pytest.param("{for_each: [1, '{{ x }}']}", "69: unknown name 'x'", id="for-each-name"),
        pytest.param("{times: -1}", "62: times: a whole number from 0 to 100000 is needed, not -1", id="times-below"),
        pytest.param("{times: 100001}", "62: times: a whole number from 0 to 100000", id="times-above"),
        pytest.param("{times: 1.5}", "62: times: a whole number from 0 to 100000 is needed, not 1.5", id="times-part"),
        pytest.param("{times: true}", "62: times: a whole number", id="times-boolean"),
        pytest.param("{times: soon}", "62: times: a whole number", id="times-text"),
        pytest.param(
            "{times: '{{ 1 }}0'}", "62: times: a whole number or one whole {{ … }} is needed", id="times-more"
        ),
        pytest.param("{while: maybe}", "62: a condition is one whole {{ … }}, or true or false", id="while"),
        pytest.param("{while: false}", "62: while: false: there would be no round", id="while-false"),
        pytest.param("{until: 'x{{ 1 }}'}", "62: a condition is one whole {{ … }}", id="until"),
        pytest.param("{while: true, parallelism: 2}", "81: parallelism: means nothing for a loop with while", id="p"),
        pytest.param("{until: true, parallelism: 2}", "81: parallelism: means nothing for a loop with until", id="p-u"),
        pytest.param("{times: 2, parallelism: 0}", "78: parallelism: a whole number from 1 to 1000", id="p-0"),
        pytest.param("{times: 2, parallelism: 1001}", "78: parallelism: a whole number from 1 to 1000", id="p-1001"),
        pytest.param(
            "{times: 2, max_iterations: 2}", "81: max_iterations: means nothing for a loop with times", id="max"
        ),
        pytest.param("{for_each: [], delay: 1s}", "76: delay: means nothing for a loop with for_each", id="delay"),
        pytest.param("{while: true, delay: 1}", "75: delay: 1 has no unit", id="delay-unit"),
        pytest.param("{while: true, max_iterations: 0}", "84: max_iterations: a whole number from 1", id="max-0"),
        pytest.param(
            "{times: 2, on_item_failure: go}", "82: on_item_failure: stop or continue is needed, not", id="on"
        ),
    ],
)
def test_problem_of_a_loop(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems_in(tmp_path, f"steps: {{a: {{action: log, params: {{message: x}}, loop: {text}}}}}")
    assert found.startswith(f"1:{problem}"), found
