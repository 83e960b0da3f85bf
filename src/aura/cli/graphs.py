"""A task's steps as a picture of rails in a terminal. ``graph`` is the command.

A step stands on a line of its own below all that it waits for. A rail leads down from a step for as long as a step
below waits for it; where a rail crosses a line that is not its own, the line is broken. The same task always gives the
same picture.
"""

from collections.abc import Iterator, Mapping, Sequence

from aura.cli.notes import Step, action_of, needs_of, notes_of, wish_of

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
_ASCII = str.maketrans(NODE + "│├┤┼╯╰┴╮╭┬─", "o|++++++++" + "+-") | {ord("…"): "..."}


def draw(steps: Sequence[Step], plain: bool = False, states: Mapping[str, str] | None = None) -> list[str]:
    """Draw steps, each of which stands behind those that it waits for.

    ``plain`` uses ASCII alone; ``states`` of a run's steps stand in a column of their own.
    """
    lines = [line for step in _rows(steps, states or {}) for line in step]
    return [_in_ascii(line) for line in lines] if plain else lines


def _in_ascii(line: str) -> str:
    return line.translate(_ASCII).encode("ascii", "backslashreplace").decode()


def _rows(steps: Sequence[Step], states: Mapping[str, str]) -> Iterator[list[str]]:
    rails = _Rails(steps)
    drawn = [rails.add(step) for step in steps]
    width = max((len(row.rstrip()) for rows in drawn for row in rows), default=0)
    names = max((len(step["name"]) for step in steps), default=0)
    actions = max((len(action_of(step)) for step in steps), default=0)
    longest = max(map(len, states.values()), default=0)
    for step, (*joints, node) in zip(steps, drawn, strict=True):
        state = f"{states.get(step['name'], ''):<{longest}}  " if states else ""
        said = f"{step['name']:<{names}}  {state}{action_of(step):<{actions}}  {note_of(step)}"
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
    """All that the picture says of a step behind its action."""
    return "; ".join(filter(None, [wish_of(step), *notes_of(step)]))
