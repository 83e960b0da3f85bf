"""Steps in a task file: their keys, their order, and the steps of handlers, which have the same grammar.

``taskfile`` reads what stands around them.
"""

import graphlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import msgspec

from aura.expressions import Condition, Template
from aura.lifecycle import StepState
from aura.loading.defaults import StepDefaults, read_for_step
from aura.loading.fields import Fields, Path, Reader, kind_of
from aura.loading.loopfile import read_loop
from aura.loading.names import Names, after_each
from aura.loading.reach import unreachable
from aura.loading.waitfile import EVENT_WAIT, WHEN, check_params, read_event_when
from aura.sandbox import near
from aura.task import Dependency, Loop, Step

#: The keys of a step.
KEYS = (
    *("action", "params", "depends_on", "when", "outputs", "retry", "timeout"),
    *("continue_on_failure", "idempotent", "loop", "resources", "preempt"),
)

_SUCCEEDED = frozenset({StepState.SUCCEEDED})
_ENDED = frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED, StepState.TIMED_OUT})
#: What ``depends_on`` may say → the states that are meant.
STATES: dict[str, frozenset[StepState]] = {
    **{state.value: frozenset({state}) for state in _ENDED},
    "failed": frozenset({StepState.FAILED, StepState.TIMED_OUT}),
    "ended": _ENDED,
}


class Surroundings(msgspec.Struct, frozen=True):
    """What a plan says for all its steps: ``qualify`` gives the full name of an action."""

    qualify: Callable[[str], str]
    defaults: StepDefaults


class ActionUse(msgspec.Struct, frozen=True):
    """A step and where it stands, for the check of its action and parameters, which may come after an import."""

    step: Step
    reader: Reader
    path: Path


class Block(msgspec.Struct, frozen=True):
    """The steps of a task or of one handler, not yet checked against each other's names.

    ``paths`` has the path of each step in its document.
    """

    what: str
    steps: Mapping[str, Step]
    paths: Mapping[str, Path]


def read_block(reader: Reader, path: Path, value: Any, what: str, around: Surroundings) -> Block:
    """Read steps: a mapping is a graph, a list a sequence in which each waits for the one before."""
    if isinstance(value, list):
        entries = _sequence(reader, path, value)
    else:
        mapping = reader.mapping(path, value, what)
        entries = [(at, name, step) for at, name, step in reader.identifiers(path, mapping, "a step")]
    steps: dict[str, Step] = {}
    paths: dict[str, Path] = {}
    for index, (at, name, step) in enumerate(entries):
        if name in steps:
            reader.problem((*at, "name"), f"the step {name!r} is here a second time")
            continue
        before = entries[index - 1][1] if isinstance(value, list) and index else None
        steps[name] = _read_step(reader, at, name, step, before, around)
        paths[name] = at
    return Block(what, _in_order(reader, steps, paths, what), paths)


def _sequence(reader: Reader, path: Path, value: list[Any]) -> list[tuple[Path, str, Any]]:
    entries = []
    for index, step in enumerate(value):
        at = (*path, index)
        name = step.get("name") if isinstance(step, dict) else None
        if not isinstance(name, str):
            reader.problem(at, "an element of a list of steps is a mapping that begins with `name: …`")
            continue
        for _ in reader.identifiers((*at, "name"), {name: step}, "a step"):
            entries.append((at, name, {key: part for key, part in step.items() if key != "name"}))
    return entries


def _read_step(reader: Reader, path: Path, name: str, value: Any, before: str | None, around: Surroundings) -> Step:
    fields = Fields(reader, path, value, f"step {name}", KEYS)
    if name == "any":
        reader.key_problem(path, "a step cannot be called any: depends_on uses that word")
    if "action" not in fields and isinstance(value, dict):
        reader.key_problem(path, f"step {name} says no action")
    depends_on, any_of = _read_dependencies(fields, before)
    action = around.qualify(fields.text("action"))
    params, event_when = _read_params(fields, action)
    return Step(
        name=name,
        action=action,
        source=reader.source(path),
        params=params,
        depends_on=depends_on,
        any_of=any_of,
        when=fields.condition("when"),
        outputs=_read_templates(fields, "outputs"),
        loop=read_loop(fields),
        event_when=event_when,
        **msgspec.structs.asdict(read_for_step(fields, around.defaults)),
    )


def _read_params(fields: Fields, action: str) -> tuple[dict[str, Template], Condition | None]:
    """Read the parameters of an action; of ``event.wait`` what is asked of events stands apart."""
    reader, path = fields.reader, fields.at("params")
    if action != EVENT_WAIT:
        params, event_when = _read_templates(fields, "params"), None
    else:
        event_when = read_event_when(reader, path, fields.get("params"))
        params = _read_templates(fields, "params", without=WHEN)
    check_params(reader, path, action, params)
    return params, event_when


def _read_templates(fields: Fields, key: str, without: str | None = None) -> dict[str, Template]:
    if key not in fields:
        return {}
    reader, path = fields.reader, fields.at(key)
    mapping = reader.mapping(path, fields.get(key), key)
    if key == "outputs":
        list(reader.identifiers(path, mapping, "an output"))
    return {name: reader.template((*path, name), value) for name, value in mapping.items() if name != without}


# -- what comes before what -------------------------------------------------------------------------------------------


