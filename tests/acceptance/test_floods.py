"""Floods of output against a real server, in small; ``make flood`` pours them at full size."""

from pathlib import Path

from tests.acceptance.floods import GROWTH, Seen, floods, many, pour

from aura.processes.floods import LOG_CAP
from aura.processes.loglines import LINE_CAP

#: How long any answer may take meanwhile, in seconds, on a machine that has more to do.
LONGEST_ANSWER = 5.0


def check(seen: Seen) -> None:
    assert {state for name, state in seen.states.items() if not name.startswith("yes")} <= {"succeeded"}, seen.states
    assert {state for name, state in seen.states.items() if name.startswith("yes")} <= {"cancelled"}, seen.states
    assert not seen.left
    assert seen.growth < GROWTH, str(seen)
    assert max(seen.logged.values()) < LOG_CAP + LINE_CAP
    assert max(seen.answers) < LONGEST_ANSWER, str(seen)


def test_each_kind_of_flood_costs_little_and_leaves_nothing(tmp_path: Path) -> None:
    check(pour(tmp_path, floods(0.02), endless=1))


def test_many_floods_at_once_cost_little_and_leave_nothing(tmp_path: Path) -> None:
    check(pour(tmp_path, many(25, 0.001), endless=1))
