"""A task as text for Mermaid, which pages show as a diagram. ``graph`` is the command."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aura.cli.notes import Step, action_of, is_any, needs_of, notes_of, wish_words
from aura.events import printable

#: What means something in a label, and how Mermaid writes it then.
_SPECIAL = re.compile(r'[#"<>&`\\]')
_COLOURS = {
    "succeeded": "#16a34a",
    "failed": "#dc2626",
    "timed_out": "#dc2626",
    "cancelled": "#d97706",
    "stopping": "#d97706",
    "skipped": "#94a3b8",
    "running": "#2563eb",
    "retrying": "#2563eb",
}


def mermaid(task: Mapping[str, Any], states: Mapping[str, str] | None = None) -> str:
    """The task as a flowchart, each handler in a box of its own; ``states`` of a run's steps are shown in colours."""
    blocks = {"": task["steps"], **task["handlers"]}
    lines = ["flowchart TD"]
    for title, steps in blocks.items():
        lines += _in_a_box(title, _steps(steps)) if title else _steps(steps)
    return "\n".join([*lines, *_classes([step for steps in blocks.values() for step in steps], states or {})])


def _in_a_box(title: str, lines: Iterator[str]) -> list[str]:
    return [f"  subgraph {title}", *(f"  {line}" for line in lines), "  end"]


def _steps(steps: Sequence[Step]) -> Iterator[str]:
    for step in steps:
        label = "<br/>".join(_label(text) for text in (step["name"], action_of(step), *notes_of(step)))
        opening, closing = ("[[", "]]") if step.get("task") else ("[", "]")
        yield f'  step_{step["name"]}{opening}"{label}"{closing}'
    for step in steps:
        arrow = "-.->" if is_any(step) else "-->"
        for need, states in needs_of(step).items():
            wish = wish_words(states)
            yield f"  step_{need} {arrow}{f'|{wish}|' if wish else ''} step_{step['name']}"


def _classes(steps: Sequence[Step], states: Mapping[str, str]) -> Iterator[str]:
    """Dashed boxes for what has a condition, coloured ones for what has a state."""
    yield from _class("when", "stroke-dasharray:5 3", [step["name"] for step in steps if step.get("when")])
    for state, colour in _COLOURS.items():
        names = [step["name"] for step in steps if states.get(step["name"]) == state]
        yield from _class(state, f"stroke:{colour},stroke-width:3px", names)


def _class(name: str, style: str, members: Sequence[str]) -> Iterator[str]:
    if members:
        yield f"  classDef {name} {style}"
        yield f"  class {','.join(f'step_{member}' for member in members)} {name}"


def _label(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", " ".join(printable(str(text)).split()))
