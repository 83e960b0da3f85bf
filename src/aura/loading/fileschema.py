"""The plan files as JSON Schema (2020-12), for editors: what keys there are, what each is for, what values may be.

Keys, words and bounds come from the tables by which the files are read (``taskfile``, ``stepfile``, ``inputspec``,
``planfile``), so that the two cannot differ; a key without its description here fails to build. A schema sees less than
``aura check``: whatever is wrong by it is wrong, but names in expressions, actions and what waits for what are not its
matter.
"""

from aura.loading import (
    approvals,
    defaults,
    inputspec,
    loopfile,
    modefile,
    planfile,
    retryfile,
    stepfile,
    taskfile,
    waitfile,
)
from aura.loading.schemaparts import (
    DIALECT,
    DURATION,
    MODE_SAYS,
    NAMES,
    TEXT,
    WHOLE_EXPRESSION,
    Schema,
    described,
    mapping,
    mode,
    or_zero,
    ref,
    whole,
)
from aura.run import PRIORITIES
from aura.task import DEFAULT_MAX_ITERATIONS, MAX_ITEMS, NAME_PATTERN

_COUNT = {"type": "integer", "minimum": 0, "maximum": inputspec.MAX_LENGTH}
_ANY: Schema = {}


def task_schema() -> Schema:
    """The schema of a file in ``tasks/``."""
    shapes = {key: described(shape, _TASK_SAYS[key]) for key, shape in _TASK.items()}
    return {
        "$schema": DIALECT,
        "title": "A task of Aura",
        **mapping(taskfile.KEYS, shapes, ["steps"]),
        "$defs": _defs(),
    }


def plan_schema() -> Schema:
    """The schema of ``plan.yaml``."""
    shapes = {
        "title": described(TEXT, "A short name for people"),
        "description": described(TEXT, "What the plan is for"),
        "timezone": described(TEXT, "The IANA name of a time zone, such as Europe/Berlin"),
        "uses": described(
            {"type": "array", "items": {"type": "string", "pattern": f"^{NAME_PATTERN}$"}, "uniqueItems": True},
            "Other plans, whose actions and tasks it may use",
        ),
        "vars": described({"type": "object", "propertyNames": NAMES}, "Plain data, read as vars.<name>"),
        "secrets": described(
            {"type": "array", "items": {"type": "string", **NAMES}, "uniqueItems": True},
            "The names of the secrets that it may read, as secrets.<name>",
        ),
        "resources": described(_resources(), "How much there is of what its runs share: a number, or a rate"),
        "defaults": described(_defaults(), "What its tasks and steps have where they do not say it themselves"),
        "reload": described(_reload(), "What a new version has to pass before it is served"),
    }
    made = mapping(planfile.KEYS, shapes)
    return {"$schema": DIALECT, "title": "A plan of Aura", **made, "$defs": {"duration": DURATION}}


def _resources() -> Schema:
    count = whole(1, planfile.MAX_RESOURCE)
    shapes = {
        "rate": described(count, "How many can be spent"),
        "per": described(ref("duration"), "The time in which they fill up again, evenly"),
    }
    rate = mapping(planfile.RATE_KEYS, shapes, planfile.RATE_KEYS)
    return {"type": "object", "propertyNames": NAMES, "additionalProperties": {"anyOf": [count, rate]}}


def _reload() -> Schema:
    shapes = {
        "gate": described({"enum": list(planfile.GATES)}, "tests: the plan's own, in its folder tests"),
        "gate_timeout": described(ref("duration"), "How long that may take, an hour at most; 5 minutes by default"),
    }
    return mapping(planfile.RELOAD_KEYS, shapes, ["gate"])


def _defaults() -> Schema:
    task = {key: described(_TASK[key], _TASK_SAYS[key]) for key in defaults.TASK_KEYS}
    step = {key: described(_STEP[key], _STEP_SAYS[key]) for key in defaults.STEP_KEYS}
    shapes = {"task": mapping(defaults.TASK_KEYS, task), "step": mapping(defaults.STEP_KEYS, step)}
    return mapping(("task", "step"), shapes)


def _defs() -> Schema:
    step = {key: described(shape, _STEP_SAYS[key]) for key, shape in _STEP.items()}
    name = described({"type": "string", **NAMES, "not": {"const": "any"}}, "The step's name")
    named = {**mapping(("name", *stepfile.KEYS), {"name": name, **step}, ["name", "action"]), "allOf": _waits()}
    graph = {
        "type": "object",
        "propertyNames": {**NAMES, "not": {"const": "any"}},
        "additionalProperties": {**mapping(stepfile.KEYS, step, ["action"]), "allOf": _waits()},
    }
    return {
        "steps": {"anyOf": [graph, {"type": "array", "items": named}]},
        "duration": DURATION,
        "input": {"anyOf": [{"enum": list(inputspec.TYPES)}, _input()]},
    }


