"""Where the boxes of a graph stand and where its lines run: a layered drawing, from top to bottom.

Theory of operation. Each box stands in the layer below the lowest of those that it waits for. A line over several
layers gets a narrow place in each of those between, so that it never runs through a box. The order within the layers
is sought by barycentres, back and forth, and the one with the fewest crossings is kept. Then each layer is moved as
near as possible, in least squares, to what it is connected with, without changing the order or overlapping. Nothing is
left to chance: the same graph always gives the same drawing. ``svg`` draws it.
"""

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec

#: Between boxes of a layer, between layers, and the width of the place of a line, in pixels.
GAP_X = 26.0
GAP_Y = 52.0
#: How far a line goes straight before it reaches a box: the room of its head.
STRAIGHT = 10.0
LANE = 10.0
#: Between two lines at the same side of a box, at the most.
PORT = 22.0
SWEEPS = 8
#: How much more a line's place pulls than a box: long lines become straight.
PULL = 4.0


class Box(msgspec.Struct, frozen=True):
    """A box by its upper left corner."""

    x: float
    y: float
    width: float
    height: float


class Line(msgspec.Struct, frozen=True):
    """A line: it goes straight down from ``points[0]`` to ``points[1]``, swings to the next, goes down again, ..."""

    source: str
    target: str
    points: list[tuple[float, float]]


class Drawing(msgspec.Struct, frozen=True):
    """Boxes and lines, and how much room they take."""

    boxes: dict[str, Box]
    lines: list[Line]
    width: float
    height: float


class _Vertex:
    """A box, or the place of a line in a layer that it passes. ``x`` is its middle, ``place`` its rank in the layer."""

    __slots__ = ("above", "below", "height", "layer", "name", "place", "width", "x")

    def __init__(self, name: str | None, layer: int, width: float, height: float) -> None:
        self.name = name
        self.layer = layer
        self.width = width
        self.height = height
        self.above: list[_Vertex] = []
        self.below: list[_Vertex] = []
        self.x = 0.0
        self.place = 0

    @property
    def pull(self) -> float:
        return 1.0 if self.name else PULL


_Layers = list[list[_Vertex]]


def lay_out(sizes: Mapping[str, tuple[float, float]], needs: Mapping[str, Sequence[str]]) -> Drawing:
    """Lay out boxes of these sizes, each behind those that it ``needs``."""
    layers, chains = _build(sizes, needs)
    _order(layers)
    _place(layers)
    tops, height = _heights(layers)
    boxes = {v.name: _box(v, tops) for layer in layers for v in layer if v.name}
    width = max((box.x + box.width for box in boxes.values()), default=0.0)
    lines = [_line(chain, tops) for chain in chains]
    widest = max([width, *(x + LANE / 2 for line in lines for x, _ in line.points)])
    return Drawing({name: boxes[name] for name in sizes}, lines, widest, height)


def _build(
    sizes: Mapping[str, tuple[float, float]], needs: Mapping[str, Sequence[str]]
) -> tuple[_Layers, list[list[_Vertex]]]:
    """The layers, and the vertices of each line from its source to its target."""
    vertices: dict[str, _Vertex] = {}
    for name, (width, height) in sizes.items():
        layer = max((vertices[need].layer + 1 for need in needs[name]), default=0)
        vertices[name] = _Vertex(name, layer, width, height)
    layers: _Layers = [[] for _ in range(max((v.layer + 1 for v in vertices.values()), default=0))]
    for vertex in vertices.values():
        layers[vertex.layer].append(vertex)
    chains = [_chain(vertices[need], vertices[name], layers) for name in sizes for need in needs[name]]
    return layers, chains


def _chain(source: _Vertex, target: _Vertex, layers: _Layers) -> list[_Vertex]:
    chain = [source]
    for layer in range(source.layer + 1, target.layer):
        chain.append(_Vertex(None, layer, LANE, 0.0))
        layers[layer].append(chain[-1])
    chain.append(target)
    for upper, lower in pairwise(chain):
        upper.below.append(lower)
        lower.above.append(upper)
    return chain


# -- the order in the layers ------------------------------------------------------------------------------------------


def _order(layers: _Layers) -> None:
    best = [list(layer) for layer in layers]
    _number(layers)
    fewest = _crossings(layers)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for layer in layers[1:] if downwards else layers[-2::-1]:
            layer.sort(key=lambda v: _barycentre(v, v.above if downwards else v.below))
            _number([layer])
        crossings = _crossings(layers)
        if crossings < fewest:
            fewest, best = crossings, [list(layer) for layer in layers]
    layers[:] = best
    _number(layers)


def _number(layers: _Layers) -> None:
    for layer in layers:
        for place, vertex in enumerate(layer):
            vertex.place = place


def _barycentre(vertex: _Vertex, neighbours: Sequence[_Vertex]) -> float:
    return sum(v.place for v in neighbours) / len(neighbours) if neighbours else float(vertex.place)


