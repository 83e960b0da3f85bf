"""Inputs: from their specification to JSON Schema, and the check of what is given."""

from pathlib import Path
from typing import Any

import pytest
from tests.fakes.plans import check_files, problems_of

from aura.errors import RequestError
from aura.loading.inputs import check_inputs, secret_pointers
from aura.task import Task

STEPS = "steps: {a: {action: log, params: {message: x}}}\n"


def task_with(folder: Path, inputs: str) -> Task:
    (checked,) = check_files(folder, {"lab/tasks/t.yaml": f"inputs: {inputs}\n{STEPS}"})
    assert checked.plan is not None, checked.problems
    return checked.plan.tasks["t"]


def errors_of(task: Task, given: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        check_inputs(task, given)
    assert caught.value.code == "inputs_invalid"
    return {error.path: error.message for error in caught.value.errors}


def test_specification_becomes_json_schema(tmp_path: Path) -> None:
    task = task_with(
        tmp_path,
        "{day: {type: string, pattern: '^x', description: A day}, n: {type: integer, minimum: 1, maximum: 9}, "
        "hosts: {type: array, items: string, max_length: 3, default: []}, "
        "at: {type: object, properties: {x: number, y: {type: number, default: 0}}}}",
    )
    assert task.inputs_schema == {
        "type": "object",
        "properties": {
            "day": {"type": "string", "description": "A day", "pattern": "^x"},
            "n": {"type": "integer", "minimum": 1, "maximum": 9},
            "hosts": {"type": "array", "maxItems": 3, "items": {"type": "string"}, "default": []},
            "at": {
                "type": "object",
                "properties": {"x": {"type": "number"}, "y": {"type": "number", "default": 0}},
                "required": ["x"],
                "additionalProperties": False,
            },
        },
        "required": ["day", "n", "at"],
        "additionalProperties": False,
    }


def test_short_form_names_the_type(tmp_path: Path) -> None:
    assert task_with(tmp_path, "{day: string}").inputs["day"].schema == {"type": "string"}


@pytest.mark.parametrize(
    ("spec", "given", "checked"),
    [
        pytest.param("{type: string}", "x", "x", id="string"),
        pytest.param("{type: string}", "{{ 7 * 7 }}", "{{ 7 * 7 }}", id="expression-stays-text"),
        pytest.param("{type: integer}", 7, 7, id="integer"),
        pytest.param("{type: integer}", 7.0, 7, id="integer-as-7.0"),
        pytest.param("{type: number}", 7, 7, id="number-as-integer"),
        pytest.param("{type: number}", 0.5, 0.5, id="number"),
        pytest.param("{type: boolean}", False, False, id="boolean"),
        pytest.param("{type: array}", [1, "x", None], [1, "x", None], id="array-of-anything"),
        pytest.param("{type: array, items: integer}", [1.0, 2], [1, 2], id="array-of-integers"),
        pytest.param("{type: object}", {"a": {"b": [1]}}, {"a": {"b": [1]}}, id="object-of-anything"),
        pytest.param("{type: object, properties: {a: {type: integer, default: 1}}}", {}, {"a": 1}, id="inner-default"),
        pytest.param("{type: string, enum: [a, b]}", "b", "b", id="enum"),
        pytest.param("{type: number, enum: [1, 2]}", 1.0, 1.0, id="enum-1.0-is-1"),
        pytest.param("{type: string, default: null}", None, None, id="null-where-it-is-the-default"),
        pytest.param("{type: integer, minimum: 1, maximum: 3}", 3, 3, id="bounds-are-included"),
        pytest.param("{type: string, max_length: 2}", "éé", "éé", id="length-in-characters"),
        pytest.param("{type: number}", 1e300, 1e300, id="number-as-large-as-a-number-can-be"),
        pytest.param("{type: object}", {"a": 1e300}, {"a": 1e300}, id="large-inside-of-anything"),
        pytest.param("{type: integer, enum: [7.0]}", 7, 7, id="enum-7.0-is-7"),
        pytest.param("{type: integer, minimum: 7, maximum: 7}", 7, 7, id="bounds-themselves"),
        pytest.param("{type: string, min_length: 1, max_length: 1}", "a", "a", id="lengths-themselves"),
        pytest.param(
            "{type: array, items: {type: string, default: null}}", ["a", None], ["a", None], id="null-element"
        ),
        pytest.param("{type: string, pattern: b}", "abc", "abc", id="pattern-anywhere"),
    ],
)
def test_good_input(tmp_path: Path, spec: str, given: Any, checked: Any) -> None:
    value = check_inputs(task_with(tmp_path, f"{{x: {spec}}}"), {"x": given})["x"]
    assert value == checked
    assert type(value) is type(checked)


@pytest.mark.parametrize(
    ("spec", "given", "path", "message"),
    [
        pytest.param("{type: integer}", "1", "/inputs/x", "integer is needed, not string", id="text-for-integer"),
        pytest.param("{type: integer}", True, "/inputs/x", "integer is needed, not boolean", id="boolean-for-integer"),
        pytest.param("{type: integer}", 1.5, "/inputs/x", "integer is needed, not number", id="decimal-for-integer"),
        pytest.param("{type: integer}", None, "/inputs/x", "integer is needed, not null", id="null"),
        pytest.param("{type: string}", 1, "/inputs/x", "string is needed, not integer", id="number-for-string"),
        pytest.param("{type: boolean}", "true", "/inputs/x", "boolean is needed, not string", id="text-for-boolean"),
        pytest.param("{type: array}", {}, "/inputs/x", "array is needed, not object", id="object-for-array"),
        pytest.param("{type: object}", [], "/inputs/x", "object is needed, not array", id="array-for-object"),
        pytest.param("{type: string}", "a\0b", "/inputs/x", "must not have a NUL character in it", id="nul"),
        pytest.param("{type: object}", {"a": ["\0"]}, "/inputs/x/a/0", "must not have a NUL", id="nul-inside"),
        pytest.param("{type: integer}", 2**64, "/inputs/x", "the number is too large", id="large-integer"),
        pytest.param("{type: number}", float("nan"), "/inputs/x", "the number is too large", id="nan"),
        pytest.param("{type: array}", [2**70], "/inputs/x/0", "the number is too large", id="large-inside"),
        pytest.param("{type: array, items: integer}", [1, "2"], "/inputs/x/1", "integer is needed", id="element"),
        pytest.param("{type: string, enum: [a, b]}", "c", "/inputs/x", "must be one of 'a', 'b'", id="enum"),
        pytest.param("{type: integer, enum: [1]}", True, "/inputs/x", "integer is needed", id="enum-true-is-not-1"),
        pytest.param("{type: integer, minimum: 1}", 0, "/inputs/x", "must be at least 1", id="minimum"),
        pytest.param("{type: number, maximum: 1}", 1.1, "/inputs/x", "must be at most 1", id="maximum"),
        pytest.param("{type: string, min_length: 1}", "", "/inputs/x", "at least 1 characters, has 0", id="short"),
        pytest.param("{type: array, max_length: 1}", [1, 2], "/inputs/x", "at most 1 elements, has 2", id="long"),
        pytest.param("{type: string, pattern: '^a$'}", "b", "/inputs/x", "must match the pattern ^a$", id="pattern"),
        pytest.param(
            "{type: array, enum: [[1]]}", [True], "/inputs/x", "must be one of [1]", id="true-is-not-1-inside"
        ),
        pytest.param("{type: object, properties: {a: string}}", {}, "/inputs/x/a", "is required", id="inner"),
        pytest.param(
            "{type: object, properties: {user: string}}",
            {"usr": "a", "user": "b"},
            "/inputs/x/usr",
            "mean 'user'",
            id="n",
        ),
        pytest.param(
            "{type: object, properties: {a: string}}", {"a": "", "b/~": 1}, "/inputs/x/b~1~0", "no such", id="p"
        ),
    ],
)
def test_bad_input(tmp_path: Path, spec: str, given: Any, path: str, message: str) -> None:
    errors = errors_of(task_with(tmp_path, f"{{x: {spec}}}"), {"x": given})
    assert list(errors) == [path]
    assert message in errors[path]


SECRET = [
    pytest.param("{type: string, secret: true}", 7, "string is needed", id="kind"),
    pytest.param("{type: string, secret: true}", 70.0, "string is needed", id="number-that-is-whole"),
    pytest.param("{type: integer, secret: true, minimum: 100}", 70, "must be at least 100", id="minimum"),
    pytest.param("{type: integer, secret: true, maximum: 1}", 70, "must be at most 1", id="maximum"),
    pytest.param(
        "{type: string, secret: true, min_length: 9}", "hunter70", "must have at least 9 characters", id="short"
    ),
    pytest.param(
        "{type: string, secret: true, max_length: 1}", "hunter70", "must have at most 1 characters", id="long"
    ),
    pytest.param("{type: string, secret: true, pattern: '^a'}", "hunter70", "must match the pattern ^a", id="pattern"),
    pytest.param("{type: string, secret: true}", "70\0", "must not have a NUL character in it", id="nul"),
    pytest.param(
        "{type: string, secret: true, pattern: '^a'}", "70" * 2**20, "is too long for the pattern ^a", id="too-long"
    ),
    pytest.param("{type: object, secret: true}", {"hunter70": "\0"}, "must not have a NUL character in it", id="key"),
    pytest.param(
        "{type: object, secret: true, properties: {a: {type: string, default: x}}}",
        {"hunter70": 1},
        "has a member that is not known",
        id="member",
    ),
    pytest.param(
        "{type: object, secret: true, properties: {a: {type: string, enum: [b]}}}",
        {"a": "hunter70"},
        "must be one of 'b'",
        id="enum-inside",
    ),
]


@pytest.mark.parametrize(("spec", "given", "message"), SECRET)
def test_message_of_a_bad_secret_has_path_and_rule_alone(tmp_path: Path, spec: str, given: Any, message: str) -> None:
    errors = errors_of(task_with(tmp_path, f"{{x: {spec}}}"), {"x": given})
    assert list(errors.values()) == [message]
    assert "70" not in str(errors)


@pytest.mark.parametrize(
    ("spec", "given", "pointers"),
    [
        pytest.param("{type: string, secret: true}", "a", ("/x",), id="text"),
        pytest.param("{type: string, secret: true, default: null}", None, (), id="null"),
        pytest.param("{type: array, items: {type: string, secret: true}}", ["a"], ("/x/*",), id="elements"),
        pytest.param(
            "{type: object, properties: {u: string, 'p/~': {type: string, secret: true}}}",
            {"u": "a", "p/~": "b"},
            ("/x/p~1~0",),
            id="member",
        ),
        pytest.param(
            "{type: array, items: {type: object, properties: {p: {type: string, secret: true}}}}",
            [{"p": "a"}],
            ("/x/*/p",),
            id="member-of-elements",
        ),
        pytest.param(
            "{type: object, secret: true, properties: {p: {type: string, secret: true}}}",
            {"p": "a"},
            ("/x",),
            id="outer",
        ),
        pytest.param("string", "a", (), id="none"),
    ],
)
def test_secrets_of_inputs_are_known_by_pointers(
    tmp_path: Path, spec: str, given: Any, pointers: tuple[str, ...]
) -> None:
    task = task_with(tmp_path, f"{{x: {spec}}}")
    assert secret_pointers(task, check_inputs(task, {"x": given})) == pointers


def test_schema_marks_secrets(tmp_path: Path) -> None:
    task = task_with(tmp_path, "{p: {type: string, secret: true}, n: {type: integer, secret: true, default: null}}")
    assert task.inputs_schema["properties"] == {
        "p": {"type": "string", "writeOnly": True, "format": "password"},
        "n": {"type": ["integer", "null"], "writeOnly": True, "default": None},
    }


def test_default_is_what_a_run_would_get(tmp_path: Path) -> None:
    inner = "{type: object, properties: {a: {type: string, default: x}}, default: {}}"
    checked = check_inputs(task_with(tmp_path, f"{{n: {{type: integer, default: 7.0}}, o: {inner}}}"), {})
    assert checked == {"n": 7, "o": {"a": "x"}}
    assert type(checked["n"]) is int


def test_value_that_is_no_plain_data_is_named(tmp_path: Path) -> None:
    assert errors_of(task_with(tmp_path, "{x: {type: object}}"), {"x": {"a": [{1}]}}) == {
        "/inputs/x/a/0": "is no plain data"
    }


def test_value_that_nests_too_deeply_is_named(tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    task = task_with(tmp_path, "{x: {type: object}}")
    (path,) = errors_of(task, {"x": {"a": deep}})
    assert path == "/inputs/x/a" + "/0" * 63


def test_all_bad_inputs_are_named_at_once(tmp_path: Path) -> None:
    task = task_with(tmp_path, "{day: string, n: integer, ok: {type: string, default: x}}")
    assert errors_of(task, {"n": "1", "dya": "x"}) == {
        "/inputs/dya": "there is no such input; did you mean 'day'?",
        "/inputs/day": "is required",
        "/inputs/n": "integer is needed, not string",
    }


def test_errors_are_bounded(tmp_path: Path) -> None:
    task = task_with(tmp_path, "{x: {type: array, items: integer}}")
    assert len(errors_of(task, {"x": ["a"] * 1000})) == 100


def test_defaults_are_filled_in_the_tasks_order(tmp_path: Path) -> None:
    task = task_with(tmp_path, "{a: {type: string, default: x}, b: string}")
    assert list(check_inputs(task, {"b": "y"}).items()) == [("a", "x"), ("b", "y")]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        pytest.param("strin", "1:13: an input needs a type: string, integer", id="type"),
        pytest.param("{default: 1}", "1:13: an input needs a type", id="no-type"),
        pytest.param("", "1:13: an input is a mapping or the name of a type, not nothing", id="nothing"),
        pytest.param(
            "{type: string, patern: x}", "1:28: an input has no key 'patern'; did you mean 'pattern'", id="key"
        ),
        pytest.param("{type: string, minimum: 1}", "1:28: minimum means nothing for type string", id="not-for-type"),
        pytest.param("{type: string, pattern: '('}", "1:37: pattern: '(' is not a regular expression", id="pattern"),
        pytest.param("{type: string, pattern: '(?=a)'}", "1:37: pattern: '(?=a)' is not a regular", id="look-ahead"),
        pytest.param("{type: integer, default: '5'}", "1:38: default: integer is needed, not string", id="default"),
        pytest.param("{type: integer, maximum: 5, default: 6}", "1:50: default: must be at most 5", id="default-bound"),
        pytest.param("{type: string, default: '{{ x }}'}", "1:37: default: a default is plain data", id="expression"),
        pytest.param("{type: string, enum: []}", "1:34: enum: a list of the allowed values is needed", id="enum"),
        pytest.param("{type: integer, enum: [1, x]}", "1:39: enum: integer is needed, not string", id="enum-type"),
        pytest.param("{type: string, min_length: -1}", "1:40: min_length: a whole number from 0", id="length"),
        pytest.param("{type: number, minimum: x}", "1:37: minimum: a number is needed, not text", id="bound"),
        pytest.param("{type: string, secret: 1}", "1:36: secret: true or false is needed", id="secret"),
        pytest.param("{type: string, secret: true, default: x}", "1:51: default: a secret has no default", id="plain"),
        pytest.param("{type: string, secret: true, enum: [x]}", "1:48: enum: a secret has no values", id="plain-enum"),
        pytest.param(
            "{type: object, properties: {k: {type: string, secret: true}}, default: {k: x}}",
            "1:84: default: there is a secret in it",
            id="plain-inside",
        ),
        pytest.param("{type: integer, minimum: 2, maximum: 1}", "1:38: minimum: 2 is above the", id="empty-range"),
        pytest.param("{type: array, min_length: 2, max_length: 1}", "1:39: min_length: 2 is above", id="empty-lengths"),
        pytest.param("{type: array, items: {type: string, default: x}}", "1:58: default: an element has", id="element"),
        pytest.param("{type: array, items: {type: x}}", "1:41: an input needs a type", id="items"),
        pytest.param(
            "{type: object, properties: [a]}", "1:40: properties must be a mapping, not a list", id="properties"
        ),
    ],
)
def test_bad_specification(tmp_path: Path, spec: str, problem: str) -> None:
    found = problems_of(tmp_path, {"lab/tasks/t.yaml": f"inputs: {{x: {spec}}}\n{STEPS}"})
    assert found
    assert [p for p in found if p.startswith(f"lab/tasks/t.yaml:{problem}")] == found


def test_name_that_expressions_cannot_say(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, {"lab/tasks/t.yaml": f"inputs: {{a-b: string}}\n{STEPS}"})
    assert "lab/tasks/t.yaml:1:10: 'a-b' cannot name an input" in problem