def _waits() -> list[Schema]:
    """The parameters of steps that wait: those that the language has rules for (``waitfile``)."""
    names = described(TEXT, "A pattern of events' names: * is one part, ** any")
    when = described(_condition(), "Asked of each such event, as `event`; the first for which it holds is taken")
    message = described({"type": "string", "minLength": 1}, "Who answers reads it")
    asked = {"type": "object", "propertyNames": NAMES, "maxProperties": approvals.MAX_INPUTS}
    inputs = described({"anyOf": [asked, WHOLE_EXPRESSION]}, "What is asked for, written as a task's inputs are")
    return [
        _params_of(waitfile.EVENT_WAIT, {"name": names, waitfile.WHEN: when}),
        _params_of(approvals.ACTION, {"message": message, "inputs": inputs}),
    ]


def _params_of(action: str, shapes: Schema) -> Schema:
    of_action = {"properties": {"action": {"const": action}}, "required": ["action"]}
    return {"if": of_action, "then": {"properties": {"params": {"properties": shapes}}}}


def _input() -> Schema:
    shapes = {key: described(shape, _INPUT_SAYS[key]) for key, shape in _INPUT.items()}
    made = mapping(inputspec.KEYS, shapes, ["type"])
    plain = {"properties": {"enum": False, "default": {"const": None}}}
    secret = {"if": {"properties": {"secret": {"const": True}}, "required": ["secret"]}, "then": plain}
    return {**made, "allOf": [*(_only_of_type(kind) for kind in inputspec.TYPES), secret]}


def _only_of_type(kind: str) -> Schema:
    """What means nothing for a type is refused for it."""
    typed = {key for keys in inputspec.OF_TYPE.values() for key in keys}
    foreign = sorted(typed - set(inputspec.OF_TYPE[kind]))
    return {"if": {"properties": {"type": {"const": kind}}}, "then": {"properties": dict.fromkeys(foreign, False)}}


def _depends_on() -> Schema:
    names = {"type": "array", "items": TEXT, "uniqueItems": True}
    word = {"enum": sorted(stepfile.STATES)}
    states = {"anyOf": [word, {"type": "array", "items": word, "minItems": 1}]}
    some = {**names, "minItems": 1}
    of_any = {"type": "object", "properties": {"any": some}, "required": ["any"], "additionalProperties": False}
    by_state = {"type": "object", "not": {"required": ["any"]}, "additionalProperties": states}
    return {"anyOf": [TEXT, names, of_any, by_state]}


def _retry() -> Schema:
    errors = {"type": "string", "pattern": f"^{retryfile.ERROR_PATTERN}$"}
    shapes = {
        "attempts": described(whole(1, retryfile.MAX_ATTEMPTS), "How often it is tried in all"),
        "delay": described(or_zero("duration"), "The time between two tries"),
        "backoff": described(
            {"type": "number", "minimum": 1, "maximum": retryfile.MAX_BACKOFF},
            "What the delay is multiplied by after each try",
        ),
        "max_delay": described(ref("duration"), "The longest delay"),
        "jitter": described({"type": "boolean", "default": False}, "True: a random part of each delay is left out"),
        "errors": described(
            {"type": "array", "items": errors, "minItems": 1, "uniqueItems": True},
            "The names of the exceptions that are worth another try; without it, any",
        ),
        "when": described(
            _condition(asked_after=True),
            "Asked after each try, with result and error; decides whether there is another",
        ),
    }
    more = {"required": ["attempts"], "properties": {"attempts": {"minimum": 2}}}
    return {**mapping(retryfile.KEYS, shapes), "dependentSchemas": {"errors": more, "when": more}}


def _loop() -> Schema:
    over = {"anyOf": [{"type": ["array", "object"]}, WHOLE_EXPRESSION]}
    shapes = {
        "for_each": described(over, "A list or a mapping; the step is done for each of its items"),
        "times": described({"anyOf": [whole(0, MAX_ITEMS), WHOLE_EXPRESSION]}, "How often it is done"),
        "while": described(_condition(), "It is done as long as this holds; asked before each round"),
        "until": described(_condition(asked_after=True), "It is done until this holds; asked after each round"),
        "delay": described(or_zero("duration"), "The time between two rounds"),
        "parallelism": described({**whole(1, loopfile.MAX_PARALLELISM), "default": 1}, "How many items run at once"),
        "max_iterations": described(
            {**whole(1, MAX_ITEMS), "default": DEFAULT_MAX_ITERATIONS}, "So many rounds fail the step"
        ),
        "on_item_failure": described(
            {"enum": list(loopfile.ON_ITEM_FAILURE), "default": "stop"},
            "stop: it fails at the first item that does; continue: it succeeds, with null for items that failed",
        ),
    }
    foreign = {
        kind: {"properties": {key: False for key, (kinds, _) in loopfile.FOREIGN.items() if kind in kinds}}
        for kind in loopfile.KINDS
    }
    one = [{"required": [kind]} for kind in loopfile.KINDS]
    return {**mapping(loopfile.KEYS, shapes), "oneOf": one, "dependentSchemas": foreign}


