"""A data folder has one server: others are refused at once, the first is not disturbed, only its lock counts."""

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.fakes.children import running_of
from tests.fakes.door import wait_until
from tests.fakes.served import AURA, READY, environment, open_served, write_plans

#: Servers that are started at once; ``INSTANCES=20`` in the environment makes them more.
MANY = int(os.environ.get("INSTANCES") or 8)
PLANS = {
    "lab/tasks/good.yaml": "steps:\n  a: {action: log, params: {message: well}}\n",
    "lab/tasks/long.yaml": "steps:\n  a: {action: shell.run, params: {shell: 'setsid sleep 100; sleep 100'}}\n",
}
COMMAND = [AURA, "serve", "--data", "data", "--port", "0"]
HOLDER = re.compile(r"in use by process (\d+) on \S+ since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
#: Seconds of its own work within which one is refused: a loaded machine makes it wait, but not work longer.
REFUSED_WITHIN = 1.0


#: Seconds within which all of them are over, on the most loaded of machines.
ENDED_WITHIN = 60.0


class Refused(NamedTuple):
    """How a second server ended; ``work_s`` is what it used of the processor."""

    code: int
    said: str
    work_s: float


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_plans(tmp_path, PLANS)
    return tmp_path


@contextmanager
def started(folder: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Many servers, started at once; none of them lives on."""
    processes = [start(folder, number) for number in range(MANY)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start(folder: Path, number: int) -> "subprocess.Popen[bytes]":
    out = open(folder / f"out.{number}", "wb")  # noqa: SIM115 - handed on
    with out:
        return subprocess.Popen(COMMAND, cwd=folder, env=environment({}), stdout=out, stderr=out)


def end_of(folder: Path, number: int, process: "subprocess.Popen[bytes]") -> Refused:
    wait_until(lambda: _has_ended(process), ENDED_WITHIN)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    text = (folder / f"out.{number}").read_text(encoding="utf-8")
    return Refused(process.returncode, text, used.ru_utime + used.ru_stime)


def holders(refused: Sequence[Refused]) -> set[int]:
    """Whom those that were refused have named; each in time, with 75, and without a traceback."""
    found = [HOLDER.search(one.said) for one in refused]
    assert [one.code for one in refused] == [75] * len(refused)
    assert not any("Traceback" in one.said for one in refused)
    assert max(one.work_s for one in refused) < REFUSED_WITHIN
    return {int(match[1]) for match in found if match} | ({0} if None in found else set())


def test_many_at_a_held_folder_are_refused_and_the_first_goes_on(folder: Path) -> None:
    with open_served(folder) as served:
        begun = time.monotonic()
        with started(folder) as others:
            refused = [end_of(folder, number, other) for number, other in enumerate(others)]
        print(f"{time.monotonic() - begun:.2f} s for all, {max(one.work_s for one in refused):.2f} s of work for one")
        assert holders(refused) == {served.process.pid}
        assert served.aura("run", "lab/good").code == 0
        assert served.stop() == 0


def test_of_many_at_a_free_folder_one_is_ready(folder: Path) -> None:
    with started(folder) as all_of_them:
        wait_until(lambda: sum(_has_ended(process) for process in all_of_them) == MANY - 1, ENDED_WITHIN)
        (first,) = (number for number, process in enumerate(all_of_them) if not _has_ended(process))
        wait_until(lambda: READY in (folder / f"out.{first}").read_text(encoding="utf-8"), ENDED_WITHIN)
        refused = [end_of(folder, number, process) for number, process in enumerate(all_of_them) if number != first]
        assert holders(refused) <= {all_of_them[first].pid, 0}  # who came before it had signed cannot name it
        all_of_them[first].terminate()
        assert all_of_them[first].wait(30) == 0


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether it is over; it stays to be waited for."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def test_lock_of_a_killed_server_is_free_while_its_child_lives(folder: Path) -> None:
    with open_served(folder) as served:
        cid = served.aura("run", "lab/long", "--detach").out.strip()
        wait_until(lambda: len(running_of(cid)) >= 2)
        served.process.kill()
        served.process.wait(10)
        assert running_of(cid)
    with open_served(folder) as served:
        assert not running_of(cid)
        assert served.aura("show", cid, "--json").json["state"] == "crashed"
