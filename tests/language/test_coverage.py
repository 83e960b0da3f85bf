"""The cases against the grammar: each key, word, name, filter and function of the language is in one that runs.

Cases of what is refused do not count: they show that something is checked, not that it works.
"""

from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

import pytest
from jinja2 import nodes
from tests.language.cases import Case, read_cases

from aura.expressions import split
from aura.filters import FILTERS, GLOBALS, TESTS
from aura.loading import defaults, inputspec, loopfile, modefile, names, planfile, retryfile, stepfile, taskfile
from aura.loading.fields import members
from aura.loading.yamlfile import load
from aura.sandbox import Sandbox
from aura.task import ModeKind

SANDBOX = Sandbox()
#: Keys for people: nothing that a run does can show them.
FOR_PEOPLE = {"title", "description"}


def content(value: Any) -> Any:
    return load(value, "case.yaml").value if isinstance(value, str) else value


@cache
def cases() -> list[Case]:
    return [case for case in read_cases() if "check" not in case.data]


@cache
def plans() -> list[Any]:
    """Each plan.yaml of the cases."""
    found = [case.data for case in cases()] + [p for case in cases() for p in case.data.get("plans", {}).values()]
    return [content(data["plan"]) for data in found if "plan" in data]


@cache
def tasks() -> list[Any]:
    """Each task of the cases."""
    found = [task for case in cases() for _, task in case.tasks()]
    return [content(task) for task in found]


@cache
def steps() -> list[Any]:
    """Each step of them, those of handlers too."""
    blocks = [task[key] for task in tasks() for key in ("steps", *taskfile.HANDLERS) if key in task]
    return [step for block in blocks for step in (block.values() if isinstance(block, dict) else block)]


def keys_of(found: Collection[Any]) -> set[str]:
    return {key for one in found if isinstance(one, dict) for key in one}


def parts(key: str, found: Collection[Any]) -> list[Any]:
    """What stands under a key of some mappings, and below ``defaults`` too."""
    said = [plan.get("defaults", {}) for plan in plans()]
    everywhere = [*found, *(one for default in said for one in default.values())]
    return [one[key] for one in everywhere if key in one]


def inputs() -> Iterator[Any]:
    """Each specification of an input, the inner ones too."""
    waiting = [spec for task in tasks() for spec in task.get("inputs", {}).values()]
    while waiting:
        spec = waiting.pop()
        yield spec
        if isinstance(spec, dict):
            waiting += [*spec.get("properties", {}).values(), *([spec["items"]] if "items" in spec else [])]


TABLES: dict[str, tuple[Collection[str], Any]] = {
    "task": (taskfile.KEYS, lambda: keys_of(tasks())),
    "plan": (planfile.KEYS, lambda: keys_of(plans())),
    "rate": (planfile.RATE_KEYS, lambda: keys_of([r for p in parts("resources", plans()) for r in p.values()])),
    "defaults of tasks": (defaults.TASK_KEYS, lambda: keys_of(parts("task", parts("defaults", plans())))),
    "defaults of steps": (defaults.STEP_KEYS, lambda: keys_of(parts("step", parts("defaults", plans())))),
    "step": (("name", *stepfile.KEYS), lambda: keys_of(steps())),
    "loop": (loopfile.KEYS, lambda: keys_of(parts("loop", steps()))),
    "on_item_failure": (loopfile.ON_ITEM_FAILURE, lambda: set(parts("on_item_failure", parts("loop", steps())))),
    "retry": (retryfile.KEYS, lambda: keys_of(parts("retry", steps()))),
    "mode": (modefile.KEYS, lambda: keys_of(parts("mode", tasks()))),
    "modes": ([kind.value for kind in ModeKind], lambda: set(modes())),
    "lane": (defaults.LANES, lambda: set(parts("lane", tasks()))),
    "preempt": (defaults.PREEMPTS, lambda: set(parts("preempt", [*tasks(), *steps()]))),
    "preempt of a step": (defaults.PREEMPTS, lambda: set(parts("preempt", steps()))),
    "recovery": (defaults.RECOVERIES, lambda: set(parts("recovery", tasks()))),
    "input": (inputspec.KEYS, lambda: keys_of(list(inputs()))),
    "types": (inputspec.TYPES, lambda: {spec["type"] if isinstance(spec, dict) else spec for spec in inputs()}),
    "depends_on": ({*stepfile.STATES, "any"}, lambda: set(wishes())),
}