def _needs() -> Schema:
    return {"type": "object", "propertyNames": NAMES, "additionalProperties": whole(1, modefile.MAX_NEEDED)}


def _condition(*, asked_after: bool = False) -> Schema:
    """One whole expression, or true; false only where it is asked after something was done."""
    return {"anyOf": [{"type": "boolean"} if asked_after else {"const": True}, WHOLE_EXPRESSION]}


def _labels() -> Schema:
    names = {"minLength": 1, "maxLength": defaults.MAX_LABEL_NAME}
    values = {"type": "string", "maxLength": defaults.MAX_LABEL, "not": {"pattern": r"\{\{"}}
    return {"type": "object", "propertyNames": names, "additionalProperties": values}


_TASK: dict[str, Schema] = {
    "title": TEXT,
    "description": TEXT,
    "inputs": {"type": "object", "propertyNames": NAMES, "additionalProperties": ref("input")},
    "lane": {"enum": list(defaults.LANES), "default": "main"},
    "priority": {**whole(PRIORITIES.start, PRIORITIES.stop - 1), "default": 0},
    "labels": _labels(),
    "timeout": ref("duration"),
    "queue_timeout": ref("duration"),
    "cleanup_timeout": ref("duration"),
    "recovery": {"enum": list(defaults.RECOVERIES), "default": "fail"},
    "preempt": {"enum": list(defaults.PREEMPTS), "default": "now"},
    "mode": mode(),
    "resources": _needs(),
    "steps": {**ref("steps"), "minProperties": 1, "minItems": 1},
    "on_failure": ref("steps"),
    "on_cancel": ref("steps"),
    "on_preempt": ref("steps"),
    "on_resume": ref("steps"),
    "finally": ref("steps"),
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
    "preempt": "How an interrupt stops it: now, when the steps that run have ended, or never",
    "steps": "What it does: a mapping is a graph, a list a sequence",
    "on_failure": "Steps that run if it failed or timed out",
    "on_cancel": "Steps that run if it was cancelled",
    "on_preempt": "Steps that run each time it is stopped to come back",
    "on_resume": "Steps that run before it goes on after that",
    "mode": MODE_SAYS,
    "resources": "What a run takes as long as it runs: {name: number}",
    "finally": "Steps that run once, whatever happened",
    "returns": "The run's result: an expression, or a mapping of them",
}
_STEP: dict[str, Schema] = {
    "action": TEXT,
    "params": {"type": "object"},
    "depends_on": _depends_on(),
    "when": _condition(),
    "outputs": {"type": "object", "propertyNames": NAMES},
    "retry": _retry(),
    "timeout": ref("duration"),
    "continue_on_failure": {"type": "boolean", "default": False},
    "idempotent": {"type": "boolean", "default": False},
    "loop": _loop(),
    "resources": _needs(),
    "preempt": {"enum": list(defaults.PREEMPTS)},
}
_STEP_SAYS = {
    "action": "One of this plan's actions, or of Aura's, such as shell.run; `aura actions` lists them",
    "params": "The action's parameters; each value may hold expressions",
    "depends_on": "What must have ended before: a step, a list of steps, {any: [steps]} or {step: states}",
    "when": "A condition; if it does not hold, the step is skipped",
    "outputs": "Named values made from the action's result; others read them as steps.<step>.outputs.<name>",
    "retry": "How often it is tried in all, after what, and the time between two tries",
    "loop": "What it is done for, again and again: items of a list, a number of times, while or until something holds",
    "resources": "What each attempt and each item takes as long as it runs, beside what the run holds: {name: number}",
    "timeout": "How long each attempt may take",
    "continue_on_failure": "True: its failure does not make the run fail",
    "idempotent": "True: it may be run again after a crash in the middle of it",
    "preempt": "How an interrupt stops it while this runs; the task's, unless it says otherwise",
}
_INPUT: dict[str, Schema] = {
    "type": {"enum": list(inputspec.TYPES)},
    "description": TEXT,
    "default": _ANY,
    "enum": {"type": "array", "minItems": 1},
    "secret": {"type": "boolean", "default": False},
    "minimum": {"type": "number"},
    "maximum": {"type": "number"},
    "min_length": _COUNT,
    "max_length": _COUNT,
    "pattern": TEXT,
    "items": ref("input"),
    "properties": {"type": "object", "additionalProperties": ref("input")},
}
_INPUT_SAYS = {
    "type": "What kind of value it is",
    "description": "Shown with the task",
    "default": "Used if nothing is given; plain data. With null, null may be given as well",
    "enum": "The values that are allowed",
    "secret": "True: what is given is shown nowhere; *** stands in its place",
    "minimum": "The lowest number",
    "maximum": "The highest number",
    "min_length": "The fewest characters or elements",
    "max_length": "The most characters or elements",
    "pattern": "A regular expression (RE2) that must match somewhere",
    "items": "What each element is",
    "properties": "Its members; others are refused. Without it, any are allowed",
}
