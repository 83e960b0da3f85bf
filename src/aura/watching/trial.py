"""One trial: pytest on the files of a snapshot, in a process of its own beside the server, and what it came to.

The files are written into a private folder below the data folder, the plan's with its tests and those of the plans that
it uses beside it, so that what is tested is what would be served, whatever the plans folder is by then. The process has
the environment of any child (no secret, no token, none of the server's own variables), nothing to read, and the marks
by which a next start finds and ends it. It has a time limit. What it prints is kept in part; what failed is read from a
report (``testreport``) and not from that. Its end, and that of all it has started, is for ``processes``.

The folder goes when the trial is over, in a thread that is not waited for longer than ``REMOVAL``; what a crash has
left of it goes at the next start.
"""

import importlib.util
import os
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from aura.duration import format_duration
from aura.errors import Problem, RunError
from aura.loading.gating import SHOWN_HASH, Trial
from aura.loading.snapshot import TESTS
from aura.processes.leftovers import BOOT, CID, end_run_leftovers
from aura.processes.pipes import Kept
from aura.processes.process import child_environment, open_process
from aura.watching.testreport import MAX_FAILURES, Failed, Report, running_file

#: How much is kept of what pytest prints, in bytes: all of it, or its beginning and its end.
MAX_OUTPUT, OUTPUT_ENDS = 64 * 1024, 32 * 1024
#: The largest report that is read, in bytes.
MAX_REPORT = 256 * 1024
#: How long a trial that is ended may take over its own clean-up, in seconds.
GRACE = 1.0
#: How long the folder of a trial may take to be removed before the next one begins, in seconds.
REMOVAL = 5.0
#: What is installed with it: without, no test can be run.
PYTEST = "pytest"
_INI = "[pytest]\n"
NONE_RUN = f"the gate is closed: no test was run; the files in {TESTS}/ have none, or skip them all"
_FATAL = "Fatal Python error"
_NOT_RUN = {2: "was interrupted", 3: "failed by itself", 4: "could not begin"}


class Ended(msgspec.Struct):
    """How the process ended. ``code`` is None if its time was over, ``running`` the test that it was at."""

    code: int | None
    report: Report | None
    running: str
    output: str


class PytestRunner:
    """Runs trials, each in a process; leaves nothing of them. Made once for a server, when nothing runs."""

    def __init__(self, home: Path, boot_tag: str, log: Any) -> None:
        """``home`` is a folder for trials alone; ``boot_tag`` marks their processes, ``log`` is told what they said."""
        self._home = home.absolute()
        self._boot_tag = boot_tag
        self._log = log

    async def run(self, trial: Trial) -> tuple[Problem, ...]:
        """Run the tests of a version, and give what went wrong.

        **Cancellation**: ends the process and all that it has started, within ``GRACE`` and what a kill takes.

        Raises:
            RunError: pytest is not there, or a process hangs in the kernel. OSError: the disk is full, or the like.
        """
        if importlib.util.find_spec(PYTEST) is None:
            raise RunError(f"{PYTEST} cannot be imported by {sys.executable}; install it there")
        async with self._folder(trial) as folder:
            ended = await self._ended(trial, folder)
        problems = problems_of(trial, ended)
        if problems:
            said = f"the tests of plan {trial.name}, version {trial.snapshot.hash[:SHOWN_HASH]}, have failed"
            self._log.info(said, plan=trial.name, output=ended.output)
        return problems

    async def clear(self) -> None:
        """Remove the folders that a crash has left."""
        await anyio.to_thread.run_sync(partial(shutil.rmtree, self._home, ignore_errors=True), abandon_on_cancel=True)

    @asynccontextmanager
    async def _folder(self, trial: Trial) -> AsyncIterator[Path]:
        folder = self._home / uuid.uuid4().hex
        try:
            await anyio.to_thread.run_sync(write_files, trial, folder)
            yield folder
        finally:
            # The shield has the removal done though the trial is cancelled; it cannot hang: it has a bound, and its
            # thread is abandoned then.
            with anyio.move_on_after(REMOVAL, shield=True):
                remove = partial(shutil.rmtree, folder, ignore_errors=True)
                await anyio.to_thread.run_sync(remove, abandon_on_cancel=True)

    async def _ended(self, trial: Trial, folder: Path) -> Ended:
        report, said, code = folder / "report.json", Kept(MAX_OUTPUT, OUTPUT_ENDS), None
        mark = f"gate-{folder.name}"[:36]
        opened = open_process(
            argv(trial, folder, report),
            environment=child_environment({BOOT: self._boot_tag, CID: mark}, extra_environment(folder)),
            cwd=folder,
            on_stdout=said.feed,
            on_stderr=said.feed,
            grace_left=lambda: GRACE,
        )
        async with opened as child:
            with anyio.move_on_after(trial.timeout):  # its only child: this wait; the block's end ends the process
                code = await child.wait()
            if child.left_running():
                await end_run_leftovers(self._boot_tag, mark)
        running = read_bounded(running_file(report)).decode(errors="replace")
        return Ended(code, read_report(report), running, said.text())


