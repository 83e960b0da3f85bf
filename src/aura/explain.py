"""Why a step was skipped, or how its condition came out, as data. ``reasons`` puts it into words.

The data is a mapping, kept with the step and shown by every door (``step.explained``). ``because`` says which kind:

- ``when``: its condition did not hold, or had no value: ``expression``, and ``values``, what that names.
- ``dependency``: what it waits for ended otherwise: ``step`` ended in ``state``, ``wanted`` are the states that would
  have done; ``any`` has the names if one of several would have. ``root`` is the step in which the chain of such skips
  began, ``root_state`` how that one ended.
- ``ended_early``: ``step`` ended the run.

``file`` and ``line`` are of the condition, or else of the step. The data is made only when a step is skipped, and is
bounded in size; what secrets and secret inputs hold is not in it.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from aura.expressions import Condition
from aura.graph import Graph, StepProgress
from aura.masking import masked
from aura.reasons import as_json, short
from aura.task import Dependency, Step
from aura.valuepaths import Path, path_text, values_of

Explained = dict[str, Any]
#: How many values are kept, and how long the JSON of one may be, in characters.
MAX_VALUES = 20
MAX_VALUE = 200
#: Gives a value without the secrets in it.
Hide = Callable[[Any], Any]


def _as_it_is(value: Any) -> Any:
    return value


def of_condition(
    because: str,
    condition: Condition,
    scope: Mapping[str, Any],
    secret_inputs: Collection[str],
    step: Step,
    hide: Hide = _as_it_is,
) -> Explained:
    """Explain how a condition of a step came out; ``because`` is its key in the plan file: ``when``, ``while``.

    ``scope`` is what it was asked in; ``secret_inputs`` are pointers as of ``masking``; ``hide`` gives a value without
    the secrets in it, before it is cut.
    """
    shown = {**scope, "inputs": masked(scope["inputs"], secret_inputs)}
    values = {path_text(path): _cut(hide(value)) for path, value in _values_of(condition, shown)[:MAX_VALUES]}
    return {"because": because, "expression": _source(condition), "values": values, **_place(condition.at, step)}


def of_skip(graph: Graph, progress: StepProgress) -> Explained:
    """Explain a step that the graph has skipped."""
    place = _place("", progress.step)
    if graph.ended_early_by is not None:
        return {"because": "ended_early", "step": graph.ended_early_by, **place}
    need = next(need for need in progress.step.depends_on if _is_unmet(graph, need))
    cause = graph.steps[need.step]
    root = graph.steps.get((cause.explained or {}).get("root", cause.name), cause)
    found = {
        "because": "dependency",
        "step": cause.name,
        "state": cause.state.value,
        "wanted": sorted(state.value for state in need.states),
        "root": root.name,
        "root_state": root.state.value,
    }
    if progress.step.any_of:
        found["any"] = [need.step for need in progress.step.depends_on]
    return {**found, **place}


def _is_unmet(graph: Graph, need: Dependency) -> bool:
    cause = graph.steps[need.step]
    return cause.ended and cause.state not in need.states


def _values_of(condition: Condition, scope: Mapping[str, Any]) -> list[tuple[Path, Any]]:
    return [] if condition.constant else list(values_of(str(condition.value)[2:-2].strip(), scope).items())


def _source(condition: Condition) -> str:
    value = condition.value
    return value if isinstance(value, str) else as_json(value)


def _place(at: str, step: Step) -> dict[str, Any]:
    """File and line of ``at``, which is ``file:line``; the step's own if it is not."""
    file, _, line = at.rpartition(":")
    known = bool(file) and line.isdecimal()
    return {"file": file if known else step.source.file, "line": int(line) if known else step.source.line}


def _cut(value: Any) -> Any:
    """A value; the beginning of its JSON, with an ellipsis, if that is long."""
    text = as_json(value)
    return value if len(text) <= MAX_VALUE else short(text, MAX_VALUE)
