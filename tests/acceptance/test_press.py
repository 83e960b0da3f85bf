"""The plan ``press`` on a real server: steps, progress, and a clean-up that one can watch."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.context import PLANS
from tests.fakes.following import read_until
from tests.fakes.served import Served, open_served

SERVE = ("--port", "0", "--plans", str(PLANS))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with open_served(tmp_path_factory.mktemp("press"), *SERVE) as served:
        yield served


def diary(served: Served) -> list[str]:
    """What the press of the latest run did, a line for each act."""
    latest = max((served.folder / "data").glob("work/*/diary.txt"), key=lambda path: path.stat().st_mtime_ns)
    return latest.read_text().splitlines()


def test_sheets_are_printed_and_the_press_cools_down(served: Served) -> None:
    done = served.aura("run", "press/sheets", "-i", "sheets=50", "-i", "pace=0.002")
    assert (done.code, done.json) == (0, {"sheets": 50})
    assert "The press is at 30 degrees, run succeeded" in done.err
    printed = [f"printed {sheet}" for sheet in range(1, 51)]
    assert diary(served) == [
        *("loaded 50 sheets", "heating done at 180", "head down", *printed, "head up"),
        *("knife down", "knife up", "cooling done at 30"),
    ]


def test_jam_fails_the_run_and_the_paper_is_ejected(served: Served) -> None:
    done = served.aura("run", "press/sheets", "-i", "sheets=9", "-i", "pace=0", "-i", "jam_at=3")
    assert done.code == 1
    assert "step print: PaperJam: the paper jammed at sheet 3" in done.err
    assert diary(served)[-5:] == ["printed 1", "printed 2", "head up", "ejected", "cooling done at 30"]


def test_cancel_lifts_the_head_parks_and_cools_down(served: Served) -> None:
    with served.following("run", "press/sheets", "-i", "sheets=300", "-i", "pace=0.01") as command:
        assert re.search(r" print \d+/300 \(\d+%\) sheet \d+", read_until(command, "print "))  # live progress
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=20)
    assert command.returncode == 130
    assert diary(served)[-3:] == ["head up", "parked", "cooling done at 30"]
    run = served.aura("show", "@last", "--json").json
    assert run["state"] == "cancelled"
    states = {step["name"]: step["state"] for step in run["steps"]}
    assert (states["print"], states["park"], states["cool"]) == ("cancelled", "succeeded", "succeeded")


def test_stop_of_the_server_cleans_the_press_up(tmp_path: Path) -> None:
    with open_served(tmp_path, *SERVE) as served:
        with served.following("run", "press/sheets", "-i", "sheets=300", "-i", "pace=0.01") as command:
            read_until(command, "print ")
            assert served.stop() == 0
        assert diary(served)[-3:] == ["head up", "parked", "cooling done at 30"]


def test_jam_is_cleared_and_the_print_goes_on_with_the_next_sheet(served: Served) -> None:
    with served.following("run", "press/sheets", "-i", "sheets=150", "-i", "pace=0.01") as command:
        read_until(command, "print ")
        (fired,) = served.aura("interrupts", "fire", "press/jam", "--json").json["interrupts"]
        said = read_until(command, " preempted run: by press/jam, handled by ")
        out, _ = command.communicate(timeout=30)
    assert fired["cid"][-12:] in said
    assert (command.returncode, out) == (0, '{\n  "sheets": 150\n}\n')
    done = diary(served)
    assert [line for line in done if line.startswith("printed")] == [f"printed {sheet}" for sheet in range(1, 151)]
    at = done.index("parked")
    assert done[at - 1 : at + 3] == ["head up", "parked", "homed", "head down"]
    handler = served.aura("show", fired["cid"], "--json").json
    (victim,) = handler["victims"]
    stopped = served.aura("show", victim["cid"], "--json").json
    assert (stopped["preempted_by"]["cid"], stopped["preemptions"], handler["state"]) == (fired["cid"], 1, "succeeded")


def test_emergency_stop_ends_the_print_for_good(served: Served) -> None:
    with served.following("run", "press/sheets", "-i", "sheets=300", "-i", "pace=0.01") as command:
        read_until(command, "print ")
        assert served.aura("interrupts", "fire", "press/emergency_stop").code == 0
        command.communicate(timeout=20)
    assert command.returncode == 1
    assert diary(served)[-3:] == ["head up", "parked", "cooling done at 30"]
