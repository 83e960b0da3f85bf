"""What an emitted event, or the call of a webhook, has brought about."""

from aura.api.common import Shape


class FiredInterrupt(Shape, frozen=True, kw_only=True):
    """An interrupt that an event has fired, and the run that handles it."""

    plan_name: str
    rule: str
    cid: str


class EmittedEvent(Shape, frozen=True, kw_only=True):
    """An event that is on record, the runs that it has started, and the interrupts that it has fired."""

    event_id: str
    started: list[str]
    interrupts: list[FiredInterrupt]


class ReceivedCall(Shape, frozen=True, kw_only=True):
    """A call of a webhook that is on record: its event, and the run that it has started."""

    event_id: str
    started: list[str]
