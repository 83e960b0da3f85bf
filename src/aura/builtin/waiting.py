"""Shipped actions that wait for what comes from outside: ``event.wait`` and ``approval.wait``.

They only say for what; the wait itself, which survives a restart, is of ``waits``. Of ``event.wait`` the plan file's
``when`` never comes here: it is asked of each event (``plan.Step.event_when``), and a parameter for who reads of it.
"""

from typing import Any

import msgspec

from aura.actions import action
from aura.duration import Duration
from aura.errors import ParamsInvalid, WaitFor
from aura.eventnames import read_pattern
from aura.loading.approvals import check_message, schema_of
from aura.wait import Wait, WaitKind


class Event(msgspec.Struct, frozen=True):
    """An event that came. ``time`` is RFC 3339 in UTC."""

    id: str
    name: str
    time: str
    payload: Any
    plan_name: str | None
    task_name: str | None
    cid: str | None
    step: str | None
    cause: str | None
    root: str | None
    depth: int


class Answer(msgspec.Struct, frozen=True):
    """What somebody answered; ``values`` are as asked for, empty if it was a no. ``at`` is RFC 3339 in UTC."""

    approved: bool
    by: str
    at: str
    values: dict[str, Any]


@action(name="event.wait")
async def wait_event(name: str, when: bool = True, timeout: Duration | None = None) -> Event:  # noqa: ARG001
    """Wait for an event whose name fits, and for which `when` is true."""
    try:
        pattern = read_pattern(name)
    except ValueError as error:
        raise ParamsInvalid(f"event.wait: name: {error}") from None
    raise WaitFor(Wait(WaitKind.EVENT, timeout, pattern=pattern))


@action(name="approval.wait")
async def wait_approval(message: str, inputs: dict[str, Any] = {}, timeout: Duration | None = None) -> Answer:  # noqa: B006
    """Wait until somebody says yes or no, and gives what is asked for."""
    raise WaitFor(Wait(WaitKind.APPROVAL, timeout, message=check_message(message), inputs=schema_of(inputs)))
