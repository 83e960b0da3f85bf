"""Why a step was skipped, in words: a sentence, its short form, and the lines of a tree below it.

``explain`` makes the data that is read here. Nothing but plain data is needed, so that every door can say the same.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

#: In a sentence: how many values, how long the JSON of one, and how much of the expression, in characters.
MAX_VALUES = 4
MAX_VALUE = 60
MAX_EXPRESSION = 120
#: Why a step is skipped whose ``when`` does not hold, in short; all that the record of an older Aura says.
WHEN_IS_FALSE = "when is false"
_ENDED = {
    "failed": "failed",
    "timed_out": "timed out",
    "skipped": "was skipped",
    "cancelled": "was cancelled",
    "succeeded": "succeeded",
}


def sentence(explained: Mapping[str, Any]) -> str:
    """All in one line: ``when is false: {{ inputs.n > 3 }} with inputs.n = 2 (lab/tasks/t.yaml:12)``."""
    at = f"({explained['file']}:{explained['line']})"
    match explained["because"]:
        case "dependency":
            return f"{_wish(explained)}, but {_ending(explained)} {at}"
        case "ended_early":
            return f"{head(explained)} {at}"
    if not explained["values"]:
        return f"{head(explained)}: {_expression(explained)} {at}"
    return f"{head(explained)}: {_expression(explained)} with {_few_values(explained['values'])} {at}"


def head(explained: Mapping[str, Any]) -> str:
    """The short of it: ``when is false``, ``a failed``, ``a ended the run``."""
    match explained["because"]:
        case "dependency":
            return f"{explained['step']} {_ENDED[explained['state']]}"
        case "ended_early":
            return f"{explained['step']} ended the run"
        case "until":
            return "until is true"
    return f"{explained['because']} is false"


def details(explained: Mapping[str, Any]) -> list[str]:
    """What ``head`` leaves out, a line each: the wish or the expression with its place, then root or values."""
    at = f"({explained['file']}:{explained['line']})"
    match explained["because"]:
        case "dependency":
            return [f"{_wish(explained)} {at}", *([_root(explained)] if _has_root(explained) else [])]
        case "ended_early":
            return [at.strip("()")]
    values = [f"{path} = {as_json(value)}" for path, value in explained["values"].items()]
    return [f"{explained['expression']} {at}", *values]


def branches(entries: Iterable[Sequence[str]]) -> list[str]:
    """Entries as branches of a tree below what they belong to: of each the line of its own, then those below it."""
    listed = list(entries)
    lines: list[str] = []
    for number, (own, *below) in enumerate(listed, 1):
        branch, rail = ("└─", "  ") if number == len(listed) else ("├─", "│ ")
        lines += [f"{branch} {own}", *(f"{rail} {line}" for line in below)]
    return lines


def _wish(explained: Mapping[str, Any]) -> str:
    if "any" in explained:
        return f"wants one of {', '.join(explained['any'])}"
    return f"wants {explained['step']} {' or '.join(wanted_words(explained['wanted']))}"


def wanted_words(states: Collection[str]) -> list[str]:
    """Wanted states as a plan file names them: ``failed`` includes ``timed_out``, ``ended`` is any of them."""
    if len(states) == len(_ENDED):
        return ["ended"]
    return [state for state in states if not (state == "timed_out" and "failed" in states)]


def _ending(explained: Mapping[str, Any]) -> str:
    who = f"none ended so: {explained['step']}" if "any" in explained else "it"
    how = f"{who} {_ENDED[explained['state']]}"
    return f"{how}, {_root(explained)}" if _has_root(explained) else how


def _has_root(explained: Mapping[str, Any]) -> bool:
    return bool(explained["root"] != explained["step"])


def _root(explained: Mapping[str, Any]) -> str:
    return f"in the end because {explained['root']} {_ENDED[explained['root_state']]}"


def _expression(explained: Mapping[str, Any]) -> str:
    return short(" ".join(explained["expression"].split()), MAX_EXPRESSION)


def _few_values(values: Mapping[str, Any]) -> str:
    shown = [f"{path} = {short(as_json(value), MAX_VALUE)}" for path, value in list(values.items())[:MAX_VALUES]]
    return ", ".join([*shown, *(["…"] if len(values) > MAX_VALUES else [])])


def short(text: str, length: int) -> str:
    """A text, or its beginning with an ellipsis, of so many characters at the most."""
    return text if len(text) <= length else text[: length - 1] + "…"


def as_json(value: Any) -> str:
    """A value in a line, as an expression would have it."""
    return json.dumps(value, ensure_ascii=False)
