"""What a checked ``schedule.yaml`` is: named, pre-filled starts of tasks, and what triggers them.

``schedulefile`` makes these from the file. Times are Unix seconds, durations seconds. In a trigger's ``when`` and in an
item's inputs ``due`` and ``event`` have a meaning.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from aura.expressions import Condition, Template
from aura.task import Mode, Source


class Misfire(StrEnum):
    """What becomes of times at which it could not start, once it can again."""

    #: One run for all of them.
    RUN_ONCE = "run_once"
    #: None.
    SKIP = "skip"
    #: A run for each, 100 at most.
    RUN_ALL = "run_all"


class Change(StrEnum):
    """What can become of a file."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


class Scheme(StrEnum):
    """How whoever calls a webhook proves that it knows the secret."""

    AURA = "aura"
    GITHUB = "github"
    GITLAB = "gitlab"
    BEARER = "bearer"


class Timed(msgspec.Struct, frozen=True):
    """What all triggers with times of their own say. ``misfire_grace`` is how late a start may be; None: however."""

    misfire: Misfire = Misfire.RUN_ONCE
    misfire_grace: float | None = None
    jitter: float = 0.0


class Cron(msgspec.Struct, frozen=True):
    """At the times of a cron expression, in a time zone; None is the plan's."""

    fields: str
    timezone: str | None
    timed: Timed


class Every(msgspec.Struct, frozen=True):
    """Again and again, ``period`` apart; on the grid that begins at ``start`` if that is given."""

    period: float
    start: float | None
    timed: Timed


class At(msgspec.Struct, frozen=True):
    """Once."""

    time: float
    timed: Timed


class Debounce(msgspec.Struct, frozen=True):
    """Events with the same key count as one until none has come for ``quiet`` seconds."""

    quiet: float
    key: Template | None = None


class OnEvent(msgspec.Struct, frozen=True):
    """When an event comes whose name the pattern means."""

    pattern: str
    debounce: Debounce | None = None


class OnFile(msgspec.Struct, frozen=True):
    """When files below a folder change; for each file by itself, or for all that have settled."""

    path: Template
    pattern: str = "*"
    changes: frozenset[Change] = frozenset({Change.ADDED, Change.MODIFIED})
    each: bool = False


class OnWebhook(msgspec.Struct, frozen=True):
    """When somebody who knows a secret of the plan calls."""

    secret: str
    scheme: Scheme = Scheme.AURA


class Poll(msgspec.Struct, frozen=True):
    """When what an action gives, asked again and again, says so. ``action`` is its full name."""

    action: str
    params: Mapping[str, Template]
    period: float


class Expect(msgspec.Struct, frozen=True):
    """When an event has not come for ``within`` seconds."""

    pattern: str
    within: float


#: With times of their own.
TimedKind = Cron | Every | At
Kind = Cron | Every | At | OnEvent | OnFile | OnWebhook | Poll | Expect


class Trigger(msgspec.Struct, frozen=True):
    """What starts a task, if ``when`` holds."""

    kind: Kind
    when: Condition | None = None


class Item(msgspec.Struct, frozen=True):
    """One named start. ``mode`` counts the runs of this item alone; None leaves it to the task's."""

    name: str
    source: Source
    plan_name: str
    task_name: str
    inputs: Mapping[str, Template] = {}
    enabled: bool = True
    mode: Mode | None = None
    cooldown: float = 0.0
    triggers: tuple[Trigger, ...] = ()
