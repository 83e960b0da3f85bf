"""What a checked ``interrupts.yaml`` is: rules by which something urgent stops running work and is handled.

``interruptfile`` makes these from the file. Durations are in seconds.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from aura.expressions import Template
from aura.schedule import Trigger
from aura.task import Source


class Then(StrEnum):
    """How what was stopped goes on once the handler has ended."""

    RESUME = "resume"
    RESTART = "restart"
    #: Not at all: it is cancelled.
    CANCEL = "cancel"


class HandlerStart(StrEnum):
    """When the handler's first step starts."""

    #: Once all that was stopped has cleaned up, or its grace is over.
    AFTER_CLEANUP = "after_cleanup"
    AT_ONCE = "at_once"


class Preempts(msgspec.Struct, frozen=True):
    """Which runs a rule stops: those that all of this fits. In names ``*`` stands for any text."""

    lanes: tuple[str, ...] = ("main",)
    plans: tuple[str, ...] = ("*",)
    tasks: tuple[str, ...] = ("*",)
    labels: Mapping[str, str] = {}
    below_priority: int = 1001


class Terms(msgspec.Struct, frozen=True):
    """What a firing covers and how it stops that, as its rule said when it fired. Of a kept one nothing else counts.

    ``plan_name``: it covers only runs of that plan, None for those of all.
    """

    preempts: Preempts
    then: Then
    handler_starts: HandlerStart
    grace: float
    plan_name: str | None = None


class Rule(msgspec.Struct, frozen=True):
    """One rule. ``priority`` counts among rules alone; ``while_running`` are tasks of its plan, none: always."""

    name: str
    source: Source
    triggers: tuple[Trigger, ...]
    task_name: str
    inputs: Mapping[str, Template] = {}
    preempts: Preempts = Preempts()
    then: Then = Then.RESUME
    handler_starts: HandlerStart = HandlerStart.AFTER_CLEANUP
    grace: float = 5.0
    cooldown: float = 0.0
    max_pending: int = 10
    priority: int = 0
    while_running: tuple[str, ...] = ()
    enabled: bool = True