def _crossings(layers: _Layers) -> int:
    found = 0
    for layer in layers:
        ends: list[int] = []
        for place in (v.place for upper in layer for v in sorted(upper.below, key=lambda v: v.place)):
            found += len(ends) - bisect_right(ends, place)
            insort(ends, place)
    return found


# -- places -----------------------------------------------------------------------------------------------------------


def _place(layers: _Layers) -> None:
    for layer in layers:
        _spread(layer, [0.0] * len(layer))
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for layer in layers if downwards else reversed(layers):
            _spread(layer, [_wish(v, v.above if downwards else v.below) for v in layer])
    for layer in layers:
        _spread(layer, [_wish(v, [*v.above, *v.below]) for v in layer])
    left = min((v.x - v.width / 2 for layer in layers for v in layer), default=0.0)
    _close_up(layers, left)
    for layer in layers:
        for vertex in layer:
            vertex.x = round(vertex.x - left, 1)


def _close_up(layers: _Layers, left: float) -> None:
    """Move what is connected with nothing to its left as far to the left as there is room: no wish has held it."""
    for part in sorted(_parts(layers), key=lambda part: min(v.x - v.width / 2 for v in part)):
        rooms = []
        for vertex in part:
            before = layers[vertex.layer][vertex.place - 1] if vertex.place else None
            if before not in part:
                limit = left if before is None else before.x + before.width / 2 + GAP_X
                rooms.append(vertex.x - vertex.width / 2 - limit)
        shift = max(min(rooms), 0.0)  # the first of a layer in the part has none of it before
        for vertex in part:
            vertex.x -= shift


def _parts(layers: _Layers) -> list[set[_Vertex]]:
    """The vertices in groups that are connected."""
    parts: list[set[_Vertex]] = []
    for start in (vertex for layer in layers for vertex in layer):
        if not any(start in part for part in parts):
            part, waiting = {start}, [start]
            while waiting:
                vertex = waiting.pop()
                new = [v for v in (*vertex.above, *vertex.below) if v not in part]
                part.update(new)
                waiting += new
            parts.append(part)
    return parts


def _wish(vertex: _Vertex, neighbours: Sequence[_Vertex]) -> float:
    return sum(v.x for v in neighbours) / len(neighbours) if neighbours else vertex.x


def _spread(layer: Sequence[_Vertex], wishes: Sequence[float]) -> None:
    """Put a layer as near to its wishes as order and gaps allow: isotonic regression of wishes less gaps."""
    offsets = [0.0]
    for left, right in pairwise(layer):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + GAP_X)
    blocks: list[tuple[float, float, int]] = []  # (mean, weight, count), means rising
    for vertex, wish, offset in zip(layer, wishes, offsets, strict=False):
        mean, weight, count = wish - offset, vertex.pull, 1
        while blocks and blocks[-1][0] >= mean:
            before, its_weight, its_count = blocks.pop()
            mean = (before * its_weight + mean * weight) / (its_weight + weight)
            weight, count = its_weight + weight, its_count + count
        blocks.append((mean, weight, count))
    means = [mean for mean, _, count in blocks for _ in range(count)]
    for vertex, mean, offset in zip(layer, means, offsets, strict=False):
        vertex.x = mean + offset


# -- boxes and lines --------------------------------------------------------------------------------------------------

#: Of each layer its top and its bottom.
_Tops = list[tuple[float, float]]


def _heights(layers: _Layers) -> tuple[_Tops, float]:
    tops: _Tops = []
    y = 0.0
    for layer in layers:
        tops.append((y, y + max(v.height for v in layer)))
        y = tops[-1][1] + GAP_Y
    return tops, tops[-1][1] if tops else 0.0


def _box(vertex: _Vertex, tops: _Tops) -> Box:
    top, bottom = tops[vertex.layer]
    y = round((top + bottom - vertex.height) / 2, 1)
    return Box(round(vertex.x - vertex.width / 2, 1), y, vertex.width, vertex.height)


def _line(chain: Sequence[_Vertex], tops: _Tops) -> Line:
    source, target = chain[0], chain[-1]
    start, end = _box(source, tops), _box(target, tops)
    x = _port(source, source.below, chain[1])
    points = [(x, start.y + start.height), (x, tops[source.layer][1])]
    for vertex in chain[1:-1]:
        top, bottom = tops[vertex.layer]
        points += [(vertex.x, top - STRAIGHT), (vertex.x, bottom)]
    x = _port(target, target.above, chain[-2])
    points += [(x, tops[target.layer][0] - STRAIGHT), (x, end.y)]
    return Line(source.name or "", target.name or "", points)


def _port(vertex: _Vertex, neighbours: Sequence[_Vertex], other: _Vertex) -> float:
    """Where at a box the line to ``other`` begins: lines stand side by side, in the order of where they come from."""
    listed = sorted(neighbours, key=lambda v: v.place)
    apart = min(PORT, (vertex.width - 20) / len(listed))
    return round(vertex.x + (listed.index(other) - (len(listed) - 1) / 2) * apart, 1)
