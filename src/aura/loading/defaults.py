"""The fields of a task and of a step for which ``plan.yaml`` may have defaults: the structs, and their one reader.

A task file is read with what ``plan.yaml`` says as the default, ``defaults`` of ``plan.yaml`` with what Aura says. A
field that is said is taken as a whole; only ``labels`` are added to those of the default.
"""

from collections.abc import Mapping

import msgspec

from aura.lifecycle import Recovery
from aura.loading.fields import Fields
from aura.loading.modefile import read_mode, read_needs
from aura.loading.retryfile import read_retry
from aura.task import DEFAULT_CLEANUP_TIMEOUT, Mode, Needs, Preempt, Retry

#: The keys that can stand in ``defaults.task`` and in ``defaults.step``.
TASK_KEYS = (
    *("lane", "priority", "mode", "timeout", "queue_timeout", "cleanup_timeout", "recovery", "preempt", "labels"),
    "resources",
)
STEP_KEYS = ("retry", "timeout", "continue_on_failure", "idempotent", "resources", "preempt")
LANES = ("main", "event")
RECOVERIES = ("fail", "resume", "restart")
PREEMPTS = tuple(word.value for word in Preempt)
MAX_LABEL_NAME = 64
MAX_LABEL = 256


class TaskDefaults(msgspec.Struct, frozen=True):
    """What a task of the plan has where it does not say it itself; ``labels`` are added to its own."""

    lane: str | None = None
    priority: int = 0
    mode: Mode = Mode()
    timeout: float | None = None
    queue_timeout: float | None = None
    cleanup_timeout: float = DEFAULT_CLEANUP_TIMEOUT
    recovery: Recovery = Recovery.FAIL
    preempt: Preempt = Preempt.NOW
    labels: Mapping[str, str] = {}
    resources: Needs = {}


class StepDefaults(msgspec.Struct, frozen=True):
    """What a step of the plan, one of a handler included, has where it does not say it itself."""

    retry: Retry = Retry()
    timeout: float | None = None
    continue_on_failure: bool = False
    idempotent: bool = False
    resources: Needs = {}
    preempt: Preempt | None = None


def read_for_task(fields: Fields, default: TaskDefaults) -> TaskDefaults:
    """Read the fields of a task, or of ``defaults.task``."""
    return TaskDefaults(
        lane=fields.choice("lane", default.lane or LANES[0], LANES) if "lane" in fields else default.lane,
        priority=fields.integer("priority", default.priority, -1000, 1000),
        mode=read_mode(fields, default.mode),
        timeout=fields.duration("timeout", default.timeout),
        queue_timeout=fields.duration("queue_timeout", default.queue_timeout),
        cleanup_timeout=fields.duration("cleanup_timeout", default.cleanup_timeout),
        recovery=Recovery(fields.choice("recovery", default.recovery.value, RECOVERIES)),
        preempt=Preempt(fields.choice("preempt", default.preempt.value, PREEMPTS)),
        labels={**default.labels, **_read_labels(fields)},
        resources=read_needs(fields, default.resources),
    )


def read_for_step(fields: Fields, default: StepDefaults) -> StepDefaults:
    """Read the fields of a step, or of ``defaults.step``."""
    return StepDefaults(
        retry=read_retry(fields, default.retry),
        timeout=fields.duration("timeout", default.timeout),
        continue_on_failure=fields.boolean("continue_on_failure", default.continue_on_failure),
        idempotent=fields.boolean("idempotent", default.idempotent),
        resources=read_needs(fields, default.resources),
        preempt=_read_preempt(fields, default.preempt),
    )


def _read_preempt(fields: Fields, default: Preempt | None) -> Preempt | None:
    return Preempt(fields.choice("preempt", Preempt.NOW.value, PREEMPTS)) if "preempt" in fields else default


def _read_labels(fields: Fields) -> dict[str, str]:
    if "labels" not in fields:
        return {}
    path = fields.at("labels")
    labels = {}
    for key, value in fields.reader.mapping(path, fields.get("labels"), "labels").items():
        if isinstance(value, str) and "{{" not in value and len(value) <= MAX_LABEL and 0 < len(key) <= MAX_LABEL_NAME:
            labels[key] = value
        else:
            fields.reader.problem((*path, key), f"the label {key} must be plain text of at most {MAX_LABEL} characters")
    return labels
