"""Whether the steps of a plan use actions that exist, with parameters that fit them.

For shipped actions this is known when a plan is checked; for a plan's own by name and parameter names (``pyscan``), and
with types once its Python has been imported. Actions of other plans are for ``crosscheck``.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from aura.actions import Action
from aura.duration import Duration, decode_hook, parse_duration
from aura.errors import Problem
from aura.loading.pyscan import Scan, Shape
from aura.loading.stepfile import ActionUse
from aura.plan import RESERVED_PLAN_NAMES
from aura.sandbox import near

#: The parameters that become a command line, which every user of the machine can read.
COMMAND_LINES: Mapping[str, tuple[str, ...]] = {"shell.run": ("argv", "shell")}
#: What is said of a secret in one of them.
ON_COMMAND_LINE = "a secret on a command line can be read by all users of the machine; hand it over in `env` or `stdin`"

#: An action, or as much of it as is known without running its plan's code.
Known = Action | Shape


def check_uses(plan_name: str, uses: Iterable[ActionUse], known: Mapping[str, Known], *, complete: bool) -> None:
    """Note each action that is not there and each parameter that does not fit, at the step that uses it.

    ``known`` has the shipped actions and the plan's own by full name. ``complete`` says that the plan has no others.
    """
    shapes: dict[str, Shape] = {}
    for use in uses:
        name = use.step.action
        action = known.get(name)
        if action is not None:
            if name not in shapes:
                shapes[name] = shape_of(action)
            check_parameters(use, action, shapes[name])
            _check_command_line(use)
        elif name:  # without one it was reported when the step was read
            _report_unknown(plan_name, use, known, complete=complete)


def _check_command_line(use: ActionUse) -> None:
    for key in COMMAND_LINES.get(use.step.action, ()):
        if key in use.step.params and "secrets" in use.step.params[key].names:
            use.reader.problem((*use.path, "params", key), ON_COMMAND_LINE)


def _report_unknown(plan_name: str, use: ActionUse, known: Mapping[str, Known], *, complete: bool) -> None:
    path = (*use.path, "action")
    family, _, bare = use.step.action.rpartition(".")
    if family == plan_name:
        if complete:
            names = [name.removeprefix(f"{plan_name}.") for name in known]
            use.reader.problem(path, f"there is no action {bare!r} in this plan{near(bare, names)}")
    elif family in RESERVED_PLAN_NAMES:
        use.reader.problem(path, f"there is no action {use.step.action!r}{near(use.step.action, known)}")
    # else it is of another plan, and ``crosscheck`` will tell


def check_parameters(use: ActionUse, action: Known, shape: Shape | None = None) -> None:
    """Note each parameter that does not fit an action. Who has its ``shape`` already hands it over."""
    given, name = use.step.params, use.step.action
    shape = shape_of(action) if shape is None else shape
    if shape.loose:
        return
    for key in given:
        if key not in shape.parameters:
            message = f"{name} has no parameter {key!r}{near(key, shape.parameters)}"
            use.reader.key_problem((*use.path, "params", key), message)
    missing = [key for key in shape.parameters if key in shape.required and key not in given]
    if missing:
        place = (*use.path, "params") if given else (*use.path, "action")
        use.reader.key_problem(place, f"{name} needs the parameter {', '.join(missing)}")
    if isinstance(action, Action) and any(template.constant for template in given.values()):
        for key, message in _misfits(use, action):
            use.reader.problem((*use.path, "params", key), message)


def _misfits(use: ActionUse, action: Action) -> Iterator[tuple[str, str]]:
    """Check the types of parameters that are plain data; the others are checked when they have been rendered."""
    for field in msgspec.structs.fields(action.params):
        template = use.step.params.get(field.name)
        if template is None or not template.constant:
            continue
        try:
            msgspec.convert(template.value, field.type, dec_hook=_decode_written)
        except msgspec.ValidationError as error:
            yield field.name, f"{use.step.action}: {field.name}: {error}"


def _decode_written(kind: type[Any], value: Any) -> Any:
    """Like ``duration.decode_hook``, but what stands in a plan file needs a unit."""
    return parse_duration(value) if issubclass(kind, Duration) else decode_hook(kind, value)


def shape_of(action: Known) -> Shape:
    """The names of an action's parameters, and which of them must be given."""
    if isinstance(action, Shape):
        return action
    fields = msgspec.structs.fields(action.params)
    return Shape(tuple(field.name for field in fields), frozenset(field.name for field in fields if field.required))


def known_actions(plan_name: str, shipped: Mapping[str, Action], found: Scan) -> dict[str, Known]:
    """All actions that the steps of a plan may use, as far as they are known without an import."""
    return {**shipped, **{f"{plan_name}.{name}": shape for name, shape in found.actions.items()}}


def name_problems(found: Scan, shipped: Mapping[str, Action]) -> Iterator[Problem]:
    """Refuse actions of a plan that have the name of a shipped one, such as ``log``."""
    for name, place in found.places.items():
        if name in shipped:
            yield Problem(*place, f"the action {name!r} has the name of a shipped one; rename it")
