"""A task as an SVG picture: valid, with all that is in the task, and nothing in it that could run."""

from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.unit.test_graphs import FAILED, OK, loop, step
from tests.unit.test_layout import overlap

from aura.cli.layout import Box
from aura.cli.svg import ENOUGH, frames_of, svg

NS = "{http://www.w3.org/2000/svg}"


def parsed(task: dict[str, Any], states: dict[str, str] | None = None, name: str = "lab/t") -> ElementTree.Element:
    return ElementTree.fromstring(svg(name, {"handlers": {}, **task}, states))


def groups(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The boxes by the name that stands in them."""
    found = [group for group in root.iter(f"{NS}g") if "step" in group.get("class", "").split()]
    return {group.findtext(f"{NS}text") or "": group for group in found}


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{NS}text")]


def lines(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [path for path in root.iter(f"{NS}path") if "line" in path.get("class", "").split()]


def test_picture_has_each_step_and_each_edge_once_and_words_for_wishes() -> None:
    steps = [step("a"), step("b", {"a": FAILED}), step("c", {"a": OK, "b": OK}, action="lab.do")]
    root = parsed({"steps": steps})
    assert list(groups(root)) == ["a", "b", "c"]
    assert len(lines(root)) == 3
    assert texts(root) == ["a", "log", "b", "log", "c", "lab.do", "failed"]
    assert len(list(root.iter(f"{NS}rect"))) == 5  # three steps, the ground of all, and that of the word on its line
    assert root.findtext(f"{NS}title") == "lab/t"


def test_what_is_special_of_a_step_can_be_seen() -> None:
    steps = [
        step("a", when="{{ x }}"),
        step("b", **loop("times", 3), attempts=2),
        step("c", "ab", any_of=True, action="task.run", task="lab/other"),
    ]
    root = parsed({"steps": steps})
    found = groups(root)
    assert {name: group.get("class") for name, group in found.items()} == {"a": "step when", "b": "step", "c": "step"}
    assert {name: len(group.findall(f"{NS}rect")) for name, group in found.items()} == {"a": 1, "b": 2, "c": 1}
    assert [line.get("class") for line in lines(root)] == ["line any", "line any"]
    assert texts(found["b"]) == ["b", "log", "3 times", "up to 2 tries"]
    assert texts(found["c"]) == ["c", "task.run lab/other"]
    assert texts(root)[-2:] == ["any", "any"]


def test_states_of_a_run_are_classes_and_words() -> None:
    found = groups(parsed({"steps": [step("a"), step("b", "a"), step("c", "b")]}, {"a": "timed_out", "b": "skipped"}))
    assert [group.get("class") for group in found.values()] == ["step stated timed_out", "step stated skipped", "step"]
    assert texts(found["a"]) == ["a", "timed out", "log"]


@pytest.mark.parametrize(
    "text",
    ["</text><script>alert(1)</script>", "a & b < c > d \" ' ]]>", "\x1b[31m\x00\x08", "\ud800 \uffff", "漢字 ü 😀"],
)
def test_texts_are_escaped(text: str) -> None:
    root = parsed({"steps": [step("a", action=text, when=text)]}, {"a": text}, name=text)
    assert {element.tag.removeprefix(NS) for element in root.iter()} == {
        *("svg", "title", "style", "defs", "marker", "path", "rect", "g", "text"),
    }
    assert len(texts(root)) == 4
    svg(text, {"steps": [step("a", action=text)], "handlers": {}}).encode()


def test_handlers_stand_in_frames_that_do_not_overlap() -> None:
    handlers = {name: [step(f"{name}_step", action="x" * 40)] for name in ("on_failure", "on_cancel", "finally")}
    task = {"steps": [step("a"), step("b", "a")], "handlers": handlers}
    frames = frames_of(task, {})
    assert [frame.title for frame in frames] == ["", *handlers]
    boxes = [Box(frame.x, frame.y, frame.width, frame.height) for frame in frames]
    assert not [pair for pair in combinations(boxes, 2) if overlap(*pair)]
    assert max(box.x + box.width for box in boxes) <= ENOUGH + boxes[0].x
    assert [text for text in texts(parsed(task)) if text in handlers] == list(handlers)


def test_words_of_lines_do_not_stand_on_each_other() -> None:
    needs = {name: ["failed", "skipped", "timed_out"] for name in "abcdef"}
    root = parsed({"steps": [*(step(name) for name in "abcdef"), step("z", needs)]})
    wishes = [text for text in root.iter(f"{NS}text") if text.get("class") == "wish"]
    assert len(wishes) == 6
    for one, other in combinations([(float(text.get("x", 0)), float(text.get("y", 0))) for text in wishes], 2):
        assert abs(one[0] - other[0]) > 100 or abs(one[1] - other[1]) >= 12


def test_task_without_steps_in_its_handlers_is_as_small_as_its_steps() -> None:
    root = parsed({"steps": [step("a")]})
    assert float(root.get("width", 0)) < 120
    assert float(root.get("height", 0)) < 90


def test_same_task_gives_the_same_text() -> None:
    task = {"steps": [step("a"), step("b", "a"), step("c", "a"), step("d", "bc")], "handlers": {"finally": [step("e")]}}
    assert svg("x", task) == svg("x", task)
