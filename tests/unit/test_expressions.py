"""Expressions: what is special, what a value becomes, what is refused, and what can never run away."""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from aura.errors import ExpressionError
from aura.expressions import ExpressionSyntax, condition, template

BERLIN = ZoneInfo("Europe/Berlin")
SCOPE: Mapping[str, Any] = {
    "inputs": {
        "day": "2026-11-22",
        "n": 3,
        "big": 10**9,
        "flag": True,
        "none": None,
        "hosts": ["a", "b"],
        "keys": 7,
        "items": {"get": 1},
        "evil": "{{ 7 * 7 }} {% raw %}",
        "rows": [{"k": "x", "n": 2}, {"k": "y", "n": 3}, {"k": "x", "n": 4}],
    },
    "steps": {"ping": {"output": None}},
    "now": lambda: datetime(2027, 3, 28, 12, tzinfo=BERLIN),
    "due": datetime(2027, 3, 29, 0, 30, tzinfo=BERLIN),
    "event": {"time": "2026-11-22T08:00:00Z"},
}


def render(text: Any) -> Any:
    return template(text, "lab/tasks/a.yaml:12").render(SCOPE)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("{{ inputs.n }}", 3, id="number"),
        pytest.param("{{ inputs.flag }}", True, id="boolean"),
        pytest.param("{{ inputs.none }}", None, id="null"),
        pytest.param("{{ inputs.hosts }}", ["a", "b"], id="list"),
        pytest.param("{{ {'a': {'b': 1}} }}", {"a": {"b": 1}}, id="braces-inside"),
        pytest.param("{{ '}}' }}", "}}", id="end-mark-in-a-string"),
        pytest.param("x {{ inputs.n }}", "x 3", id="mixed-is-text"),
        pytest.param("{{ inputs.n }}{{ inputs.n }}", "33", id="two-are-text"),
        pytest.param("{{ inputs.n }}\n", "3\n", id="line-end-makes-text"),
        pytest.param(
            "{{ inputs.flag }} {{ inputs.none }} {{ inputs.hosts }} {{ inputs.items }}",
            'true null ["a","b"] {"get":1}',
            id="json-in-text",
        ),
        pytest.param(["{{ inputs.n }}", {"k": "{{ inputs.day }}"}], [3, {"k": "2026-11-22"}], id="nested"),
        pytest.param({"{{ inputs.n }}": 1}, {"{{ inputs.n }}": 1}, id="keys-are-never-rendered"),
        pytest.param("{{ inputs.hosts[0] }}", "a", id="element"),
        pytest.param("{{ inputs.hosts[0:1] }}", ["a"], id="slice"),
        pytest.param("{{ inputs.hosts | map('upper') }}", ["A", "B"], id="iterator-becomes-list"),
        pytest.param("{{ range(3) }}", [0, 1, 2], id="range"),
        pytest.param("{{ 'x' if inputs.flag }}", "x", id="if"),
        pytest.param("{{ 'x' if not inputs.flag }}", None, id="if-without-else-is-null"),
        pytest.param("{{ true }}{{ null }}", "truenull", id="words"),
        pytest.param("{{ 'a' ~ 1 ~ true ~ [1] }}", "a1true[1]", id="joined-as-in-text"),
    ],
)
def test_value_of(text: Any, value: Any) -> None:
    assert render(text) == value
    assert type(render(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{% for x in y %}", id="statement"),
        pytest.param("{# note #}", id="comment"),
        pytest.param("${#array} ${x}", id="shell"),
        pytest.param("}} { { }", id="braces"),
        pytest.param("# line", id="line-comment"),
        pytest.param("a\r\nb\n", id="line-ends"),
    ],
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert template(text, "f:1").constant
    assert render(text) == text


def test_literal_opening_is_written_in_an_expression() -> None:
    assert render("{{ '{{' }} x") == "{{ x"


def test_constant_renders_to_itself_at_no_cost() -> None:
    value = {"a": [1, 2]}
    assert template(value, "f:1").render({}) is value


def test_data_is_never_rendered() -> None:
    assert render("{{ inputs.evil }}") == "{{ 7 * 7 }} {% raw %}"
    assert render("say {{ inputs.evil }}") == "say {{ 7 * 7 }} {% raw %}"
    assert render("{{ inputs.evil ~ '' }}") == "{{ 7 * 7 }} {% raw %}"


def test_rendered_value_is_a_copy() -> None:
    render("{{ inputs.hosts }}").append("c")
    assert SCOPE["inputs"]["hosts"] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("{{ inputs.keys }}", 7, id="keys"),
        pytest.param("{{ inputs.items }}", {"get": 1}, id="items"),
        pytest.param("{{ inputs.items.get }}", 1, id="get"),
        pytest.param("{{ inputs['items']['get'] }}", 1, id="brackets"),
        pytest.param("{{ steps.ping.output.a.b }}", None, id="null-of-null"),
        pytest.param("{{ steps.ping.output[0].x }}", None, id="element-of-null"),
        pytest.param("{{ steps.ping.output[0:2] }}", None, id="slice-of-null"),
        pytest.param("{{ (steps.ping.output or []) | length > 0 }}", False, id="or"),
        pytest.param("{{ inputs.nope is defined }}", False, id="is-defined"),
        pytest.param("{{ inputs.nope | default('d') }}", "d", id="default"),
        pytest.param("{{ steps.ping.output is null }}", True, id="is-null"),
        pytest.param("{{ inputs.rows | map(attribute='n') | sum }}", 9, id="sum-of-attribute"),
        pytest.param("{{ inputs.rows | selectattr('k', 'eq', 'x') | map(attribute='n') }}", [2, 4], id="selectattr"),
        pytest.param("{{ (inputs.rows | groupby('k'))[0].grouper }}", "x", id="groupby"),
    ],
)
def test_key_of(text: str, value: Any) -> None:
    assert render(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("{{ nope }}", "unknown name 'nope'", id="root"),
        pytest.param("{{ nope.x }}", "unknown name 'nope'", id="root-of-path"),
        pytest.param("{{ nope + 1 }}", "unknown name 'nope'", id="in-an-operation"),
        pytest.param("x {{ nope | upper }}", "unknown name 'nope'", id="in-a-filter"),
        pytest.param("{{ [nope] }}", "unknown name 'nope'", id="in-a-list"),
        pytest.param("{{ inputs.dya }}", "unknown key 'dya'; did you mean 'day'?", id="key-with-near-name"),
        pytest.param("{{ inputs.hosts[9] }}", "no element 9 in a list of 2", id="element"),
        pytest.param(
            "{{ inputs.day.upper() }}", "text has no key 'upper'; use a filter, such as `| upper`", id="method"
        ),
        pytest.param("{{ inputs.hosts.nope }}", "a list has no key 'nope'", id="key-of-list"),
        pytest.param("{{ 1 / 0 }}", "division by zero", id="division"),
        pytest.param("{{ now }}", "call it with ()", id="function"),
        pytest.param("{{ self }}", "unknown name 'self'", id="jinja-self"),
        pytest.param("{{ [self] }}", "TemplateReference has no JSON form", id="jinja-self-inside"),
        pytest.param("{{ 'a' + 1 }}", "can only concatenate", id="types"),
        pytest.param("{{ 1e308 * 10 }}", "no JSON form", id="infinite"),
        pytest.param("{{ now().year }}", "a time has no key 'year'", id="attribute-of-time"),
    ],
)
def test_failure_names_what_and_where(text: str, said: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        render(text)
    assert said in str(caught.value)
    assert "lab/tasks/a.yaml:12" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ inputs.__class__.__mro__ }}",
        "{{ now.__globals__ }}",
        "{{ days.__code__ }}",
        "{{ range.__self__ }}",
        "{{ [].append(1) }}",
        "{{ 'x' | attr('upper') }}",
        "{{ inputs | map(attribute='__class__') }}",
        "{{ cycler('a').next() }}",
        "{{ lipsum.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ 'x'.format }}",
    ],
)
def test_sandbox_gives_no_way_out(text: str) -> None:
    with pytest.raises((ExpressionError, ExpressionSyntax)):
        render(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 'a' * inputs.big }}",
        "{{ inputs.big * 'a' }}",
        "{{ [1] * inputs.big }}",
        "{{ 'a' * 1000 * 1000 * 1000 }}",
        "{{ 2 ** inputs.big }}",
        "{{ (2 ** 4000) ** 4000 }}",
        "{{ '%1000000000s' % 1 }}",
        "{{ '%1000000000s' | format(1) }}",
        "{{ 'x' | center(inputs.big) }}",
        "{{ 'x' | indent(inputs.big) }}",
        "{{ 'x' | indent('y' * 1000) }}",
        "{{ 1 | round(inputs.big) }}",
        "{{ 1 | round(-inputs.big, 'ceil') }}",
        "{{ inputs.hosts | batch(inputs.big, 'x') }}",
        "{{ inputs.hosts | slice(inputs.big) }}",
        "{{ range(inputs.big) }}",
        "{{ range(99999) | join('x' * 1000) }}",
        "{{ ('a' * 200000) | replace('a', 'b' * 200000) }}",
        "{{ ('a' * 200000) | regex_replace('a', 'b' * 200000) }}",
        "{{ ('a' * 200000) ~ ('a' * 200000) }}",
        "{{ 'a' * 200000 }}{{ 'a' * 200000 }}",
        "{{ now() | date('%Y' * 100000) }}",
        "{{ [[1]] * 1000 | sum(start=[]) }}",
    ],
)
def test_nothing_endless_or_huge(text: str) -> None:
    begun = time.process_time()
    with pytest.raises((ExpressionError, ExpressionSyntax)):
        render(text)
    assert time.process_time() - begun < 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("{{ }}", "nothing between {{ and }}", id="empty"),
        pytest.param("{{ a", "a {{ is never closed", id="open"),
        pytest.param("{{ (a }}", "a {{ is never closed", id="bracket-open"),
        pytest.param("{{ a b }}", "'b' is not expected", id="two"),
        pytest.param("{{ a, b }}", "',' is not expected", id="tuple"),
        pytest.param("{{ a | nope }}", "there is no filter 'nope'", id="filter"),
        pytest.param("{{ a | lenght }}", "did you mean 'length'?", id="near-filter"),
        pytest.param("{{ a is nope }}", "there is no test 'nope'", id="test"),
        pytest.param("{{ a +  }}", "unexpected", id="unfinished"),
        pytest.param("{{ " + "(" * 300 + "1" + ")" * 300 + " }}", "nests too deeply", id="deep"),
        pytest.param("{{ " + "+".join("a" * 500) + " }}", "nests too deeply", id="deep-to-the-left"),
        pytest.param("{{ '" + "a" * 5000 + "' }}", "at most 4000 characters", id="long"),
    ],
)
def test_syntax_error_is_found_when_read(text: str, said: str) -> None:
    with pytest.raises(ExpressionSyntax) as caught:
        template(text, "f:1")
    assert said in str(caught.value)


