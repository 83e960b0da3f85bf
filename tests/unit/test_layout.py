"""Where boxes and lines stand: layers, no overlaps, no line through a box, the same each time."""

from collections.abc import Iterator
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura.cli.layout import GAP_X, Box, Drawing, Line, lay_out

Needs = dict[str, list[str]]


def boxes_of(needs: Needs) -> dict[str, tuple[float, float]]:
    """Boxes of several sizes."""
    return {name: (60.0 + 37 * (number % 5), 40.0 + 16 * (number % 3)) for number, name in enumerate(needs)}


@st.composite
def graphs(draw: st.DrawFn) -> Needs:
    needs: Needs = {}
    for number in range(draw(st.integers(0, 24))):
        needs[f"s{number}"] = draw(st.lists(st.sampled_from(list(needs)), unique=True, max_size=4)) if needs else []
    return needs


def overlap(one: Box, other: Box) -> bool:
    beside = one.x + one.width <= other.x or other.x + other.width <= one.x
    return not (beside or one.y + one.height <= other.y or other.y + other.height <= one.y)


def at(line: Line) -> Iterator[tuple[float, float]]:
    """Points all along a line: straight down, then a swing, and so on."""
    for number, ((x, y), (next_x, next_y)) in enumerate(pairwise(line.points)):
        for part in range(11):
            t = part / 10
            swung = x + (next_x - x) * (3 * t**2 - 2 * t**3) if number % 2 else x
            yield swung, y + (next_y - y) * t


def inside(box: Box, x: float, y: float) -> bool:
    return box.x < x < box.x + box.width and box.y < y < box.y + box.height


def drawing_of(needs: Needs) -> Drawing:
    return lay_out(boxes_of(needs), needs)


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_boxes_do_not_overlap_and_stand_in_the_picture(needs: Needs) -> None:
    drawing = drawing_of(needs)
    assert list(drawing.boxes) == list(needs)
    assert not [pair for pair in combinations(drawing.boxes.values(), 2) if overlap(*pair)]
    for box in drawing.boxes.values():
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= drawing.width
        assert box.y + box.height <= drawing.height


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_every_edge_is_one_line_from_box_to_box_through_no_other(needs: Needs) -> None:
    drawing = drawing_of(needs)
    assert [(line.source, line.target) for line in drawing.lines] == [(n, name) for name in needs for n in needs[name]]
    for line in drawing.lines:
        source, target = drawing.boxes[line.source], drawing.boxes[line.target]
        (x, y), (end_x, end_y) = line.points[0], line.points[-1]
        assert (source.x < x < source.x + source.width, y) == (True, source.y + source.height)
        assert (target.x < end_x < target.x + target.width, end_y) == (True, target.y)
        assert not [name for name, box in drawing.boxes.items() for point in at(line) if inside(box, *point)]


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_same_graph_gives_the_same_drawing(needs: Needs) -> None:
    assert drawing_of(needs) == drawing_of(needs)


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_step_stands_below_all_that_it_needs(needs: Needs) -> None:
    boxes = drawing_of(needs).boxes
    for name in needs:
        assert all(boxes[need].y + boxes[need].height < boxes[name].y for need in needs[name])


def test_chain_is_straight() -> None:
    drawing = lay_out(dict.fromkeys("abc", (80.0, 40.0)), {"a": [], "b": ["a"], "c": ["b"]})
    assert {box.x for box in drawing.boxes.values()} == {0.0}
    assert {x for line in drawing.lines for x, _ in line.points} == {40.0}


def test_order_avoids_a_crossing() -> None:
    needs: Needs = {"a": [], "b": [], "c": ["b"], "d": ["a"]}
    boxes = lay_out(dict.fromkeys(needs, (80.0, 40.0)), needs).boxes
    assert (boxes["a"].x < boxes["b"].x) == (boxes["d"].x < boxes["c"].x)


@pytest.mark.parametrize("count", [2, 7])
def test_strangers_stand_side_by_side(count: int) -> None:
    needs: Needs = {f"s{number}": [] for number in range(count)}
    boxes = list(lay_out(dict.fromkeys(needs, (80.0, 40.0)), needs).boxes.values())
    assert [right.x - left.x for left, right in pairwise(boxes)] == pytest.approx([80 + GAP_X] * (count - 1))


def test_what_is_connected_with_nothing_else_stands_near() -> None:
    needs: Needs = {"a": [], "b": ["a"], "c": ["b", "a"], "alone": []}
    boxes = lay_out(dict.fromkeys(needs, (80.0, 40.0)), needs).boxes
    assert boxes["alone"].x == pytest.approx(boxes["a"].x + 80 + GAP_X)