def write_files(trial: Trial, folder: Path) -> None:
    """Write what is tried below ``folder``/plans, for this user alone."""
    folder.mkdir(parents=True, mode=0o700)
    (folder / "tmp").mkdir()
    (folder / "pytest.ini").write_text(_INI, encoding="utf-8")
    _write(folder / "plans" / trial.name, trial.snapshot.files)
    _write(folder / "plans" / trial.name, trial.snapshot.tests)
    for name, used in trial.used.items():
        _write(folder / "plans" / name, used.files)


def _write(home: Path, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        file = home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def argv(trial: Trial, folder: Path, report: Path) -> list[str]:
    """What is run: pytest without the settings of whatever folder is above, on the tests of one plan."""
    own = ["-p", "aura.watching.testreport", "--gate-report", str(report)]
    places = ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder / "plans"), "--basetemp", str(folder / "base")]
    quiet = ["-q", "--color=no", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", PYTEST, *own, *places, *quiet, str(folder / "plans" / trial.name / TESTS)]


def extra_environment(folder: Path) -> dict[str, str]:
    """What the process has besides: the imports are found where they are here, and what is temporary goes with it."""
    path = os.pathsep.join(entry for entry in sys.path if os.path.isabs(entry))
    return {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder / "tmp")}


def read_bounded(file: Path) -> bytes:
    """The beginning of a file; nothing if it is not there."""
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_REPORT)
    except OSError:
        return b""


def read_report(file: Path) -> Report | None:
    """What pytest came to; None if it wrote nothing, or something else has been written there."""
    try:
        return msgspec.json.decode(read_bounded(file), type=Report)
    except msgspec.DecodeError:
        return None


def problems_of(trial: Trial, ended: Ended) -> tuple[Problem, ...]:
    """What went wrong; nothing if tests have run and all have passed."""
    report = ended.report
    if ended.code is None:
        at = f"; it was at {ended.running}" if ended.running else ""
        limit = f"the tests took longer than {format_duration(trial.timeout)} and were ended{at}"
        return (trial.problem(f"{limit}; make them quicker, or set reload.gate_timeout"),)
    if report is not None and report.failures:
        more = report.failed - len(report.failures)
        further = (trial.problem(f"{more} more tests failed"),) if more > 0 else ()
        return (*sorted(_problem(failed) for failed in report.failures[:MAX_FAILURES]), *further)
    if report is not None and ended.code == report.exit_code == 0:
        return () if report.passed else (trial.problem("no test has passed: all are skipped, or expected to fail"),)
    if ended.code == 5:
        return (trial.problem(NONE_RUN),)
    return (trial.problem(_why_not_run(ended)),)


def _problem(failed: Failed) -> Problem:
    what = f"{failed.test or 'the file'} failed"
    if failed.phase == "collect":
        what = f"{failed.test or 'its tests'} cannot be collected"
    elif failed.phase != "call":
        what += f" in its {failed.phase}"
    return Problem(failed.file, failed.line, 1, f"{what}: {failed.message}")


def _why_not_run(ended: Ended) -> str:
    assert ended.code is not None
    at = f", at {ended.running}" if ended.running else ""
    how = _NOT_RUN.get(ended.code, "ended before it was done")
    if ended.code < 0:
        how = f"was ended by signal {-ended.code}"
    said = [line for line in ended.output.splitlines() if line.strip()] or ["it said nothing"]
    fatal = [line[line.find(_FATAL) :] for line in said if _FATAL in line][:1]  # what follows it is where, in C
    return f"pytest {how}{at} (exit code {ended.code}): {[*said, *fatal][-1][:300]}"