def _read_dependencies(fields: Fields, before: str | None) -> tuple[tuple[Dependency, ...], bool]:
    """Read ``depends_on``; without it a step of a sequence depends on the one before."""
    if "depends_on" not in fields:
        return ((Dependency(before, _SUCCEEDED),) if before else ()), False
    path, value = fields.at("depends_on"), fields.get("depends_on")
    match value:
        case str():
            return (Dependency(value, _SUCCEEDED),), False
        case list():
            return _read_names(fields.reader, path, value), False
        case {"any": list(names), **others}:
            if others:
                fields.wrong("depends_on", "beside `any` nothing else can stand")
            if not names:
                fields.wrong("depends_on", "`any` of no steps can never be; leave depends_on out to wait for none")
            return _read_names(fields.reader, (*path, "any"), names), True
        case dict() if "any" not in value:
            return tuple(_read_states(fields.reader, (*path, key), key, item) for key, item in value.items()), False
    fields.wrong("depends_on", "a step's name, a list of names, {any: [names]} or {name: states} is needed")
    return (), False


def _read_names(reader: Reader, path: Path, names: list[Any]) -> tuple[Dependency, ...]:
    found = []
    for index, name in enumerate(names):
        if not isinstance(name, str):
            reader.problem((*path, index), f"the name of a step is needed, not {kind_of(name)}")
        elif name in names[:index]:
            reader.problem((*path, index), f"{name} is named twice")
        else:
            found.append(Dependency(name, _SUCCEEDED))
    return tuple(found)


def _read_states(reader: Reader, path: Path, step: str, value: Any) -> Dependency:
    states: frozenset[StepState] = frozenset()
    for word in value if isinstance(value, list) and value else [value]:
        if isinstance(word, str) and word in STATES:
            states |= STATES[word]
        else:
            hint = near(word, STATES) if isinstance(word, str) else ""
            reader.problem(path, f"{', '.join(sorted(STATES))} are the states to wait for, not {word!r}{hint}")
    return Dependency(step, states or _ENDED)


def _in_order(reader: Reader, steps: dict[str, Step], paths: Mapping[str, Path], what: str) -> dict[str, Step]:
    """Give the steps so that each stands behind those that it depends on; among equals, in the file's order."""
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for name, step in steps.items():
        sorter.add(name, *_known_needs(reader, step, steps, paths[name], what))
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        circle: list[str] = error.args[1]
        first = min(circle, key=list(steps).index)
        start = circle.index(first)
        around = [*circle[start:-1], *circle[:start], first]
        reader.problem((*paths[first], "depends_on"), f"the steps wait for each other: {' → '.join(around[::-1])}")
        return steps
    rank = {name: number for number, name in enumerate(steps)}
    ordered: dict[str, Step] = {}
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=rank.__getitem__)
        ordered.update((name, steps[name]) for name in ready)
        sorter.done(*ready)
    return ordered


def _known_needs(reader: Reader, step: Step, steps: Collection[str], path: Path, what: str) -> list[str]:
    needs = []
    for dependency in step.depends_on:
        if dependency.step in steps:
            needs.append(dependency.step)
        else:
            hint = near(dependency.step, steps)
            reader.problem((*path, "depends_on"), f"{what} has no step {dependency.step!r}{hint}")
    return needs


def check_reach(block: Block, reader: Reader) -> None:
    """Note each step that can never start."""
    known = all(wish.step in block.steps for step in block.steps.values() for wish in step.depends_on)
    if known and _is_ordered(_needs_of(block)):
        for step, reason in unreachable(block.steps):
            reader.problem((*block.paths[step.name], *reason.at), f"step {step.name} can only be skipped: {reason}")


def _needs_of(block: Block) -> dict[str, list[str]]:
    """The steps that each step depends on, without those that are not there."""
    return {name: [d.step for d in step.depends_on if d.step in block.steps] for name, step in block.steps.items()}


# -- names in expressions ---------------------------------------------------------------------------------------------


def check_names(block: Block, names: Names, *, all_steps: bool = False, extra: Collection[str] = ()) -> None:
    """Check the names that the expressions of a block use.

    ``all_steps`` says that every step of the task may be named (in handlers); else only those that a step comes after.
    ``extra`` are further root names, such as ``error``.
    """
    needs = _needs_of(block)
    after = {} if all_steps or not _is_ordered(needs) else after_each(needs)
    for name, step in block.steps.items():
        before = after.get(name)
        own = None if before is None else before | {name}
        for path, used, further in _expressions(step):
            names.check((*block.paths[name], *path), used, (*extra, *further), own if path[0] == "outputs" else before)


def _expressions(step: Step) -> Iterator[tuple[Path, Template | Condition, tuple[str, ...]]]:
    """The expressions of a step with their paths in it, and the names that are there for each."""
    looping = () if step.loop is None else ("loop",)
    for key, value in step.params.items():
        yield ("params", key), value, looping
    if step.event_when is not None:
        yield ("params", WHEN), step.event_when, looping
    for key, value in step.outputs.items():
        yield ("outputs", key), value, (*looping, "result")
    if step.when is not None:
        yield ("when",), step.when, ()
    if step.retry.when is not None:
        yield ("retry", "when"), step.retry.when, (*looping, "result", "error")
    loop = step.loop or Loop()
    for key, over in (("for_each", loop.for_each), ("times", loop.times)):
        if over is not None:
            yield ("loop", key), over, ()
    for key, asked in (("while", loop.while_), ("until", loop.until)):
        if asked is not None:
            yield ("loop", key), asked, looping


def _is_ordered(needs: Mapping[str, Collection[str]]) -> bool:
    """Say whether each step stands behind those that it needs; after a circle, which was reported, it does not."""
    seen: set[str] = set()
    for name, before in needs.items():
        if not seen.issuperset(before):
            return False
        seen.add(name)
    return True