def test_syntax_error_is_found_inside_lists_and_mappings() -> None:
    with pytest.raises(ExpressionSyntax):
        template({"a": ["{{ }}"]}, "f:1")


def test_template_knows_the_names_that_it_uses() -> None:
    made = template(["{{ steps.ping.output }} {{ inputs['day'] }}", {"x": "{{ foo | default(days(1)) }}"}], "f:1")
    assert made.names == {"steps", "inputs", "foo"}
    assert made.paths == {("steps", "ping"), ("steps", "ping", "output"), ("inputs", "day")}
    assert made.steps_named == {"ping"}
    assert not made.constant


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        pytest.param(True, True, id="true"),
        pytest.param(False, False, id="false"),
        pytest.param("{{ inputs.n > 2 }}", True, id="comparison"),
        pytest.param(" {{ inputs.n > 2 }}\n", True, id="blanks-around"),
        pytest.param("{{ inputs.none }}", False, id="null"),
        pytest.param("{{ inputs.hosts }}", True, id="list"),
        pytest.param("{{ [] }}", False, id="empty-list"),
    ],
)
def test_condition_holds(value: Any, holds: bool) -> None:
    assert condition(value, "f:1").test(SCOPE) is holds


@pytest.mark.parametrize(
    "value", ["yes", "", "x {{ true }}", "{{ true }} {{ true }}", 1, None, ["{{ true }}"]], ids=repr
)
def test_condition_must_be_one_whole_expression(value: Any) -> None:
    with pytest.raises(ExpressionSyntax):
        condition(value, "f:1")


def test_condition_that_gives_text_is_an_error() -> None:
    with pytest.raises(ExpressionError, match="gave the text 'false'"):
        condition("{{ 'false' }}", "f:1").test(SCOPE)
