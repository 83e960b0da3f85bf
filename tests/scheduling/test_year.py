"""Slots over weeks and years of crashes, jumps of the clock and reloads: each has the runs that its policy says.

``make schedule-check N=50`` tells whole years. Here are weeks of the same, and that the checker sees what is wrong.
"""

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.scheduling.year.checker import problems
from tests.scheduling.year.nominal import Item, Trigger, times
from tests.scheduling.year.story import Chapter, Story, tell
from tests.scheduling.year.telling import History, Line, Run, Teller

from aura.testing.virtual_time import VirtualLoop

#: Seconds; and a time at which a story may begin: 2026-01-01T00:00:10Z.
HOUR, BEGIN = 3600.0, 1_767_225_610.0
#: Hourly; the server is away from 5:30 to 8:30 hours after the beginning, which misses three slots; then it is off.
ITEM = Item("hourly", (Trigger(cron="0 * * * *"),))
STORY = Story(
    BEGIN,
    (ITEM,),
    (
        Chapter("crash", 5.5 * HOUR, seconds=3 * HOUR),
        Chapter("switch", 2 * HOUR, item="hourly", on=False),
    ),
    rest=2 * HOUR,
)


def lived(folder: Path, story: Story) -> History:
    """What worlds make of it, on a loop of their own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(Teller(folder, story).tell())


@pytest.mark.parametrize("seed", [1, 4])
def test_each_slot_has_the_runs_that_its_policy_says(seed: int, tmp_path: Path) -> None:
    history = lived(tmp_path, tell(seed, days=21, pause=0.8))
    assert problems(history) == []
    assert sum(len(span.runs) for span in history.spans) > 20


@pytest.mark.parametrize(
    ("late", "starts"), [(3.0, [1, 1]), (20.0, [1, 0])], ids=["on-time-for-both", "late-for-what-skips"]
)
def test_slot_is_on_time_for_a_few_seconds(late: float, starts: list[int], tmp_path: Path) -> None:
    skips = Item("skips", (Trigger(cron="0 * * * *", misfire="skip"),))
    away = Chapter("close", 2 * HOUR - 20, seconds=10 + late)
    history = lived(tmp_path, Story(BEGIN, (ITEM, skips), (away,), rest=60))
    assert problems(history) == []
    assert [sum(run.item == name for run in history.spans[1].runs) for name in ("hourly", "skips")] == starts


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    return lived(tmp_path_factory.mktemp("year"), STORY)


def doubled(history: History) -> None:
    history.spans[0].runs.append(msgspec.structs.replace(history.spans[0].runs[1], seq=99))


def doubled_later(history: History) -> None:
    history.spans[1].runs.append(msgspec.structs.replace(history.spans[0].runs[1], seq=99))


def lost(history: History) -> None:
    del history.spans[0].runs[1]


def late(history: History) -> None:
    run = history.spans[0].runs[1]
    history.spans[0].runs[1] = msgspec.structs.replace(run, accepted_at=run.accepted_at + 10)


def untargeted(history: History) -> None:
    history.spans[0].runs.append(Run(99, "hourly", BEGIN + 60, BEGIN + 60))


def silent(history: History) -> None:
    history.spans[1].lines = [line for line in history.spans[1].lines if line.reason != "misfire"]


def unexplained(history: History) -> None:
    history.spans[0].lines.append(Line("misfire", "hourly", 1, BEGIN, "", BEGIN + 60, BEGIN + 60))


def disabled(history: History) -> None:
    line = history.spans[2].lines.pop()
    assert line.first is not None
    history.spans[2].runs.append(Run(99, "hourly", line.first, line.first))
    history.begun[99] = line.first


def miscounted(history: History) -> None:
    line = history.spans[1].lines[0]
    history.spans[1].lines[0] = msgspec.structs.replace(line, count=line.count + 1)


def mode(history: History) -> None:
    """The second run comes while the first is open: nobody has seen its end."""
    for span in history.spans:
        span.ended.pop(history.spans[0].runs[0].seq, None)


def jitter(history: History) -> None:
    history.begun[history.spans[0].runs[0].seq] = history.spans[0].runs[0].due + 60


def stranger(history: History) -> None:
    history.spans[0].runs.append(Run(99, "nobody", BEGIN, BEGIN))


def first_seen(history: History) -> None:
    history.spans[1].anchors = {key: anchor + HOUR for key, anchor in history.spans[1].anchors.items()}


def test_history_that_is_right_has_no_problems(history: History) -> None:
    assert problems(history) == []
    assert [len(span.runs) for span in history.spans] == [5, 3, 0]
    assert [[(line.reason, line.count) for line in span.lines] for span in history.spans][1:] == [
        [("misfire", 2)],
        [("disabled", 1)] * 2,
    ]


@pytest.mark.parametrize(
    ("doctor", "word"),
    [
        (doubled, "doubled"),
        (doubled_later, "doubled"),
        (lost, "lost"),
        (late, "late"),
        (untargeted, "untargeted"),
        (silent, "silent"),
        (unexplained, "line"),
        (disabled, "disabled"),
        (miscounted, "count"),
        (mode, "mode"),
        (jitter, "jitter"),
        (stranger, "stranger"),
        (first_seen, "anchor"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_checker_names_what_is_wrong(history: History, doctor: Callable[[History], None], word: str) -> None:
    doctored = copy.deepcopy(history)
    doctor(doctored)
    assert word in {problem.word for problem in problems(doctored)}


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        pytest.param(Trigger(cron="30 2 * * *", zone="Europe/Berlin"), [2065.5, 2089.0, 2112.5], id="gap"),
        pytest.param(Trigger(cron="*/30 2 * * *", zone="Europe/Berlin"), [2065.5, 2112.0, 2112.5], id="star-in-a-gap"),
        pytest.param(Trigger(every=24 * HOUR), [2071.0, 2095.0], id="every"),
    ],
)
def test_naive_walk_knows_daylight_saving(trigger: Trigger, expected: list[float]) -> None:
    """In hours of the year; on 29 March 2026 the clocks of Berlin go from 2:00 to 3:00, at 1:00 in UTC."""
    begin = BEGIN - 10
    found = times(trigger, begin + 2047 * HOUR, begin + 2065.2 * HOUR, begin + 2113 * HOUR)
    assert [(due - begin) / HOUR for due in found] == expected
