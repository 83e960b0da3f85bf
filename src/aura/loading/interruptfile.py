"""``interrupts.yaml``: from its YAML to ``Rule``s, with every problem that can be seen without running anything."""

import re
from collections.abc import Collection
from typing import Any

from aura.interrupt import HandlerStart, Preempts, Rule, Then
from aura.loading.crosscheck import TaskStart
from aura.loading.fields import Fields, kind_of
from aura.loading.triggerfile import EVENT, POLL, Place, read_triggers
from aura.sandbox import near
from aura.task import NAME_PATTERN

KEYS = ("rules",)
RULE_KEYS = (
    *("triggers", "task", "inputs", "preempts", "then", "handler_starts", "grace", "cooldown", "max_pending"),
    *("priority", "while_running", "enabled"),
)
PREEMPTS_KEYS = ("lanes", "plans", "tasks", "labels", "below_priority")
#: The kinds of triggers that a rule may have.
KINDS = {"event": EVENT, "poll": POLL}
#: The lanes whose runs can be stopped.
LANES = ("main", "event")
THENS = tuple(word.value for word in Then)
HANDLER_STARTS = tuple(word.value for word in HandlerStart)
MAX_PENDING = 1000

_NAMES = r"(?:[a-z0-9*][a-z0-9_*-]{0,63})"
#: By what plans, and tasks, may be meant: their names, or what begins or ends like them.
PLANS_PATTERN = _NAMES
TASKS_PATTERN = rf"{_NAMES}(?:/{_NAMES})*"
TASK_PATTERN = rf"{NAME_PATTERN}(?:/{NAME_PATTERN})*"


def read_interrupts(place: Place) -> dict[str, Rule]:
    """Read the file; problems go to the place's reader."""
    reader = place.reader
    fields = Fields(reader, (), reader.document.value, "interrupts.yaml", KEYS)
    rules = reader.mapping(fields.at("rules"), fields.value.get("rules", {}), "rules")
    if "rules" not in fields and isinstance(reader.document.value, dict):
        reader.problem((), "interrupts.yaml needs `rules`")
    found = reader.identifiers(fields.at("rules"), rules, "a rule")
    return {
        name: _read_rule(place, Fields(reader, path, value, f"rule {name}", RULE_KEYS)) for path, name, value in found
    }


def _read_rule(place: Place, fields: Fields) -> Rule:
    task_name, inputs = place.task(fields, place.plan_name)
    triggers = read_triggers(place, fields, KINDS)
    if fields.value.get("triggers", []) == [] and fields.is_mapping:
        place.reader.key_problem(fields.path, f"{fields.path[-1]} needs at least one trigger")
    return Rule(
        name=str(fields.path[-1]),
        source=place.reader.source(fields.path),
        triggers=triggers,
        task_name=task_name,
        inputs=inputs,
        preempts=_read_preempts(place, fields),
        then=Then(fields.choice("then", Then.RESUME.value, THENS)),
        handler_starts=HandlerStart(fields.choice("handler_starts", HandlerStart.AFTER_CLEANUP.value, HANDLER_STARTS)),
        grace=fields.duration("grace", 5.0, zero=True),
        cooldown=fields.duration("cooldown", 0.0, zero=True),
        max_pending=fields.integer("max_pending", 10, 1, MAX_PENDING),
        priority=fields.integer("priority", 0, -1000, 1000),
        while_running=_read_while_running(place, fields),
        enabled=fields.boolean("enabled", True),
    )


def _read_preempts(place: Place, rule: Fields) -> Preempts:
    if "preempts" not in rule:
        return Preempts()
    fields = Fields(place.reader, rule.at("preempts"), rule.get("preempts"), "preempts", PREEMPTS_KEYS)
    default = Preempts()
    return Preempts(
        lanes=_texts(fields, "lanes", default.lanes, LANES),
        plans=_texts(fields, "plans", default.plans, PLANS_PATTERN),
        tasks=_texts(fields, "tasks", default.tasks, TASKS_PATTERN),
        labels=_labels(fields),
        below_priority=fields.integer("below_priority", default.below_priority, -1000, 1001),
    )


def _texts(fields: Fields, key: str, default: tuple[str, ...], allowed: Collection[str] | str) -> tuple[str, ...]:
    """Read a list of texts: some words, or what a pattern allows."""
    value = fields.value.get(key, list(default))
    if not isinstance(value, list):
        fields.wrong(key, f"a list is needed, not {kind_of(value)}")
        return default
    for index, text in enumerate(value):
        if not _is_allowed(text, allowed):
            fields.reader.problem((*fields.at(key), index), f"{key}: {_rule(text, allowed)}")
    return tuple(text for text in value if isinstance(text, str))


def _is_allowed(text: Any, allowed: Collection[str] | str) -> bool:
    if not isinstance(text, str):
        return False
    return re.fullmatch(allowed, text) is not None if isinstance(allowed, str) else text in allowed


def _rule(text: Any, allowed: Collection[str] | str) -> str:
    shown = repr(text) if isinstance(text, str) else kind_of(text)
    if isinstance(allowed, str):
        return f"a name is needed, not {shown}"
    hint = near(text, allowed) if isinstance(text, str) else ""
    return f"{' or '.join(allowed)} is needed, not {shown}{hint}"


def _labels(fields: Fields) -> dict[str, str]:
    labels = fields.reader.mapping(fields.at("labels"), fields.value.get("labels", {}), "labels")
    for name, value in labels.items():
        if not isinstance(value, str):
            fields.reader.problem((*fields.at("labels"), name), f"the label {name} must be text, not {kind_of(value)}")
    return labels


def _read_while_running(place: Place, fields: Fields) -> tuple[str, ...]:
    """Read names of this plan's tasks."""
    names = _texts(fields, "while_running", (), TASK_PATTERN)
    for index, name in enumerate(fields.value.get("while_running", []) if names else []):
        if _is_allowed(name, TASK_PATTERN):
            place.starts.append(TaskStart(place.reader, (*fields.at("while_running"), index), place.plan_name, name))
    return names
