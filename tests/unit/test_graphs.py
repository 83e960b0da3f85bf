"""Pictures of graphs: which lines lead where, in a terminal and as Mermaid's text."""

from typing import Any

import pytest

from aura.cli.graphs import draw, mermaid, note_of

OK = ["succeeded"]
FAILED = ["failed", "timed_out"]
ENDED = ["cancelled", "failed", "skipped", "succeeded", "timed_out"]


def step(name: str, needs: Any = (), any_of: bool = False) -> dict[str, Any]:
    """A step; ``needs`` is a text of names, or names with the states that are wanted."""
    wanted = needs if isinstance(needs, dict) else dict.fromkeys(needs, OK)
    return {"name": name, "action": "log", "depends_on": {"any": wanted} if any_of else wanted}


PICTURES = [
    pytest.param([step("a")], ["○  a  log"], id="one"),
    pytest.param([step("a"), step("b", "a")], ["○  a  log", "│", "○  b  log"], id="chain"),
    pytest.param([step("a"), step("b")], ["○  a  log", "○  b  log"], id="strangers"),
    pytest.param(
        [step("a"), step("b", "a"), step("c", "a")],
        ["○    a  log", "├─╮", "│ ○  b  log", "│", "○    c  log"],
        id="fan-out",
    ),
    pytest.param(
        [step("a"), step("b"), step("c"), step("d", "abc")],
        ["○      a  log", "│ ○    b  log", "│ │ ○  c  log", "├─┴─╯", "○      d  log"],
        id="fan-in",
    ),
    pytest.param(
        [step("a"), step("b"), step("c"), step("d", "ac"), step("e", "b")],
        ["○      a  log", "│ ○    b  log", "│ │ ○  c  log", "├─│─╯", "○ │    d  log", "  │", "  ○    e  log"],
        id="bridge",
    ),
    pytest.param(
        [step("a"), step("b"), step("c", "ab"), step("d", "ac")],
        ["○    a  log", "│ ○  b  log", "├─┤", "│ ○  c  log", "├─╯", "○    d  log"],
        id="rail-goes-on",
    ),
    pytest.param([], [], id="nothing"),
]


@pytest.mark.parametrize(("steps", "picture"), PICTURES)
def test_picture_shows_what_waits_for_what(steps: list[dict[str, Any]], picture: list[str]) -> None:
    assert draw(steps) == picture


def test_picture_in_ascii_has_the_same_form() -> None:
    steps = [step("a"), step("b"), step("c", "ab"), step("d", "c"), step("e", "c")]
    plain = draw(steps, plain=True)
    assert all(line.isascii() for line in plain)
    assert [len(line) for line in plain] == [len(line) for line in draw(steps)]
    assert plain[:3] == ["o    a  log", "| o  b  log", "+-+"]


def test_picture_of_many_is_the_same_each_time_and_loses_no_step() -> None:
    names = [f"s{number}" for number in range(60)]
    steps = [step(name, {names[n // 2]: OK, names[n // 3]: OK} if n else {}) for n, name in enumerate(names) if n != 1]
    steps.insert(1, step("s1", {"s0": OK}))
    found = draw(steps)
    assert found == draw(steps)
    assert [line.split()[-2] for line in found if "log" in line] == names


@pytest.mark.parametrize(
    ("of", "note"),
    [
        (step("x", "ab"), ""),
        (step("x", "ab", any_of=True), "if one of: a, b"),
        (step("x", {"a": FAILED}), "if a failed"),
        (step("x", {"a": ENDED, "b": ENDED}), "if all ended"),
        (step("x", {"a": ENDED, "b": OK}), "if a ended"),
        (step("x", {"a": ["skipped", "succeeded"], "b": FAILED}), "if a skipped or succeeded, b failed"),
    ],
)
def test_note_says_what_is_not_plain_success(of: dict[str, Any], note: str) -> None:
    assert note_of(of) == note


def test_mermaid_has_each_step_each_edge_and_handlers_apart() -> None:
    steps = [step("a"), step("end", {"a": FAILED}), step("c", ["a", "end"], any_of=True)]
    text = mermaid({"steps": steps, "handlers": {"finally": [step("tidy")]}})
    assert text.splitlines() == [
        "flowchart TD",
        '  step_a["a<br/>log"]',
        '  step_end["end<br/>log"]',
        '  step_c["c<br/>log"]',
        "  step_a -->|failed| step_end",
        "  step_a -.-> step_c",
        "  step_end -.-> step_c",
        "  subgraph finally",
        '    step_tidy["tidy<br/>log"]',
        "  end",
    ]
