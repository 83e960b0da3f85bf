"""Plans, and what is in them: tasks with their steps, actions, services."""

from typing import Any, Literal

from aura.api.common import Shape
from aura.errors import Problem

PlanState = Literal["ready", "stale", "broken"]


class ReloadedPlan(Shape, frozen=True, kw_only=True):
    """How a plan stands after a load. ``testing`` is a newer version whose tests run: it is served once they pass."""

    name: str
    status: PlanState
    generation: str | None
    errors: list[Problem]
    testing: str | None = None


class Reloaded(Shape, frozen=True, kw_only=True):
    """All plans after a load."""

    plans: list[ReloadedPlan]


class Plan(Shape, frozen=True, kw_only=True):
    """A plan in the list of plans. ``testing`` is a newer version whose tests run: it is served once they pass."""

    name: str
    title: str
    description: str
    status: PlanState
    generation: str | None
    task_count: int
    errors: list[Problem]
    testing: str | None = None
    uses: list[str]
    preempts_others: bool


class TaskLoop(Shape, frozen=True, kw_only=True):
    """What a step is done for: ``key`` is ``for_each times while until``, ``value`` as the plan file has it."""

    key: str
    value: Any
    parallelism: int


class TaskStep(Shape, frozen=True, kw_only=True):
    """A step of a task. ``depends_on`` is ``{step: [states]}``, or that in ``{"any": …}``.

    ``when`` is its condition, ``attempts`` how often it is tried at the most, ``task`` the task that it runs or starts.
    """

    name: str
    action: str
    depends_on: dict[str, Any]
    when: str | None
    loop: TaskLoop | None
    attempts: int
    task: str | None


class Place(Shape, frozen=True, kw_only=True):
    """A line of a plan's file."""

    file: str
    line: int


class Task(Shape, frozen=True, kw_only=True):
    """A task. ``inputs`` is a JSON Schema; ``handlers`` has the steps of each, such as ``finally``, that it has.

    ``started_by`` are the items of schedules that start it, each as ``plan/item``.
    """

    name: str
    title: str
    description: str
    inputs: dict[str, Any]
    lane: str
    priority: int
    mode: str
    steps: list[TaskStep]
    handlers: dict[str, list[TaskStep]]
    started_by: list[str] = []
    source: Place


class Action(Shape, frozen=True, kw_only=True):
    """An action, or a service that actions are given.

    ``params`` and ``result`` are JSON Schemas, empty for a service; ``plan_name`` is null for one that Aura ships.
    ``services`` are those of its plan that it is given; ``open`` says of a service whether it is, and is null for an
    action.
    """

    name: str
    description: str
    params: dict[str, Any]
    result: dict[str, Any]
    plan_name: str | None
    cancellable: bool
    kind: Literal["action", "service"] = "action"
    services: list[str] = []
    open: bool | None = None
