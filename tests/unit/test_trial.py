"""One trial of a plan's tests: real runs of pytest, which are dear and so are few, and what is made of how they end."""

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.fakes.context import FakeLog

from aura.loading.gating import Trial, Used
from aura.loading.snapshot import Snapshot
from aura.processes.leftovers import look_at_all
from aura.watching.gate import has_tests
from aura.watching.testreport import Failed, Report
from aura.watching.trial import NONE_RUN, Ended, PytestRunner, problems_of

pytestmark = pytest.mark.anyio

SEES = """
import os, stat, sys
from pathlib import Path

def test_what_it_sees(tmp_path):
    home = Path(__file__).parents[1]
    assert (home / "plan.yaml").read_text() == "uses: [base]"
    assert (home.parent / "base/plan.yaml").read_text() == "title: base"
    assert (home / "tests/data/table.csv").read_bytes() == b"a,b"
    assert Path.cwd() == home.parents[1] and tmp_path.is_relative_to(Path.cwd())
    assert os.read(0, 1) == b"" and os.getsid(0) == os.getpid()
    assert [name for name in os.environ if name.startswith("AURA_SECRET")] == []
    assert stat.S_IMODE(Path.cwd().stat().st_mode) == 0o700
"""
FAILS = """
import pytest

def helper():
    raise ValueError("deep")

def test_fails():
    assert 1 == 2, "no"

def test_fails_deeper():
    helper()

@pytest.fixture
def broken():
    raise RuntimeError("fixture")

def test_setup(broken):
    pass

def test_half():
    raise ValueError("\\udc80 half")

def test_lacks(no_such_fixture):
    pass
"""
HANGS = """
import subprocess, sys, time
from pathlib import Path

def test_hangs():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    Path("BEGAN").write_text("begun")
    time.sleep(60)
"""
BOOT = f"test-trial.{os.getpid()}"


def trial(timeout: float = 60.0, used: dict[str, Used] | None = None, **tests: str | bytes) -> Trial:
    """A trial of the plan lab; each keyword is a file in ``tests``, ``__`` for a slash, without ``.py``."""
    files: dict[str, Any] = {f"tests/{name.replace('__', '/')}.py": text for name, text in tests.items()}
    encoded = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}
    return Trial(
        Snapshot("lab", "/plans/lab", {"plan.yaml": b"uses: [base]"}, "f" * 64, (), encoded), used or {}, timeout
    )


def runner(folder: Path) -> PytestRunner:
    return PytestRunner(folder / "gate", BOOT, FakeLog())


def left() -> list[str]:
    """The processes that are still there of trials here."""
    return [seen.name for seen in look_at_all() if seen.marks.get("AURA_BOOT") == BOOT and not seen.zombie]


async def test_tests_run_on_what_was_checked_and_see_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AURA_SECRET_DOOR", "sesame")
    tried = trial(used={"base": Used("0", {"plan.yaml": b"title: base"})}, test_sees=SEES)
    tests = {**tried.snapshot.tests, "tests/data/table.csv": b"a,b"}
    snapshot = Snapshot("lab", "", tried.snapshot.files, "f" * 64, (), tests)
    assert await runner(tmp_path).run(Trial(snapshot, tried.used, 60.0)) == ()
    assert list((tmp_path / "gate").iterdir()) == []


async def test_each_failure_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    found = await runner(tmp_path).run(trial(test_a=FAILS))
    assert [str(problem) for problem in found] == [
        "lab/tests/test_a.py:5:1: test_fails_deeper failed: ValueError: deep",
        "lab/tests/test_a.py:8:1: test_fails failed: AssertionError: no",
        "lab/tests/test_a.py:15:1: test_setup failed in its setup: RuntimeError: fixture",
        "lab/tests/test_a.py:21:1: test_half failed: ValueError: \\udc80 half",
        "lab/tests/test_a.py:23:1: test_lacks failed in its setup: fixture 'no_such_fixture' not found",
    ]


async def test_file_that_cannot_be_collected_is_named(tmp_path: Path) -> None:
    tests = {"test_a": "import nothing_here", "test_b": "def test_ok(): pass", "test_c": "raise SystemExit(3)"}
    found = await runner(tmp_path).run(trial(60.0, None, **tests))
    assert [str(problem).partition(" its tests cannot be collected: ")[::2] for problem in found] == [
        ("lab/tests/test_a.py:1:1:", "ModuleNotFoundError: No module named 'nothing_here'"),
        ("lab/tests/test_c.py:1:1:", "SystemExit: 3"),
    ]


