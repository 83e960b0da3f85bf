"""A task's steps as a picture: rails in a terminal, or Mermaid's text. ``graph`` is the command.

A step stands on a line of its own below all that it waits for. A rail leads down from a step for as long as a step
below waits for it; where a rail crosses a line that is not its own, the line is broken. The same task always gives the
same picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Step = Mapping[str, Any]

NODE = "○"
#: (up, down, left, right) → the character that connects these.
_JOINTS = {
    (True, True, False, False): "│",
    (True, True, False, True): "├",
    (True, True, True, False): "┤",
    (True, True, True, True): "┼",
    (True, False, True, False): "╯",
    (True, False, False, True): "╰",
    (True, False, True, True): "┴",
    (False, True, True, False): "╮",
    (False, True, False, True): "╭",
    (False, True, True, True): "┬",
}
_ASCII = str.maketrans(NODE + "│├┤┼╯╰┴╮╭┬─", "o|++++++++" + "+-")


def needs_of(step: Step) -> dict[str, list[str]]:
    """What a step waits for → the states that it wants."""
    depends_on = step["depends_on"]
    found: dict[str, list[str]] = depends_on.get("any") if _is_any(depends_on) else depends_on
    return found


def draw(steps: Sequence[Step], plain: bool = False) -> list[str]:
    """Draw steps, each of which stands behind those that it waits for; ``plain`` uses ASCII alone."""
    lines = [line for step in _rows(steps) for line in step]
    return [line.translate(_ASCII) for line in lines] if plain else lines


def mermaid(task: Mapping[str, Any]) -> str:
    """The task as a flowchart of Mermaid's, each handler in a box of its own."""
    lines = ["flowchart TD", *_mermaid_steps(task["steps"])]
    for handler, steps in task["handlers"].items():
        lines += [f"  subgraph {handler}", *(f"  {line}" for line in _mermaid_steps(steps)), "  end"]
    return "\n".join(lines)


def _rows(steps: Sequence[Step]) -> Iterator[list[str]]:
    rails = _Rails(steps)
    drawn = [rails.add(step) for step in steps]
    width = max((len(row.rstrip()) for rows in drawn for row in rows), default=0)
    names = max((len(step["name"]) for step in steps), default=0)
    actions = max((len(step["action"]) for step in steps), default=0)
    for step, (*joints, node) in zip(steps, drawn, strict=True):
        said = f"{step['name']:<{names}}  {step['action']:<{actions}}  {note_of(step)}"
        yield [*(joint.rstrip() for joint in joints), f"{node.rstrip():<{width}}  {said}".rstrip()]


class _Rails:
    """The columns of the picture: which step's rail is in each, None where there is none."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._columns: list[str | None] = []
        self._waiting = {step["name"]: 0 for step in steps}
        for step in steps:
            for need in needs_of(step):
                self._waiting[need] += 1

    def add(self, step: Step) -> list[str]:
        """Put a step below what it waits for → the line that leads to it, if any, and its own."""
        before = list(self._columns)
        involved = {before.index(need) for need in needs_of(step)}
        for need in needs_of(step):
            self._waiting[need] -= 1
        ending = {column for column in involved if not self._waiting[before[column] or ""]}
        for column in ending:
            self._columns[column] = None
        column = min(ending) if ending else self._free_column()
        self._columns[column] = step["name"]
        rows = [self._joint_row(before, involved | {column}, column)] if involved else []
        rows.append(" ".join(self._node(index, column) for index in range(len(self._columns))))
        if not self._waiting[step["name"]]:
            self._columns[column] = None
        while self._columns and self._columns[-1] is None:
            self._columns.pop()
        return rows

    def _free_column(self) -> int:
        if None not in self._columns:
            self._columns.append(None)
        return self._columns.index(None)

    def _node(self, index: int, column: int) -> str:
        return NODE if index == column else " " if self._columns[index] is None else "│"

    def _joint_row(self, before: Sequence[str | None], involved: set[int], column: int) -> str:
        first, last = min(involved), max(involved)
        row = ""
        for index in range(max(len(before), len(self._columns))):
            up = index < len(before) and before[index] is not None
            down = index == column or self._columns[index] is not None
            if index in involved:
                row += _JOINTS[up, down, index > first, index < last]
            else:
                row += "│" if up else "─" if first < index < last else " "
            row += "─" if first <= index < last else " "
        return row


def note_of(step: Step) -> str:
    """What a step waits for beyond the success of all: ``if ping failed``, ``if all ended``, ``if one of: a, b``."""
    needs = needs_of(step)
    if _is_any(step["depends_on"]):
        return f"if one of: {', '.join(needs)}"
    wishes = {name: " or ".join(_words(states)) for name, states in needs.items()}
    if len(wishes) > 1 and len(set(wishes.values())) == 1:
        wishes = {"all": next(iter(wishes.values()))}
    said = [f"{name} {wish}" for name, wish in wishes.items() if wish != "succeeded"]
    return f"if {', '.join(said)}" if said else ""


def _words(states: Sequence[str]) -> list[str]:
    """The states as a plan file names them."""
    if len(states) == len(_ENDED):
        return ["ended"]
    return [state for state in states if not (state == "timed_out" and "failed" in states)]


_ENDED = ("cancelled", "failed", "skipped", "succeeded", "timed_out")


def _is_any(depends_on: Mapping[str, Any]) -> bool:
    """No step is called ``any``: depends_on uses that word."""
    return isinstance(depends_on.get("any"), dict)


def _mermaid_steps(steps: Sequence[Step]) -> Iterator[str]:
    for step in steps:
        action = str(step["action"]).replace('"', "#quot;")
        yield f'  step_{step["name"]}["{step["name"]}<br/>{action}"]'
    for step in steps:
        arrow = "-.->" if _is_any(step["depends_on"]) else "-->"
        for need, states in needs_of(step).items():
            label = "" if states == ["succeeded"] else f"|{' or '.join(_words(states))}|"
            yield f"  step_{need} {arrow}{label} step_{step['name']}"
