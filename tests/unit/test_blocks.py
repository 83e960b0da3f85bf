"""What is a block of the event loop and what is none, in a time of the test's own: no thread, no frames."""

from collections.abc import Sequence

import pytest

from aura.engine.blocks import BEAT, LOOK, Block, Watch
from aura.engine.culprit import Culprit, Place

PLAN = Place("lab@1/actions.py", 12, "fetch", own=True)
OTHER = Place("lab@1/actions.py", 13, "fetch", own=True)
LIBRARY = Place("/lib/json.py", 3, "loads", own=False)
STEP = LOOK


class Machine:
    """A loop and its watcher: ``now`` goes on, and with it the loop's processor time at a rate of ``busy``."""

    def __init__(self) -> None:
        self.now = 100.0
        self.used = 0.0
        self.runnable = False
        self.found: Culprit | None = None
        self.watch = Watch(lambda: self.now, lambda _: self.found, lambda: self.used, lambda: self.runnable)
        self.long: list[Block] = []

    def runs(self, place: Place | None, handle: object = "a") -> None:
        """What the loop is in from now on; None: it waits."""
        self.found = None if place is None else Culprit(handle, place, None, None)

    def passes(self, seconds: float, step: float = STEP, busy: float = 0.0) -> None:
        """Time goes on, with a look after each ``step``."""
        for _ in range(round(seconds / step)):
            self.now += step
            self.used += step * busy
            if (block := self.watch.look(None)) is not None:
                self.long.append(block)

    def beats(self) -> list[Block]:
        return self.watch.beat()[1]


@pytest.fixture
def machine() -> Machine:
    return Machine()


def shown(blocks: Sequence[Block]) -> list[tuple[float, Place | None]]:
    return [(round(block.seconds, 2), block.place) for block in blocks]


@pytest.mark.parametrize("busy", [0.0, 1.0], ids=["asleep", "computing"])
def test_one_call_that_keeps_the_loop_is_a_block(machine: Machine, busy: float) -> None:
    machine.runs(PLAN)
    machine.passes(1.0, busy=busy)
    assert shown(machine.beats()) == [(1.0 - BEAT, PLAN)]
    assert (machine.beats(), machine.long) == ([], [])


def test_beats_that_are_late_by_little_are_none(machine: Machine) -> None:
    machine.runs(PLAN)
    for _ in range(20):
        machine.passes(0.25)
        assert machine.beats() == []


def test_place_is_where_it_was_most_often_and_the_plans_own_if_there_is_one(machine: Machine) -> None:
    for place, seconds in ((LIBRARY, 1.0), (OTHER, 0.2), (PLAN, 0.6)):
        machine.runs(place)
        machine.passes(seconds)
    assert [block.place for block in machine.beats()] == [PLAN]


def test_many_short_calls_in_one_turn_are_none(machine: Machine) -> None:
    for number in range(20):
        machine.runs(PLAN, handle=number)
        machine.passes(0.1)
    assert machine.beats() == []


def test_each_of_two_long_calls_in_one_turn_is_one(machine: Machine) -> None:
    machine.runs(PLAN, handle=1)
    machine.passes(1.0)
    machine.runs(LIBRARY, handle=2)
    machine.passes(2.0)
    assert [block.place for block in machine.beats()] == [PLAN, LIBRARY]


def test_loop_that_waits_is_none_though_its_beat_is_late(machine: Machine) -> None:
    machine.passes(2.0)
    assert machine.beats() == []


def test_time_in_which_the_whole_process_stood_still_counts_for_nobody(machine: Machine) -> None:
    machine.runs(PLAN)
    machine.passes(3600, step=3600)
    assert machine.beats() == []


def test_call_that_goes_on_after_the_process_stood_still_is_as_long_as_it_ran(machine: Machine) -> None:
    machine.runs(PLAN)
    machine.passes(1.0)
    machine.passes(3600, step=3600)
    machine.passes(1.0)
    assert shown(machine.beats()) == [(2.0, PLAN)]


def test_standstill_before_a_beat_does_not_hide_a_block_after_it(machine: Machine) -> None:
    machine.now += 3600
    assert machine.beats() == []
    machine.runs(PLAN)
    machine.passes(1.0)
    assert [block.place for block in machine.beats()] == [PLAN]


def test_code_that_keeps_the_watcher_out_is_found_where_it_ends(machine: Machine) -> None:
    machine.runs(PLAN)
    machine.passes(3.0, step=3.0, busy=1.0)
    assert [block.place for block in machine.beats()] == [PLAN]


def test_code_that_keeps_the_watcher_out_and_is_gone_blames_nobody_else(machine: Machine) -> None:
    machine.runs(LIBRARY)
    machine.passes(3.0, step=3.0, busy=1.0)
    assert [block.place for block in machine.beats()] == [None]


def test_time_for_which_a_loop_that_could_run_gets_no_processor_counts_for_nobody(machine: Machine) -> None:
    machine.runs(PLAN)
    machine.runnable = True
    machine.passes(3.0, busy=0.05)
    assert machine.beats() == []


def test_block_that_lasts_is_told_once_while_it_does(machine: Machine) -> None:
    machine.runs(PLAN)
    machine.passes(4.9)
    assert machine.long == []
    machine.passes(3.0)
    assert [(int(block.seconds), block.place) for block in machine.long] == [(5, PLAN)]
    assert [round(block.seconds) for block in machine.beats()] == [8]


def test_lateness_of_a_beat_is_given_with_it(machine: Machine) -> None:
    machine.now += BEAT + 0.5
    assert machine.watch.beat()[0] == pytest.approx(0.5)
