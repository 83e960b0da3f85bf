"""Why a step was skipped: the data, its bounds, and the words that it is put into."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from aura.explain import MAX_VALUE, MAX_VALUES, of_condition, of_skip
from aura.expressions import condition
from aura.graph import Graph
from aura.lifecycle import StepState
from aura.reasons import branches, details, head, sentence
from aura.task import Dependency, Source, Step

P = StepState
AT = "lab/tasks/t.yaml:12"


def scope(**inputs: Any) -> dict[str, Any]:
    return {"inputs": inputs}


def a_step(name: str, needs: str = "", *states: StepState, any_of: bool = False, line: int = 3) -> Step:
    depends_on = tuple(Dependency(need, frozenset(states or {P.SUCCEEDED})) for need in needs)
    return Step(name, "log", Source("lab/tasks/t.yaml", line), depends_on=depends_on, any_of=any_of)


def when(source: Any, inputs: dict[str, Any], secret: Iterable[str] = (), at: str = AT) -> dict[str, Any]:
    return of_condition("when", condition(source, at), scope(**inputs), list(secret), a_step("a"))


def ended(graph: Graph, **states: StepState) -> Graph:
    """End steps, those that cannot start any more by themselves."""
    for name, state in states.items():
        graph.take_ready()
        graph.put_ended(graph.steps[name], state)
    for progress in graph.take_ready()[1]:
        progress.explained = of_skip(graph, progress)
    return graph


# -- conditions -------------------------------------------------------------------------------------------------------


def test_condition_is_explained_by_source_values_and_place() -> None:
    found = when("{{ inputs.n > 3 }}", {"n": 2})
    assert found == {
        "because": "when",
        "expression": "{{ inputs.n > 3 }}",
        "values": {"inputs.n": 2},
        "file": "lab/tasks/t.yaml",
        "line": 12,
    }
    assert sentence(found) == f"when is false: {{{{ inputs.n > 3 }}}} with inputs.n = 2 ({AT})"
    assert (head(found), details(found)) == ("when is false", [f"{{{{ inputs.n > 3 }}}} ({AT})", "inputs.n = 2"])


def test_condition_without_an_expression_has_its_place() -> None:
    found = when(False, {})
    assert (found["expression"], found["values"]) == ("false", {})
    assert sentence(found) == f"when is false: false ({AT})"


def test_condition_whose_place_is_no_line_has_that_of_the_step() -> None:
    found = when(False, {}, at="made in Python")
    assert (found["file"], found["line"]) == ("lab/tasks/t.yaml", 3)


@pytest.mark.parametrize(("because", "said"), [("while", "while is false"), ("until", "until is true")])
def test_conditions_of_loops_are_named_as_in_the_plan(because: str, said: str) -> None:
    assert head(of_condition(because, condition("{{ inputs.n }}", AT), scope(n=1), [], a_step("a"))) == said


@pytest.mark.parametrize(
    ("expression", "secret", "values"),
    [
        pytest.param("inputs.key", ["/key"], {"inputs.key": "***"}, id="itself"),
        pytest.param("inputs.key[0:1]", ["/key"], {"inputs.key": "***"}, id="a-slice"),
        pytest.param("inputs.login.name", ["/login/password"], {"inputs.login.name": "ann"}, id="beside"),
        pytest.param(
            "inputs.login", ["/login/password"], {"inputs.login": {"name": "ann", "password": "***"}}, id="inside"
        ),
        pytest.param("inputs.login.password", ["/login"], {}, id="below"),
        pytest.param("inputs.keys", ["/keys/*"], {"inputs.keys": ["***", "***"]}, id="elements"),
        pytest.param("inputs['a/b']", ["/a~1b"], {'inputs["a/b"]': "***"}, id="escaped"),
    ],
)
def test_secret_inputs_are_not_in_the_values(expression: str, secret: list[str], values: dict[str, Any]) -> None:
    login = {"name": "ann", "password": "hunter2"}
    given = {"key": "hunter2", "login": login, "keys": ["hunter2", "hunter2"], "a/b": "hunter2"}
    found = when(f"{{{{ {expression} == 'x' }}}}", given, secret)
    assert found["values"] == values
    assert "hunter2" not in json.dumps(found) + sentence(found)


def test_long_values_are_cut_to_the_beginning_of_their_json() -> None:
    found = when("{{ inputs.rows == [] }}", {"rows": ["ü" * 300]})
    value = found["values"]["inputs.rows"]
    assert (len(value), value[:4], value[-1]) == (MAX_VALUE, '["üü', "…")
    assert len(sentence(found)) < 200


def test_many_values_are_cut() -> None:
    names = [f"n{number}" for number in range(MAX_VALUES + 5)]
    found = when("{{ %s }}" % " and ".join(f"inputs.{name}" for name in names), dict.fromkeys(names, 0))  # noqa: UP031
    assert list(found["values"]) == [f"inputs.{name}" for name in names[:MAX_VALUES]]
    assert sentence(found).endswith(f"inputs.n3 = 0, … ({AT})")


def test_sentence_of_an_expression_of_many_lines_is_one_line() -> None:
    found = when("{{ inputs.n\n   > 3 }}", {"n": 2})
    assert sentence(found).startswith("when is false: {{ inputs.n > 3 }} with")


# -- dependencies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "wanted", "said"),
    [
        (P.FAILED, (), "wants a succeeded, but it failed"),
        (P.TIMED_OUT, (), "wants a succeeded, but it timed out"),
        (P.SUCCEEDED, (P.FAILED, P.TIMED_OUT), "wants a failed, but it succeeded"),
        (P.CANCELLED, (P.SKIPPED, P.SUCCEEDED), "wants a skipped or succeeded, but it was cancelled"),
    ],
)
def test_dependency_is_explained_by_what_was_wanted(state: StepState, wanted: tuple[StepState, ...], said: str) -> None:
    graph = ended(Graph({"a": a_step("a"), "b": a_step("b", "a", *wanted)}), a=state)
    found = graph.steps["b"].explained
    assert found is not None
    assert (found["because"], found["step"], found["state"]) == ("dependency", "a", state.value)
    assert found["wanted"] == sorted(wanted or ["succeeded"])
    assert sentence(found) == f"{said} (lab/tasks/t.yaml:3)"


def test_chain_of_skips_leads_to_its_root() -> None:
    steps = {"a": a_step("a"), "b": a_step("b", "a"), "c": a_step("c", "b"), "d": a_step("d", "c", line=9)}
    found = ended(Graph(steps), a=P.TIMED_OUT).steps["d"].explained
    assert found == {
        "because": "dependency",
        "step": "c",
        "state": "skipped",
        "wanted": ["succeeded"],
        "root": "a",
        "root_state": "timed_out",
        "file": "lab/tasks/t.yaml",
        "line": 9,
    }
    where = "(lab/tasks/t.yaml:9)"
    assert sentence(found) == f"wants c succeeded, but it was skipped, in the end because a timed out {where}"
    assert details(found) == [f"wants c succeeded {where}", "in the end because a timed out"]


def test_root_of_what_a_condition_skipped_is_that_step() -> None:
    graph = Graph({"a": a_step("a"), "b": a_step("b", "a"), "c": a_step("c", "b")})
    graph.steps["a"].explained = when(False, {})
    explained = ended(graph, a=P.SKIPPED).steps["c"].explained
    assert explained is not None
    assert (explained["step"], explained["root"], explained["root_state"]) == ("b", "a", "skipped")


def test_one_of_several_names_them_all() -> None:
    steps = {"a": a_step("a"), "b": a_step("b"), "c": a_step("c", "ab", any_of=True)}
    found = ended(Graph(steps), a=P.FAILED, b=P.SUCCEEDED).steps["c"].explained
    assert found is None
    found = ended(Graph(steps), a=P.FAILED, b=P.TIMED_OUT).steps["c"].explained
    assert found is not None
    assert found["any"] == ["a", "b"]
    assert sentence(found) == "wants one of a, b, but none ended so: a failed (lab/tasks/t.yaml:3)"


def test_dependency_that_is_unmet_is_named_and_no_other() -> None:
    steps = {"a": a_step("a"), "b": a_step("b"), "c": a_step("c", "ab")}
    found = ended(Graph(steps), a=P.SUCCEEDED, b=P.FAILED).steps["c"].explained
    assert found is not None
    assert found["step"] == "b"


def test_early_end_is_explained_by_the_step_that_ended_the_run() -> None:
    graph = Graph({"a": a_step("a"), "b": a_step("b", "a")})
    found = of_skip(graph, graph.end_early("a")[1])
    assert found == {"because": "ended_early", "step": "a", "file": "lab/tasks/t.yaml", "line": 3}
    assert (sentence(found), head(found)) == ("a ended the run (lab/tasks/t.yaml:3)", "a ended the run")
    assert details(found) == ["lab/tasks/t.yaml:3"]


def test_branches_lead_to_each_entry_and_pass_what_is_below_it() -> None:
    assert branches([["a", "x", "y"], ["b", "z"]]) == ["├─ a", "│  x", "│  y", "└─ b", "   z"]
    assert branches([]) == []
