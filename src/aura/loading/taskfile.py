"""One task file: from its YAML to a ``Task``, with every problem that can be seen without running anything.

It knows the grammar of a task and which names its expressions may use. Whether its actions exist, and whether the
parameters fit them, is for ``usecheck``: that may have to wait for the import of the plan's Python.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from aura.expressions import Template
from aura.loading.defaults import read_for_task
from aura.loading.fields import Fields, Path, Reader
from aura.loading.inputspec import read_inputs
from aura.loading.names import Names
from aura.loading.needs import check_needs
from aura.loading.planfile import PlanHead
from aura.loading.stepfile import ActionUse, Block, Surroundings, check_names, check_reach, read_block
from aura.plan import Resource
from aura.task import Source, Task

#: A handler's key → the task's member that holds its steps, and further names that its expressions may use.
HANDLERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "on_failure": ("on_failure", ("error",)),
    "on_cancel": ("on_cancel", ()),
    "on_preempt": ("on_preempt", ()),
    "on_resume": ("on_resume", ()),
    "finally": ("finally_", ("error",)),
}
#: The keys of a task file.
KEYS = (
    *("title", "description", "inputs", "lane", "priority", "labels", "timeout", "queue_timeout", "cleanup_timeout"),
    *("recovery", "preempt", "mode", "resources", "steps", *HANDLERS, "returns"),
)
MAX_STEPS = 1000


class TaskDraft(msgspec.Struct, frozen=True):
    """A task as read, and its uses of actions, which are still to be checked."""

    task: Task
    uses: tuple[ActionUse, ...]


def read_task(
    reader: Reader,
    plan_name: str,
    name: str,
    head: PlanHead,
    qualify: Callable[[str], str],
    shared: Mapping[str, Resource],
) -> TaskDraft:
    """Read a task file; problems go to the reader.

    ``qualify`` gives the full name of an action, ``shared`` are the resources that all plans have.
    """
    fields = Fields(reader, (), reader.document.value, "a task", KEYS)
    inputs = read_inputs(reader, fields.at("inputs"), fields.get("inputs")) if "inputs" in fields else {}
    common = read_for_task(fields, head.task_defaults)
    blocks = _read_blocks(fields, Surroundings(qualify, head.step_defaults))
    steps = {n: step for block in blocks.values() for n, step in block.steps.items()}
    names = Names(reader, inputs, head.vars, head.secrets, steps)
    _check_blocks(reader, blocks, names)
    if common.mode.key is not None:
        names.check_mode_key((*fields.at("mode"), "key"), common.mode.key)
    handlers: dict[str, Any] = {member: blocks[key].steps for key, (member, _) in HANDLERS.items()}
    task = Task(
        name=name,
        plan_name=plan_name,
        source=Source(reader.document.file, 1, 1),
        title=fields.text("title"),
        description=fields.text("description"),
        inputs=inputs,
        steps=blocks["steps"].steps,
        returns=_read_returns(fields, names),
        **handlers,
        **msgspec.structs.asdict(common),
    )
    paths = {step_name: path for block in blocks.values() for step_name, path in block.paths.items()}
    check_needs(reader, task, paths, {**shared, **head.resources})
    uses = [ActionUse(s, reader, block.paths[s.name]) for block in blocks.values() for s in block.steps.values()]
    return TaskDraft(task, tuple(uses))


def _read_blocks(fields: Fields, around: Surroundings) -> dict[str, Block]:
    if "steps" not in fields:
        fields.reader.problem((), "a task needs `steps`")
    blocks = {}
    seen: dict[str, str] = {}
    for key in ("steps", *HANDLERS):
        block = read_block(fields.reader, fields.at(key), fields.value.get(key, {}), key, around)
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


def _check_blocks(reader: Reader, blocks: dict[str, Block], names: Names) -> None:
    for block in blocks.values():
        check_reach(block, reader)
    check_names(blocks["steps"], names)
    for key, (_, extra) in HANDLERS.items():
        check_names(blocks[key], names, all_steps=True, extra=extra)


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
