"""One task file: from its YAML to a ``Task``, with every problem that can be seen without running anything.

It knows the grammar of a task and which names its expressions may use. Whether its actions exist, and whether the
parameters fit them, is for ``usecheck``: that may have to wait for the import of the plan's Python.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from aura.expressions import Template
from aura.fields import Fields, Path, Reader
from aura.inputspec import read_inputs
from aura.lifecycle import Recovery
from aura.names import Names
from aura.plan import DEFAULT_CLEANUP_TIMEOUT, Source, Step, Task
from aura.planfile import PlanHead
from aura.stepfile import ActionUse, Block, check_names, read_block

#: The keys of a task file, and those that are part of the language but come later.
KEYS = (
    *("title", "description", "inputs", "lane", "priority", "labels", "timeout", "queue_timeout", "cleanup_timeout"),
    *("recovery", "steps", "on_failure", "on_cancel", "finally", "returns"),
)
LATER = ("mode", "resources", "preempt", "on_preempt", "on_resume")
#: A handler's key → further names that its expressions may use.
_HANDLERS = {"on_failure": ("error",), "on_cancel": (), "finally": ("error",)}
MAX_STEPS = 1000
LANES = ("main", "event")
RECOVERIES = ("fail", "restart")
MAX_LABEL_NAME = 64
MAX_LABEL = 256


class TaskDraft(msgspec.Struct, frozen=True):
    """A task as read, and its uses of actions, which are still to be checked."""

    task: Task
    uses: tuple[ActionUse, ...]


def read_task(reader: Reader, plan_name: str, name: str, head: PlanHead, qualify: Callable[[str], str]) -> TaskDraft:
    """Read a task file; problems go to the reader. ``qualify`` gives the full name of an action."""
    fields = Fields(reader, (), reader.document.value, "a task", KEYS, LATER)
    inputs = read_inputs(reader, fields.at("inputs"), fields.get("inputs")) if "inputs" in fields else {}
    blocks = _read_blocks(fields, qualify)
    steps = {step_name: step for block in blocks.values() for step_name, step in block.steps.items()}
    names = Names(reader, inputs, head.vars, steps)
    _check_blocks(blocks, names)
    task = Task(
        name=name,
        plan_name=plan_name,
        source=Source(reader.document.file, 1, 1),
        title=fields.text("title"),
        description=fields.text("description"),
        inputs=inputs,
        lane=fields.choice("lane", "main", LANES, ("interrupt",)),
        priority=fields.integer("priority", 0, -1000, 1000),
        labels=_read_labels(fields),
        timeout=fields.duration("timeout", None),
        queue_timeout=fields.duration("queue_timeout", None),
        cleanup_timeout=fields.duration("cleanup_timeout", DEFAULT_CLEANUP_TIMEOUT),
        recovery=Recovery(fields.choice("recovery", "fail", RECOVERIES, ("resume",))),
        steps=blocks["steps"].steps,
        on_failure=blocks["on_failure"].steps,
        on_cancel=blocks["on_cancel"].steps,
        finally_=blocks["finally"].steps,
        returns=_read_returns(fields, names),
    )
    uses = [ActionUse(s, reader, block.paths[s.name]) for block in blocks.values() for s in block.steps.values()]
    return TaskDraft(task, tuple(uses))


def _read_blocks(fields: Fields, qualify: Callable[[str], str]) -> dict[str, Block]:
    if "steps" not in fields:
        fields.reader.problem((), "a task needs `steps`")
    blocks = {}
    seen: dict[str, str] = {}
    for key in ("steps", *_HANDLERS):
        block = read_block(fields.reader, fields.at(key), fields.value.get(key, {}), key, qualify)
        for name in block.steps:
            if name in seen:
                message = f"the step {name!r} is in {seen[name]} already; a step's name is unique in its task"
                fields.reader.key_problem(block.paths[name], message)
            seen.setdefault(name, key)
        blocks[key] = block
    if "steps" in fields and fields.get("steps") in ({}, []):
        fields.wrong("steps", "a task needs at least one step")
    if len(seen) > MAX_STEPS:
        fields.wrong("steps", f"a task may have at most {MAX_STEPS} steps")
    return blocks


def _check_blocks(blocks: dict[str, Block], names: Names) -> None:
    check_names(blocks["steps"], names)
    for key, extra in _HANDLERS.items():
        check_names(blocks[key], names, all_steps=True, extra=extra)


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


def _read_returns(fields: Fields, names: Names) -> dict[str, Template] | Template | None:
    if "returns" not in fields:
        return None
    reader, path, value = fields.reader, fields.at("returns"), fields.get("returns")

    def read(at: Path, part: Any) -> Template:
        made = reader.template(at, part)
        names.check(at, made)
        return made

    if isinstance(value, dict):
        return {key: read((*path, key), part) for key, part in value.items()}
    return read(path, value)


def steps_of(task: Task) -> list[Step]:
    """All steps of a task, handlers included."""
    return [s for block in (task.steps, task.on_failure, task.on_cancel, task.finally_) for s in block.values()]