def modes() -> Iterator[str]:
    for mode in parts("mode", tasks()):
        yield mode["kind"] if isinstance(mode, dict) else mode


def wishes() -> Iterator[str]:
    """The words that ``depends_on`` uses for states; of a step without one, and of a list, ``succeeded`` is meant."""
    for wish in parts("depends_on", steps()):
        if isinstance(wish, dict) and "any" in wish:
            yield "any"
        for states in wish.values() if isinstance(wish, dict) else ["succeeded"]:
            yield from [states] if isinstance(states, str) else states


@pytest.mark.parametrize("table", TABLES)
def test_every_key_and_word_is_in_a_case(table: str) -> None:
    known, found = TABLES[table]
    assert sorted(set(known) - FOR_PEOPLE - found()) == []


# -- expressions


@cache
def trees() -> list[nodes.Template]:
    """Each expression of the cases, parsed."""
    texts = [text for one in (*tasks(), *plans()) for text in texts_in(one) if "{{" in text]
    sources = {part.source for text in texts for part in split(text) if not isinstance(part, str)}
    return [SANDBOX.parse("{{" + source + "}}") for source in sorted(sources)]


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for _, part in members(value):
            yield from texts_in(part)


def used(kind: type[nodes.Node]) -> set[str]:
    return {node.name for tree in trees() for node in tree.find_all(kind)}  # type: ignore[attr-defined]


def paths() -> set[tuple[str | int, ...]]:
    texts = [text for one in (*tasks(), *plans()) for text in texts_in(one) if "{{" in text]
    found = [part for text in texts for part in split(text) if not isinstance(part, str)]
    return {path for part in found for path in part.paths} | {(name,) for part in found for name in part.names}


def test_every_filter_is_in_a_case() -> None:
    assert sorted(FILTERS.keys() - used(nodes.Filter)) == []


def test_every_test_is_in_a_case() -> None:
    operators = {name for name in TESTS if not name.isidentifier()}
    assert sorted(TESTS.keys() - operators - used(nodes.Test)) == []


def test_every_function_is_in_a_case() -> None:
    called = {node.node.name for tree in trees() for node in tree.find_all(nodes.Call) if hasattr(node.node, "name")}
    assert sorted({*GLOBALS, "now"} - called - used(nodes.Name)) == []


SCOPE = {
    **{f"run.{key}": ("run", key) for key in names._KEYS_OF_RUN},
    **{f"plan.{key}": ("plan", key) for key in names._KEYS_OF_PLAN},
    **{f"loop.{key}": ("loop", key) for key in names._KEYS_OF_LOOP},
    **{f"error.{key}": ("error", key) for key in names._KEYS_OF_ERROR},
    **{name: (name,) for name in ("inputs", "vars", "state", "event", "result", "error", "now")},
}


@pytest.mark.parametrize("name", SCOPE)
def test_every_name_is_in_a_case(name: str) -> None:
    assert SCOPE[name] in paths()


@pytest.mark.parametrize("key", [*names._KEYS_OF_STEP, *names._KEYS_OF_LOOPING])
def test_every_key_of_a_step_is_in_a_case(key: str) -> None:
    assert any(path[0] == "steps" and path[2:3] == (key,) for path in paths())


@pytest.mark.parametrize("key", names._KEYS_OF_ITEM)
def test_every_key_of_an_item_is_in_a_case(key: str) -> None:
    attributes = {
        node.value
        for tree in trees()
        for call in tree.find_all(nodes.Filter)
        for keyword in call.kwargs
        for node in [keyword.value]
        if keyword.key == "attribute" and isinstance(node, nodes.Const)
    }
    indexed = {
        node.attr for tree in trees() for node in tree.find_all(nodes.Getattr) if isinstance(node.node, nodes.Getitem)
    }
    assert key in attributes | indexed
