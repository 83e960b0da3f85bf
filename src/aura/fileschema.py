"""The plan files as JSON Schema (2020-12), for editors: what keys there are, what each is for, what values may be.

Keys, words and bounds come from the tables by which the files are read (``taskfile``, ``stepfile``, ``inputspec``,
``planfile``), so that the two cannot differ; a key without its description here fails to build. A schema sees less than
``aura check``: whatever is wrong by it is wrong, but names in expressions, actions and what waits for what are not its
matter.
"""

from collections.abc import Collection, Mapping
from typing import Any

from aura import inputspec, planfile, stepfile, taskfile
from aura.plan import IDENTIFIER_PATTERN
from aura.run import PRIORITIES

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: Digits with a unit somewhere behind them, or ISO 8601. What it means is for ``duration`` to say.
_DURATION = r"^\s*(P[0-9.,WDTHMSwdthms]+|[0-9][0-9A-Za-z.,\s]*[A-Za-z][0-9A-Za-z.,\s]*)\s*$"
_EXPRESSION = r"^\s*\{\{[\s\S]*\}\}\s*$"
_TEXT = {"type": "string"}
_NAMES = {"pattern": f"^{IDENTIFIER_PATTERN}$"}
_COUNT = {"type": "integer", "minimum": 0, "maximum": inputspec.MAX_LENGTH}
_ANY: Schema = {}


def task_schema() -> Schema:
    """The schema of a file in ``tasks/``."""
    shapes = {key: _described(shape, _TASK_SAYS[key]) for key, shape in _TASK.items()}
    return {
        "$schema": DIALECT,
        "title": "A task of Aura",
        **_mapping(taskfile.KEYS, shapes, ["steps"]),
        "$defs": _defs(),
    }


def plan_schema() -> Schema:
    """The schema of ``plan.yaml``."""
    shapes = {
        "title": _described(_TEXT, "A short name for people"),
        "description": _described(_TEXT, "What the plan is for"),
        "timezone": _described(_TEXT, "The IANA name of a time zone, such as Europe/Berlin"),
        "vars": _described({"type": "object", "propertyNames": _NAMES}, "Plain data, read as vars.<name>"),
    }
    return {"$schema": DIALECT, "title": "A plan of Aura", **_mapping(planfile.KEYS, shapes)}


def _defs() -> Schema:
    step = {key: _described(shape, _STEP_SAYS[key]) for key, shape in _STEP.items()}
    name = _described({"type": "string", **_NAMES, "not": {"const": "any"}}, "The step's name")
    named = _mapping(("name", *stepfile.KEYS), {"name": name, **step}, ["name", "action"])
    graph = {
        "type": "object",
        "propertyNames": {**_NAMES, "not": {"const": "any"}},
        "additionalProperties": _mapping(stepfile.KEYS, step, ["action"]),
    }
    return {
        "steps": {"anyOf": [graph, {"type": "array", "items": named}]},
        "duration": {"type": "string", "pattern": _DURATION},
        "input": {"anyOf": [{"enum": list(inputspec.TYPES)}, _input()]},
    }


def _input() -> Schema:
    shapes = {key: _described(shape, _INPUT_SAYS[key]) for key, shape in _INPUT.items()}
    made = _mapping(inputspec.KEYS, shapes, ["type"])
    return {**made, "allOf": [_only_of_type(kind) for kind in inputspec.TYPES]}


def _only_of_type(kind: str) -> Schema:
    """What means nothing for a type is refused for it."""
    typed = {key for keys in inputspec.OF_TYPE.values() for key in keys}
    foreign = sorted(typed - set(inputspec.OF_TYPE[kind]))
    return {"if": {"properties": {"type": {"const": kind}}}, "then": {"properties": dict.fromkeys(foreign, False)}}


def _mapping(keys: Collection[str], shapes: Mapping[str, Schema], required: Collection[str] = ()) -> Schema:
    """A mapping with exactly these keys.

    Raises:
        KeyError: a key has no shape.
    """
    return {
        "type": "object",
        "properties": {key: shapes[key] for key in keys},
        "required": list(required),
        "additionalProperties": False,
    }


def _described(shape: Schema, description: str) -> Schema:
    return {"description": description, **shape}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _depends_on() -> Schema:
    names = {"type": "array", "items": _TEXT, "uniqueItems": True}
    word = {"enum": list(stepfile.STATES)}
    states = {"anyOf": [word, {"type": "array", "items": word, "minItems": 1}]}
    of_any = {"type": "object", "properties": {"any": names}, "required": ["any"], "additionalProperties": False}
    by_state = {"type": "object", "not": {"required": ["any"]}, "additionalProperties": states}
    return {"anyOf": [_TEXT, names, of_any, by_state]}


