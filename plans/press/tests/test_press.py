"""What the press promises: whatever stops a print, the head is lifted first, and the press ends up cool.

What the machine did is in the diary that each run keeps in its workdir. An hour of printing takes no time here.
"""

import pytest

#: From the first sheet to the last one, when nothing comes between.
WHOLE = [
    *("loaded 5 sheets", "heating done at 180", "head down"),
    *(f"printed {sheet}" for sheet in range(1, 6)),
    *("head up", "knife down", "knife up", "cooling done at 30"),
]
#: How a print ends that is stopped for good.
PUT_AWAY = ["head up", "parked", "cooling done at 30"]


def diary(run):
    return (run.workdir / "diary.txt").read_text().splitlines()


@pytest.fixture
async def printing(world):
    """A print of five sheets, a minute each, of which two are out."""
    run = await world.start("sheets", inputs={"sheets": 5, "pace": 60})
    await world.until(lambda: run.steps.get("print") and "printed 2" in diary(run))
    return run


async def test_sheets_are_printed_and_the_press_is_cooled_down(world):
    run = await world.run("sheets", inputs={"sheets": 5, "pace": 60})
    run.assert_succeeded()
    assert run.result == {"sheets": 5}
    assert diary(run) == WHOLE
    assert run.logs()[-1]["message"] == "The press is at 30 degrees, run succeeded"


async def test_jam_makes_way_and_the_next_sheet_follows(world, printing):
    await world.emit("press.jammed")
    await world.settle()
    printing.assert_succeeded()
    assert printing.preemptions == 1
    way = ["head up", "parked", "homed", "head down"]
    assert diary(printing) == [*WHOLE[:5], *way, *WHOLE[5:]]  # each sheet once
    world.assert_started("clear", times=1)


async def test_jam_in_the_cut_waits_until_the_cut_is_done(world):
    run = await world.start("sheets", inputs={"sheets": 5, "pace": 5})
    await world.until(run, step="trim", state="running")
    await world.emit("press.jammed")
    await world.settle()
    run.assert_succeeded()
    assert diary(run) == [*WHOLE[:-1], "parked", "homed", WHOLE[-1]]


async def test_jam_that_nobody_reports_fails_the_run(world):
    run = await world.run("sheets", inputs={"sheets": 5, "pace": 1, "jam_at": 3})
    run.assert_state("failed")
    assert (run.error["type"], run.error["step"]) == ("PaperJam", "print")
    assert diary(run)[-4:] == ["printed 2", "head up", "ejected", "cooling done at 30"]


async def test_emergency_stop_ends_everything(world, printing):
    await world.emit("press.emergency")
    await world.settle()
    printing.assert_state("cancelled")
    assert diary(printing)[-3:] == PUT_AWAY
    world.assert_started("halt", times=1)


async def test_emergency_stop_ends_a_print_that_waits_for_a_jam_to_be_cleared(world, printing):
    await world.emit("press.jammed")
    await world.until(printing, state="preempted")
    await world.emit("press.emergency")
    await world.settle()
    printing.assert_state("cancelled")
    assert diary(printing)[-4:] == [*PUT_AWAY[:2], *PUT_AWAY[1:]]  # parked for the jam, and when it ends
    assert printing.preemptions == 2


async def test_print_that_is_cancelled_is_put_away(world, printing):
    await printing.cancel()
    await world.settle()
    printing.assert_state("cancelled")
    assert diary(printing)[-3:] == PUT_AWAY


def test_wherever_it_is_cancelled_it_is_put_away(sweep):
    sweep("sheets", inputs={"sheets": 2, "pace": 0.5}).assert_clean()


def test_wherever_a_jam_comes_all_sheets_are_printed(sweep):
    sweep("sheets", inputs={"sheets": 2, "pace": 0.5}, by="interrupt:jam").assert_same_result()
