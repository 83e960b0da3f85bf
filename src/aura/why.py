"""Lines of the why-ledger: which starts did not become runs, and why. Plain data; ``ledger`` keeps them."""

from typing import Annotated, Literal, get_args

import msgspec

#: Every reason that a line may have.
Reason = Literal[
    "condition_false",
    "mode",
    "misfire",
    "paused",
    "disabled",
    "held",
    "gate",
    "queue_full",
    "cooldown",
    "debounced",
    "duplicate",
    "loop_detected",
    "bad_inputs",
    "storage_full",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
#: What a refused request is in the ledger, by the code with which clients are told; all others are ``bad_inputs``.
OF_REFUSALS = {
    "refused_by_mode": "mode",
    "queue_full": "queue_full",
    "events_full": "queue_full",
    "storage_unavailable": "storage_full",
    "internal": "storage_full",
    "shutting_down": "paused",
}


class Why(msgspec.Struct, frozen=True):
    """Why something did not start: ``count`` times, at ``at`` for the last time, in Unix seconds.

    ``item`` and ``rule`` are of the plan ``plan_name``; ``detail`` is for people. One that is kept has times and an id.
    """

    reason: str
    detail: str
    plan_name: str | None = None
    item: str | None = None
    rule: str | None = None
    task_name: str | None = None
    count: int = 1
    at: float | None = None
    first_at: float | None = None
    id: int = 0


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a line stands in the list: its time and id; of one that is not kept ``at`` is None, and it has a name."""

    at: float | None
    id: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
    name: str = ""


def reason_of(code: str) -> str:
    """The reason that a refusal is in the ledger."""
    return OF_REFUSALS.get(code, "bad_inputs")
