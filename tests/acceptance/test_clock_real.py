"""A real server whose wall clock is set while it runs, by Debian's ``faketime``: jumps, a suspend, summer time.

Monotonic time stays the machine's, as it does when somebody sets a clock or a machine wakes up.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import msgspec
import pytest
from tests.fakes.served import Served, open_served, write_plans

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no libfaketime here: apt-get install faketime")

TASK = "steps: {only: {action: log, params: {message: hello}}}\n"
SCHEDULE = """
items:
  nightly: {task: work, triggers: [{cron: "30 2 * * *", timezone: Europe/Berlin}]}
  hourly: {task: work, triggers: [{cron: "15 * * * *"}]}
  skipping: {task: work, triggers: [{cron: "30 * * * *", misfire: skip}]}
"""
#: For how long a change of the clock may go unseen, and what it brings about may take, in seconds.
SEEN = 30.0


class Machine:
    """A server and its wall clock."""

    def __init__(self, rc: Path) -> None:
        self._rc = rc
        self.served: Served | None = None

    def set(self, text: str) -> None:
        """Set the wall clock; it goes on from there."""
        ahead = datetime.fromisoformat(text).timestamp() - time.time()
        new = self._rc.with_suffix(".new")
        new.write_text(f"{ahead:+.3f}\n")
        new.replace(self._rc)

    def runs(self, item: str) -> list[str]:
        """The slots that have started a run of an item, in the order of their acceptance."""
        assert self.served is not None
        token = (self.served.folder / "data/token").read_text().strip()
        request = Request(f"{self.served.address}/api/runs", headers={"Authorization": f"Bearer {token}"})
        with urlopen(request, timeout=SEEN) as answer:
            found: list[dict[str, Any]] = msgspec.json.decode(answer.read())["items"]
        return [_hour(run["due"]) for run in reversed(found) if run["cause"]["item"] == item]

    def wait_runs(self, item: str, expected: list[str]) -> None:
        """Return once an item has started these, and nothing else."""
        end = time.monotonic() + SEEN
        while (found := self.runs(item)) != expected:
            assert time.monotonic() < end, found
            assert len(found) <= len(expected), found
            time.sleep(0.5)  # between two looks, so that the server has the processor


def _hour(due: str) -> str:
    return datetime.fromisoformat(due).astimezone(UTC).strftime("%m-%d %H:%M")


@contextmanager
def machine(folder: Path, begin: str) -> Iterator[Machine]:
    write_plans(folder, {"lab/tasks/work.yaml": TASK, "lab/schedule.yaml": SCHEDULE})
    made = Machine(folder / "faketime.rc")
    made.set(begin)
    env = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(folder / "faketime.rc"),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PATH": os.environ["PATH"],
    }
    with open_served(folder, env=env) as made.served:
        yield made


def test_real_clock_that_is_set_and_changes_for_the_summer(tmp_path: Path) -> None:
    nights = ["03-29 01:00", "10-24 00:30", "10-25 00:30"]
    with machine(tmp_path, "2026-03-29T00:35:00Z") as lab:
        lab.set("2026-03-29T00:59:58Z")
        lab.wait_runs("nightly", nights[:1])
        lab.set("2026-10-24T20:20:00Z")  # a summer of sleep: one run for all of its nights
        lab.wait_runs("nightly", nights[:2])
        lab.set("2026-10-25T00:29:58Z")
        lab.wait_runs("nightly", nights)
        lab.set("2026-10-25T01:29:58Z")  # the clocks show 02:30 again
        lab.wait_runs("skipping", ["10-25 00:30", "10-25 01:30"])
        lab.set("2026-10-24T22:14:58Z")  # back: this was only missed, all others have run
        lab.wait_runs("hourly", ["10-24 20:15", "10-25 00:15", "10-25 01:15", "10-24 22:15"])
        assert lab.runs("nightly") == nights