def _retry() -> Schema:
    shapes = {
        "attempts": _described(_whole(1, stepfile.MAX_ATTEMPTS), "How often it is tried in all"),
        "delay": _described({"anyOf": [_ref("duration"), {"enum": [0, "0"]}]}, "The time between two tries"),
    }
    return _mapping(stepfile.RETRY_KEYS, shapes)


def _whole(minimum: int, maximum: int) -> Schema:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def _labels() -> Schema:
    names = {"minLength": 1, "maxLength": taskfile.MAX_LABEL_NAME}
    values = {"type": "string", "maxLength": taskfile.MAX_LABEL, "not": {"pattern": r"\{\{"}}
    return {"type": "object", "propertyNames": names, "additionalProperties": values}


_TASK: dict[str, Schema] = {
    "title": _TEXT,
    "description": _TEXT,
    "inputs": {"type": "object", "propertyNames": _NAMES, "additionalProperties": _ref("input")},
    "lane": {"enum": list(taskfile.LANES), "default": "main"},
    "priority": {**_whole(PRIORITIES.start, PRIORITIES.stop - 1), "default": 0},
    "labels": _labels(),
    "timeout": _ref("duration"),
    "queue_timeout": _ref("duration"),
    "cleanup_timeout": _ref("duration"),
    "recovery": {"enum": list(taskfile.RECOVERIES), "default": "fail"},
    "steps": {**_ref("steps"), "minProperties": 1, "minItems": 1},
    "on_failure": _ref("steps"),
    "on_cancel": _ref("steps"),
    "finally": _ref("steps"),
    "returns": _ANY,
}
_TASK_SAYS = {
    "title": "A short name for people",
    "description": "What the task is for",
    "inputs": "What may be given, by name; required unless it has a default",
    "lane": "The queue in which its runs wait",
    "priority": "Higher starts first",
    "labels": "Texts by which runs can be found",
    "timeout": "How long a run may be active",
    "queue_timeout": "How long it may wait for its start; then it ends timed_out",
    "cleanup_timeout": "How long its handlers and its finally may take; 10s unless it says otherwise",
    "recovery": "What becomes of a run when the server crashes, or shuts down, under it",
    "steps": "What it does: a mapping is a graph, a list a sequence",
    "on_failure": "Steps that run if it failed or timed out",
    "on_cancel": "Steps that run if it was cancelled",
    "finally": "Steps that run once, whatever happened",
    "returns": "The run's result: an expression, or a mapping of them",
}
_STEP: dict[str, Schema] = {
    "action": _TEXT,
    "params": {"type": "object"},
    "depends_on": _depends_on(),
    "when": {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": _EXPRESSION}]},
    "outputs": {"type": "object", "propertyNames": _NAMES},
    "retry": _retry(),
    "timeout": _ref("duration"),
    "continue_on_failure": {"type": "boolean", "default": False},
    "idempotent": {"type": "boolean", "default": False},
}
_STEP_SAYS = {
    "action": "One of this plan's actions, or of Aura's, such as shell.run; `aura actions` lists them",
    "params": "The action's parameters; each value may hold expressions",
    "depends_on": "What must have ended before: a step, a list of steps, {any: [steps]} or {step: states}",
    "when": "A condition; if it does not hold, the step is skipped",
    "outputs": "Named values made from the action's result; others read them as steps.<step>.outputs.<name>",
    "retry": "How often it is tried in all, and the time between two tries",
    "timeout": "How long each attempt may take",
    "continue_on_failure": "True: its failure does not make the run fail",
    "idempotent": "True: it may be run again after a crash in the middle of it",
}
_INPUT: dict[str, Schema] = {
    "type": {"enum": list(inputspec.TYPES)},
    "description": _TEXT,
    "default": _ANY,
    "enum": {"type": "array", "minItems": 1},
    "minimum": {"type": "number"},
    "maximum": {"type": "number"},
    "min_length": _COUNT,
    "max_length": _COUNT,
    "pattern": _TEXT,
    "items": _ref("input"),
    "properties": {"type": "object", "additionalProperties": _ref("input")},
}
_INPUT_SAYS = {
    "type": "What kind of value it is",
    "description": "Shown with the task",
    "default": "Used if nothing is given; plain data. With null, null may be given as well",
    "enum": "The values that are allowed",
    "minimum": "The lowest number",
    "maximum": "The highest number",
    "min_length": "The fewest characters or elements",
    "max_length": "The most characters or elements",
    "pattern": "A regular expression (RE2) that must match somewhere",
    "items": "What each element is",
    "properties": "Its members; others are refused. Without it, any are allowed",
}
