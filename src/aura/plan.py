"""What a checked plan is: frozen descriptions of its tasks, steps and inputs. No file is read and nothing runs here.

``loader`` makes these from a folder; the executor reads them. A ``Template`` is a value from a plan file in which
``{{ … }}`` may stand (see ``expressions``); everything else is plain data.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from aura.expressions import Condition, Template
from aura.lifecycle import Recovery, StepState

#: Names of plans and of each part of a task's name.
NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"
#: Names of steps, inputs, outputs, vars, items and rules: expressions can say them.
IDENTIFIER_PATTERN = r"[a-z_][a-z0-9_]{0,63}"
#: Families of shipped actions; no plan may take one of these names.
RESERVED_PLAN_NAMES = frozenset(
    {"log", "sleep", "fail", "stop", "assert", "shell", "python", "http", "file", "task", "event", "approval"}
    | {"state", "text", "json"}
)
#: How long the clean-up of a run may take unless its task says otherwise, in seconds.
DEFAULT_CLEANUP_TIMEOUT = 10.0


class Source(msgspec.Struct, frozen=True):
    """A place in a plan file; ``file`` is relative to the plans folder, line and column count from 1."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Dependency(msgspec.Struct, frozen=True):
    """``step`` has to end in one of ``states`` before the dependant may start."""

    step: str
    states: frozenset[StepState]


class Retry(msgspec.Struct, frozen=True):
    """How often a step is tried in all, and how long it waits between two tries, in seconds."""

    attempts: int = 1
    delay: float = 0.0


class Step(msgspec.Struct, frozen=True):
    """One node of a task's graph.

    ``depends_on`` is empty for a step that starts at once; with ``any_of`` one of them is enough, else all are needed.
    ``action`` is the full name: ``shell.run``, ``log``, or ``<plan>.<function>`` for a plan's own.
    ``timeout`` is in seconds, for each attempt.
    """

    name: str
    action: str
    source: Source
    params: Mapping[str, Template] = {}
    depends_on: tuple[Dependency, ...] = ()
    any_of: bool = False
    when: Condition | None = None
    outputs: Mapping[str, Template] = {}
    retry: Retry = Retry()
    timeout: float | None = None
    continue_on_failure: bool = False
    idempotent: bool = False


class Input(msgspec.Struct, frozen=True):
    """One input of a task. ``schema`` is its JSON Schema; it is required unless ``has_default``."""

    name: str
    schema: Mapping[str, Any]
    has_default: bool = False
    default: Any = None


Steps = Mapping[str, Step]


class Task(msgspec.Struct, frozen=True):
    """A definition that can be run. Durations are in seconds; ``steps`` are in an order that respects the graph."""

    name: str
    plan_name: str
    source: Source
    steps: Steps
    title: str = ""
    description: str = ""
    inputs: Mapping[str, Input] = {}
    lane: str = "main"
    priority: int = 0
    labels: Mapping[str, str] = {}
    timeout: float | None = None
    queue_timeout: float | None = None
    cleanup_timeout: float = DEFAULT_CLEANUP_TIMEOUT
    recovery: Recovery = Recovery.FAIL
    on_failure: Steps = {}
    on_cancel: Steps = {}
    finally_: Steps = {}
    returns: Mapping[str, Template] | Template | None = None

    def inputs_schema(self) -> dict[str, Any]:
        """The inputs as one JSON Schema (2020-12) of an object that knows all its members."""
        properties = {}
        for given in self.inputs.values():
            properties[given.name] = dict(given.schema)
            if given.has_default:
                properties[given.name]["default"] = given.default
        required = [i.name for i in self.inputs.values() if not i.has_default]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


class Plan(msgspec.Struct, frozen=True):
    """A folder of tasks, as checked. ``directory`` is the absolute path of its folder."""

    name: str
    directory: str
    tasks: Mapping[str, Task]
    title: str = ""
    description: str = ""
    timezone: str = "UTC"
    vars: Mapping[str, Any] = {}
