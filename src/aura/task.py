"""What a checked task is: frozen descriptions of its steps and inputs. No file is read and nothing runs here.

``loader`` makes these from a folder; the executor reads them. A ``Template`` is a value from a plan file in which
``{{ … }}`` may stand (see ``expressions``); everything else is plain data.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgspec

from aura.expressions import Condition, Template
from aura.lifecycle import Recovery, StepState

#: Names of plans and of each part of a task's name.
NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"
#: Names of steps, inputs, outputs, vars, items and rules: expressions can say them.
IDENTIFIER_PATTERN = r"[a-z_][a-z0-9_]{0,63}"
#: How long the clean-up of a run may take unless its task says otherwise, in seconds.
DEFAULT_CLEANUP_TIMEOUT = 10.0
#: After so many rounds a loop with ``while`` or ``until`` fails, unless it says otherwise.
DEFAULT_MAX_ITERATIONS = 1000
#: How many items or rounds a loop can have.
MAX_ITEMS = 100_000
#: How many runs wait in mode ``queued`` unless it says otherwise.
DEFAULT_MAX_QUEUED = 10


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
    """How often a step is tried in all, and how long it waits between two tries, in seconds.

    The wait before try ``n`` is ``delay * backoff ** (n - 2)``, at most ``max_delay``; with ``jitter`` a random part of
    that, from half of it to all. ``errors`` are the names of the exceptions that are worth another try, none means
    any; ``when`` is asked after each try, for results too, and decides instead.
    """

    attempts: int = 1
    delay: float = 0.0
    backoff: float = 1.0
    max_delay: float | None = None
    jitter: bool = False
    errors: frozenset[str] = frozenset()
    when: Condition | None = None


class Loop(msgspec.Struct, frozen=True):
    """What a step is done for, again and again: exactly one of ``for_each``, ``times``, ``while_`` and ``until``.

    ``for_each`` gives a list or a mapping, ``times`` a whole number; up to ``parallelism`` of their items run at once.
    ``while_`` is asked before each round, ``until`` after it; there are ``delay`` seconds between two rounds, and
    ``max_iterations`` of them fail the step. ``stop_on_failure``: it fails at the first item that does.
    """

    for_each: Template | None = None
    times: Template | None = None
    while_: Condition | None = None
    until: Condition | None = None
    delay: float = 0.0
    parallelism: int = 1
    max_iterations: int = DEFAULT_MAX_ITERATIONS
    stop_on_failure: bool = True


class Preempt(StrEnum):
    """How an interrupt, or a pause, stops what runs."""

    #: At once.
    NOW = "now"
    #: When the steps that run have ended by themselves, or their grace is over.
    AT_STEP_END = "at_step_end"
    #: Not at all.
    NEVER = "never"


class ModeKind(StrEnum):
    """What happens when a task is asked for while it runs."""

    #: It is refused.
    SINGLE = "single"
    #: What runs is stopped, and the new run starts when that has cleaned up.
    RESTART = "restart"
    #: It waits, at most ``max`` of them.
    QUEUED = "queued"
    #: It runs beside the others, at most ``max`` at once; the rest waits.
    PARALLEL = "parallel"


class Mode(msgspec.Struct, frozen=True):
    """A mode; runs whose ``key`` differs do not count for each other. ``max`` is None for no bound."""

    kind: ModeKind = ModeKind.PARALLEL
    max: int | None = None
    key: Template | None = None


#: name → how many of it are needed.
Needs = Mapping[str, int]


class Step(msgspec.Struct, frozen=True):
    """One node of a task's graph.

    ``depends_on`` is empty for a step that starts at once; with ``any_of`` one of them is enough, else all are needed.
    ``action`` is the full name: ``shell.run``, ``log``, or ``<plan>.<function>`` for a plan's own.
    ``timeout`` is in seconds, for each attempt; ``preempt`` is None where the task's counts.
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
    loop: Loop | None = None
    resources: Needs = {}
    preempt: Preempt | None = None
    #: Of ``event.wait``: its ``when``, which is not rendered but asked of each event that comes.
    event_when: Condition | None = None


class Input(msgspec.Struct, frozen=True):
    """One input of a task. ``schema`` is its JSON Schema; it is required unless ``has_default``.

    ``secrets`` are the pointers (see ``masking``) to what no door shows of it, from the inputs as a whole.
    """

    name: str
    schema: Mapping[str, Any]
    has_default: bool = False
    default: Any = None
    secrets: tuple[str, ...] = ()


def inputs_schema(inputs: Mapping[str, Input]) -> dict[str, Any]:
    """Inputs as one JSON Schema (2020-12) of an object that knows all its members."""
    properties = {}
    for given in inputs.values():
        properties[given.name] = dict(given.schema)
        if given.has_default:
            properties[given.name]["default"] = given.default
    required = [one.name for one in inputs.values() if not one.has_default]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


Steps = Mapping[str, Step]


class Task(msgspec.Struct, frozen=True, dict=True):
    """A definition that can be run. Durations are in seconds; ``steps`` are in an order that respects the graph.

    It has a ``dict`` for what is the same for each of its runs, and found once.
    """

    name: str
    plan_name: str
    source: Source
    steps: Steps
    title: str = ""
    description: str = ""
    inputs: Mapping[str, Input] = {}
    #: None where it does not say: then it depends on what starts it.
    lane: str | None = None
    priority: int = 0
    labels: Mapping[str, str] = {}
    timeout: float | None = None
    queue_timeout: float | None = None
    cleanup_timeout: float = DEFAULT_CLEANUP_TIMEOUT
    recovery: Recovery = Recovery.FAIL
    preempt: Preempt = Preempt.NOW
    mode: Mode = Mode()
    resources: Needs = {}
    on_failure: Steps = {}
    on_cancel: Steps = {}
    on_preempt: Steps = {}
    on_resume: Steps = {}
    finally_: Steps = {}
    returns: Mapping[str, Template] | Template | None = None

    @cached_property
    def has_secrets(self) -> bool:
        """Say whether what is given to it may be secret, so that no message may show what was made of its inputs."""
        return any(given.secrets for given in self.inputs.values())

    def all_steps(self) -> list[Step]:
        """All its steps, those of its handlers included."""
        handlers = (self.on_failure, self.on_cancel, self.on_preempt, self.on_resume, self.finally_)
        return [step for block in (self.steps, *handlers) for step in block.values()]

    @cached_property
    def inputs_schema(self) -> dict[str, Any]:
        """Its inputs as one schema (``inputs_schema``)."""
        return inputs_schema(self.inputs)