def hangs(folder: Path) -> tuple[str, Path]:
    """Tests that hang, and a pipe that has a text in it once they do, with a process that they have started."""
    began = folder / "began"
    os.mkfifo(began)
    return HANGS.replace("BEGAN", str(began)), began


async def test_tests_that_hang_are_ended_with_all_that_they_have_started(tmp_path: Path) -> None:
    text, began = hangs(tmp_path)
    reader = os.open(began, os.O_RDONLY | os.O_NONBLOCK)  # whenever they come to it, they go on
    [problem] = await runner(tmp_path).run(trial(2.0, test_a=text))
    os.close(reader)
    assert problem.message.startswith("the tests took longer than 2s and were ended")
    assert left() == []


async def test_trial_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    text, began = hangs(tmp_path)
    # the trial; cancelled once its test runs
    async with anyio.create_task_group() as group:
        group.start_soon(runner(tmp_path).run, trial(test_a=text))
        assert await anyio.to_thread.run_sync(began.read_text) == "begun"
        assert left() != []
        group.cancel_scope.cancel()
    assert (left(), list((tmp_path / "gate").iterdir())) == ([], [])


async def test_folders_that_a_crash_has_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / "gate/abc/plans").mkdir(parents=True)
    for _ in range(2):
        await runner(tmp_path).clear()
        assert not (tmp_path / "gate").exists()


async def test_missing_pytest_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.watching.trial.PYTEST", "no_pytest_here")
    with pytest.raises(Exception, match=f"no_pytest_here cannot be imported by {sys.executable}; install it there"):
        await runner(tmp_path).run(trial(test_a=""))


FAILURE = Failed("lab/tests/test_a.py", 3, "test_it", "call", "assert 0")


@pytest.mark.parametrize(
    ("code", "report", "said"),
    [
        pytest.param(0, Report(0, passed=1), [], id="passed"),
        pytest.param(1, Report(1, failed=1, failures=[FAILURE]), ["test_it failed: assert 0"], id="failed"),
        pytest.param(
            1, Report(1, failed=25, failures=[FAILURE]), ["test_it failed: assert 0", "24 more tests failed"], id="many"
        ),
        pytest.param(0, Report(0), ["no test has passed: all are skipped, or expected to fail"], id="skipped"),
        pytest.param(5, Report(5), [NONE_RUN], id="none-collected"),
        pytest.param(2, None, ["pytest was interrupted (exit code 2): last"], id="interrupted"),
        pytest.param(3, Report(3), ["pytest failed by itself (exit code 3): last"], id="internal-error"),
        pytest.param(4, None, ["pytest could not begin (exit code 4): last"], id="usage"),
        pytest.param(0, None, ["pytest ended before it was done (exit code 0): last"], id="no-report"),
        pytest.param(
            1, Report(0, passed=1), ["pytest ended before it was done (exit code 1): last"], id="contradiction"
        ),
        pytest.param(-9, None, ["pytest was ended by signal 9 (exit code -9): last"], id="killed"),
        pytest.param(
            None,
            None,
            ["the tests took longer than 1m and were ended; make them quicker, or set reload.gate_timeout"],
            id="time-out",
        ),
    ],
)
def test_outcome_of_each_end(code: int | None, report: Report | None, said: list[str]) -> None:
    found = problems_of(trial(test_a=""), Ended(code, report, "", "first\nlast\n\n"))
    assert [problem.message for problem in found] == said


def test_end_by_a_signal_names_the_test_and_what_python_says_of_it() -> None:
    [problem] = problems_of(trial(test_a=""), Ended(-6, None, "lab/x", "FFatal Python error: Aborted\nfile\n"))
    assert problem.message == "pytest was ended by signal 6, at lab/x (exit code -6): Fatal Python error: Aborted"


@pytest.mark.parametrize(
    ("file", "has"), [("test_a", True), ("deep__test_a", True), ("a_test", True), ("a", False), ("conftest", False)]
)
def test_files_that_have_tests(file: str, has: bool) -> None:
    files: dict[str, Any] = {file: ""}
    assert has_tests(trial(**files)) is has
