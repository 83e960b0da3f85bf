"""A task as an SVG picture: boxes and lines where ``layout`` puts them, in colours for light and dark pages.

A box with a broken border has a condition, one with a shadow is done more than once; a broken line means that one of
several is enough. Handlers stand below, each in a frame of its own. Nothing in the file is loaded from elsewhere, and
nothing in it can run: texts are escaped.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any
from unicodedata import east_asian_width

import msgspec

from aura.cli.layout import Box, Drawing, Line, lay_out
from aura.cli.notes import Step, action_of, is_any, needs_of, notes_of, wish_words
from aura.events import printable

#: Size of a font and of the line that it stands in, in pixels; letters of these fonts are all as wide.
NAME, SMALL = 13, 11
ROW = 16
LETTER = 0.61
PAD = 12
#: Around the picture, around a frame's steps, and between two frames.
MARGIN = 16
FRAME = 14
TITLE = 22
BETWEEN = 28
#: Frames stand beside each other up to so much.
ENOUGH = 900
#: How far the shadow of a loop stands out.
SHADOW = 4

_STYLE = """
svg{--bg:#fff;--card:#f8fafc;--edge:#64748b;--text:#0f172a;--soft:#52627a;--good:#15803d;--bad:#dc2626;--warn:#b45309;\
--busy:#2563eb;--off:#94a3b8;font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}
@media(prefers-color-scheme:dark){svg{--bg:#0f172a;--card:#1e293b;--edge:#8c9db5;--text:#f1f5f9;--soft:#a9b6c8;\
--good:#4ade80;--bad:#f87171;--warn:#fbbf24;--busy:#60a5fa;--off:#64748b}}
.bg{fill:var(--bg)}.box{fill:var(--card);stroke:var(--tone,var(--edge));stroke-width:1.3}
.frame{fill:none;stroke:var(--edge);stroke-width:1;stroke-dasharray:2 4}.when .box{stroke-dasharray:6 4}
.line{fill:none;stroke:var(--edge);stroke-width:1.3}.any{stroke-dasharray:5 4}.head{fill:var(--edge)}
text{fill:var(--text);font-size:13px}.name{font-weight:600}.soft{fill:var(--soft);font-size:11px}
.state{fill:var(--tone,var(--soft));font-size:11px}
.wish{font-size:11px;fill:var(--soft);text-anchor:middle}
.stated .box{stroke-width:2.2}.succeeded{--tone:var(--good)}.failed,.timed_out{--tone:var(--bad)}
.cancelled,.stopping{--tone:var(--warn)}.running,.retrying{--tone:var(--busy)}
.skipped{--tone:var(--off);opacity:.85}.skipped .state{fill:var(--soft)}
"""
#: Where a line's words go, in pixels from their place, if other words are there.
_SHIFTS = (0, 12, -12, 24, -24)
#: What is no character of XML (1.0, 2.2), beyond what ``printable`` makes visible.
_NO_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")
_ARROW = (
    '<defs><marker id="aura-head" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8" '
    'markerUnits="userSpaceOnUse" orient="auto"><path class="head" d="M0 0.5L8 4L0 7.5z"/></marker></defs>'
)


class Frame(msgspec.Struct, frozen=True):
    """The steps of a task, or of one of its handlers: their drawing, where it stands, and the room that they take."""

    title: str
    steps: Sequence[Step]
    drawing: Drawing
    x: float
    y: float
    width: float
    height: float


def svg(name: str, task: Mapping[str, Any], states: Mapping[str, str] | None = None) -> str:
    """The task as an SVG document; ``states`` of a run's steps are shown in colours."""
    states = states or {}
    frames = frames_of(task, states)
    width = max((f.x + f.width for f in frames), default=0.0) + MARGIN
    height = max((f.y + f.height for f in frames), default=0.0) + MARGIN
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{_text(name)}</title>",
        f"<style>{_STYLE}</style>",
        _ARROW,
        '<rect class="bg" width="100%" height="100%"/>',
    ]
    for frame in frames:
        parts += _frame(frame, states)
    return "\n".join([*parts, "</svg>"])


def frames_of(task: Mapping[str, Any], states: Mapping[str, str]) -> list[Frame]:
    """The steps at the top, below them the handlers, side by side while there is room."""
    drawing = _drawing(task["steps"], states)
    frames = [Frame("", task["steps"], drawing, MARGIN, MARGIN, drawing.width, drawing.height)]
    right = max(ENOUGH, drawing.width)
    x, y, bottom = float(MARGIN), MARGIN + drawing.height + BETWEEN, 0.0
    for title, steps in task["handlers"].items():
        drawing = _drawing(steps, states)
        width, height = max(drawing.width, _width(title, NAME)) + 2 * FRAME, drawing.height + TITLE + 2 * FRAME
        if x > MARGIN and x + width > right:
            x, y = float(MARGIN), bottom + BETWEEN
        frames.append(Frame(title, steps, drawing, x, y, width, height))
        x, bottom = x + width + BETWEEN, max(bottom, y + height)
    return frames


def _drawing(steps: Sequence[Step], states: Mapping[str, str]) -> Drawing:
    sizes = {step["name"]: _size(step, states.get(step["name"], "")) for step in steps}
    return lay_out(sizes, {step["name"]: list(needs_of(step)) for step in steps})


def _size(step: Step, state: str) -> tuple[float, float]:
    rows = [action_of(step), *notes_of(step)]
    state_width = _width(state, SMALL) + 14 if state else 0
    widest = max(_width(step["name"], NAME) + state_width, *(_width(row, SMALL) for row in rows))
    return round(max(widest, 56) + 2 * PAD, 1), float(ROW * (1 + len(rows)) + PAD)


def _width(text: str, size: int) -> float:
    """How wide a text is; letters of East Asia take the room of two."""
    letters = sum(2 if east_asian_width(letter) in "WF" else 1 for letter in printable(text))
    return letters * size * LETTER


# -- drawing ----------------------------------------------------------------------------------------------------------


def _frame(frame: Frame, states: Mapping[str, str]) -> Iterator[str]:
    inset_x, inset_y = (FRAME, FRAME + TITLE) if frame.title else (0, 0)
    if frame.title:
        at = f'x="{frame.x:g}" y="{frame.y:g}" width="{frame.width:g}" height="{frame.height:g}"'
        yield f'<rect class="frame" rx="10" {at}/>'
        yield f'<text class="name" x="{frame.x + FRAME:g}" y="{frame.y + FRAME + 9:g}">{_text(frame.title)}</text>'
    yield f'<g transform="translate({frame.x + inset_x:g} {frame.y + inset_y:g})">'
    by_name = {step["name"]: step for step in frame.steps}
    for step in frame.steps:
        yield from _box(step, frame.drawing.boxes[step["name"]], states.get(step["name"], ""))
    yield from (_line(line, by_name[line.target]) for line in frame.drawing.lines)
    yield from _wishes(frame.drawing.lines, by_name)
    yield "</g>"


def _line(line: Line, target: Step) -> str:
    path = "M{:g} {:g}".format(*line.points[0])
    for number, ((x, y), (next_x, next_y)) in enumerate(pairwise(line.points)):
        middle = (y + next_y) / 2
        curve = number % 2 and x != next_x
        if curve:
            path += f"C{x:g} {middle:g} {next_x:g} {middle:g} {next_x:g} {next_y:g}"
        elif y != next_y:
            path += f"V{next_y:g}"
    kind = "line any" if is_any(target) else "line"
    return f'<path class="{kind}" marker-end="url(#aura-head)" d="{path}"/>'


def _wishes(lines: Sequence[Line], steps: Mapping[str, Step]) -> Iterator[str]:
    """What lines stand for beyond success, each in the middle of its last swing, or as near to it as there is room."""
    taken: list[Box] = []
    for line in lines:
        if said := _wish(line, steps[line.target]):
            (x, y), (next_x, next_y) = line.points[-3:-1]
            width = _width(said, SMALL)
            middle = Box((x + next_x - width) / 2, (y + next_y) / 2 - ROW / 2 + 2, width, ROW - 4)
            tries = (msgspec.structs.replace(middle, y=middle.y + shift) for shift in _SHIFTS)
            taken.append(next((box for box in tries if not any(_overlap(box, other) for other in taken)), middle))
            x, y = taken[-1].x + width / 2, taken[-1].y + ROW - 6
            yield f'<rect class="bg" x="{taken[-1].x - 2:g}" y="{y - 10:g}" width="{width + 4:g}" height="13"/>'
            yield f'<text class="wish" x="{x:g}" y="{y:g}">{_text(said)}</text>'


def _overlap(one: Box, other: Box) -> bool:
    return abs(one.y - other.y) < one.height and one.x < other.x + other.width + 4 and other.x < one.x + one.width + 4


def _wish(line: Line, target: Step) -> str:
    words = [*(["any"] if is_any(target) else []), wish_words(needs_of(target)[line.source])]
    return ": ".join(filter(None, words))


def _box(step: Step, box: Box, state: str) -> Iterator[str]:
    kinds = ["step", *(["when"] if step.get("when") else []), *(["stated", state] if state else [])]
    yield f'<g class="{_text(" ".join(kinds))}">'
    if step.get("loop"):
        yield _rect(box, SHADOW)
    yield _rect(box, 0)
    x, y = box.x + PAD, box.y + ROW + 3
    yield f'<text class="name" x="{x:g}" y="{y:g}">{_text(step["name"])}</text>'
    if state:
        right = box.x + box.width - PAD
        yield f'<text class="state" text-anchor="end" x="{right:g}" y="{y:g}">{_text(state.replace("_", " "))}</text>'
    for number, note in enumerate([action_of(step), *notes_of(step)], 1):
        yield f'<text class="soft" x="{x:g}" y="{y + number * ROW:g}">{_text(note)}</text>'
    yield "</g>"


def _rect(box: Box, shift: float) -> str:
    at = f'x="{box.x + shift:g}" y="{box.y - shift:g}"'
    return f'<rect class="box" rx="7" {at} width="{box.width:g}" height="{box.height:g}"/>'


def _text(text: str) -> str:
    """A text as XML can hold it."""
    return escape(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", printable(text)))
