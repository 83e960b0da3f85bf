"""What a checked plan is: its tasks, its variables, and what may start and stop work by itself. Nothing runs here."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from aura.interrupt import Rule
from aura.resources import Rate as Rate
from aura.resources import Resource as Resource
from aura.resources import Semaphore as Semaphore
from aura.schedule import Item
from aura.task import Task

#: How long the tests of a new version may take if the plan does not say it, in seconds.
GATE_TIMEOUT = 300.0

#: Families of shipped actions; no plan may take one of these names.
RESERVED_PLAN_NAMES = frozenset(
    {"log", "sleep", "fail", "stop", "assert", "shell", "python", "http", "file", "task", "event", "approval"}
    | {"state", "text", "json"}
)


class Plan(msgspec.Struct, frozen=True):
    """A folder of tasks, as checked. ``directory`` is the absolute path of its folder.

    ``uses`` are the plans whose actions and tasks it may use; ``resources`` are its own; ``secrets`` the names of those
    that it may read; ``rules`` say what stops running work, ``items`` what starts by itself. ``gate``: what has to pass
    before a new version is served, which may take ``gate_timeout`` seconds.
    """

    name: str
    directory: str
    tasks: Mapping[str, Task]
    title: str = ""
    description: str = ""
    timezone: str = "UTC"
    vars: Mapping[str, Any] = {}
    uses: tuple[str, ...] = ()
    resources: Mapping[str, Resource] = {}
    secrets: tuple[str, ...] = ()
    rules: Mapping[str, Rule] = {}
    items: Mapping[str, Item] = {}
    gate: Literal["tests"] | None = None
    gate_timeout: float = GATE_TIMEOUT
