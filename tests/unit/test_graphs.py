"""Pictures of graphs in a terminal: which lines lead where, and what stands behind the steps."""

from typing import Any

import pytest

from aura.cli.graphs import draw, note_of

OK = ["succeeded"]
FAILED = ["failed", "timed_out"]
ENDED = ["cancelled", "failed", "skipped", "succeeded", "timed_out"]


def step(name: str, needs: Any = (), any_of: bool = False, **members: Any) -> dict[str, Any]:
    """A step; ``needs`` is a text of names, or names with the states that are wanted."""
    wanted = needs if isinstance(needs, dict) else dict.fromkeys(needs, OK)
    return {"name": name, "action": "log", "depends_on": {"any": wanted} if any_of else wanted, **members}


def loop(key: str, value: Any, parallelism: int = 1) -> dict[str, Any]:
    return {"loop": {"key": key, "value": value, "parallelism": parallelism}}


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
        (step("x", when="{{ inputs.n > 3 }}"), "when inputs.n > 3"),
        (step("x", when="{{ inputs.n\n  > 3 }}"), "when inputs.n > 3"),
        (step("x", when="{{ " + "a" * 40 + " }}"), f"when {'a' * 35}…"),
        (step("x", when="false"), "when false"),
        (step("x", **loop("for_each", "{{ inputs.hosts }}", 4)), "for each of inputs.hosts, 4 at once"),
        (step("x", **loop("for_each", [1, 2, 3])), "for each of 3"),
        (step("x", **loop("times", 3)), "3 times"),
        (step("x", **loop("until", "{{ loop.last }}")), "until loop.last"),
        (step("x", attempts=5), "up to 5 tries"),
        (step("x", attempts=1), ""),
        (step("x", {"a": FAILED}, when="{{ b }}", attempts=2), "if a failed; when b; up to 2 tries"),
    ],
)
def test_note_says_what_is_not_plain(of: dict[str, Any], note: str) -> None:
    assert note_of(of) == note


def test_states_of_a_run_stand_in_a_column() -> None:
    steps = [step("a"), step("b", "a", action="task.run", task="lab/other")]
    assert draw(steps, states={"a": "succeeded"}) == [
        "○  a  succeeded  log",
        "│",
        "○  b             task.run lab/other",
    ]


def test_words_that_ascii_has_not_are_written_with_it() -> None:
    found = draw([step("a", when="{{ inputs.x == 'ü' and " + "a" * 40 + " }}")], plain=True)
    assert found == [f"o  a  log  when inputs.x == '\\xfc' and {'a' * 15}..."]
