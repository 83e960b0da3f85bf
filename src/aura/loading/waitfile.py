"""The parameters of steps that wait, as far as a plan file says them outright: ``event.wait`` and ``approval.wait``.

Of ``event.wait`` the ``when`` is no parameter of an action: it is asked of each event, and so it is kept apart from
those that are rendered. Whether the names in it are there is for ``stepfile``; all else about parameters for
``usecheck``.
"""

from collections.abc import Mapping

from aura.duration import parse_duration
from aura.errors import ParamsInvalid
from aura.eventnames import read_pattern
from aura.expressions import Condition, Template
from aura.loading import approvals
from aura.loading.fields import Path, Reader

#: The action that waits for an event, and what it says of it beside its parameters.
EVENT_WAIT = "event.wait"
WHEN = "when"


def read_event_when(reader: Reader, path: Path, params: object) -> Condition | None:
    """Read the ``when`` among the parameters of ``event.wait``, which stand at ``path``; None if there is none."""
    if not isinstance(params, dict) or WHEN not in params:
        return None
    at = (*path, WHEN)
    if params[WHEN] is False:
        reader.problem(at, "when: false: no event would ever be let through; leave the step out")
    return reader.condition(at, params[WHEN])


def check_params(reader: Reader, path: Path, action: str, params: Mapping[str, Template]) -> None:
    """Note what is wrong with the parameters, at ``path``, of a step that waits."""
    if action not in (EVENT_WAIT, approvals.ACTION):
        return
    said = {name: value.value for name, value in params.items() if value.constant}
    if action == EVENT_WAIT and isinstance(said.get("name"), str):
        try:
            read_pattern(said["name"])
        except ValueError as error:
            reader.problem((*path, "name"), f"name: {error}")
    if action == approvals.ACTION:
        _check_approval(reader, path, params)
    if "timeout" in said and _is_nothing(said["timeout"]):
        reader.problem((*path, "timeout"), "timeout: 0 would be over at once; leave it out for no limit")


def _check_approval(reader: Reader, path: Path, params: Mapping[str, Template]) -> None:
    message, inputs = params.get("message"), params.get("inputs")
    if message is not None and message.constant and isinstance(message.value, str):
        try:
            approvals.check_message(message.value)
        except ParamsInvalid as error:
            reader.problem((*path, "message"), str(error).removeprefix(f"{approvals.ACTION}: "))
    if inputs is not None:
        approvals.read_asked(reader, (*path, "inputs"), inputs)


def _is_nothing(value: object) -> bool:
    """Whether a duration is 0; what is none is for ``usecheck`` to say."""
    try:
        return isinstance(value, str | int) and float(parse_duration(value)) == 0
    except ValueError:
        return False
