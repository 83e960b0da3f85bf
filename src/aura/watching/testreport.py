"""A pytest plugin for the process in which a plan's tests run for its gate: it writes down what failed, as JSON.

It runs in that process alone, and imports nothing of Aura but what describes a report. What a report means is for
``trial``. It is written when the session ends: a process that is killed leaves none, but the name of the test that ran.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import pytest

#: Failures that are written down; more are counted.
MAX_FAILURES = 20
#: Characters of what went wrong in one, and of its name.
MAX_MESSAGE = 300


class Failed(msgspec.Struct):
    """A test that failed, or a file whose tests could not be collected: then ``test`` is empty.

    ``file`` is as pytest knows it, ``line`` counts from 1, ``phase`` is ``setup call teardown`` or ``collect``.
    """

    file: str
    line: int
    test: str
    phase: str
    message: str


class Report(msgspec.Struct):
    """What a session came to; ``failed`` counts all that ``failures`` would have."""

    exit_code: int
    passed: int = 0
    failed: int = 0
    failures: list[Failed] = []


def running_file(report: Path) -> Path:
    """Where the name of the test stands that runs."""
    return report.with_suffix(".running")


def pytest_addoption(parser: "pytest.Parser") -> None:
    """Know where the report is to be written."""
    parser.addoption("--gate-report", type=Path)


def pytest_configure(config: "pytest.Config") -> None:
    """Listen, if there is a report to be written."""
    path = config.getoption("--gate-report")
    if path is not None:
        config.pluginmanager.register(Reporter(path), "aura-gate-reporter")


class Reporter:
    """Hears what becomes of each test."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._report = Report(0)
        self._failures: dict[tuple[str, str], Failed] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say which test runs."""
        running_file(self._path).write_text(nodeid, encoding="utf-8")

    def pytest_runtest_logreport(self, report: "pytest.TestReport") -> None:
        """Count, and note what failed."""
        if report.failed:
            self._note(report.nodeid, report.when, (report.location[1] or 0) + 1, report.longreprtext)
        elif report.when == "call" and report.passed:
            self._report.passed += 1

    def pytest_collectreport(self, report: "pytest.CollectReport") -> None:
        """Note what could not be collected, if what went wrong was not told before."""
        if report.failed and (report.nodeid, "collect") not in self._failures:
            self._note(report.nodeid, "collect", 1, report.longreprtext)

    def pytest_exception_interact(
        self, node: "pytest.Item | pytest.Collector", call: "pytest.CallInfo[object]", report: object
    ) -> None:
        """Say more exactly where in the file of the test it went wrong, and what."""
        phase = getattr(report, "when", None) or "collect"
        failed = self._note(node.nodeid, phase, 1, "")
        assert call.excinfo is not None
        error = call.excinfo.value.__cause__ if phase == "collect" else None
        unknown = getattr(getattr(report, "longrepr", None), "errorstring", None)  # a fixture that there is not
        failed.message = _first_line(unknown or (_said(error) if error else call.excinfo.exconly(tryshort=True)))
        failed.line = _line_in(node.path, error or call.excinfo.value) or failed.line

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the report."""
        self._report.exit_code = int(exitstatus)
        self._report.failed = len(self._failures)
        self._report.failures = list(self._failures.values())[:MAX_FAILURES]
        self._path.write_bytes(msgspec.json.encode(self._report))

    def _note(self, nodeid: str, phase: str, line: int, message: str) -> Failed:
        """Give what is known of a failure; the first time, this."""
        file, _, test = nodeid.partition("::")
        failed = Failed(_first_line(file), line, _first_line(test), phase, _first_line(message))
        return self._failures.setdefault((nodeid, phase), failed)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _first_line(text: str) -> str:
    """The first line as JSON can have it: without halves of characters."""
    return (text.strip().splitlines() or [""])[0][:MAX_MESSAGE].encode(errors="backslashreplace").decode()


def _line_in(file: Path, error: BaseException) -> int | None:
    """The last line of a file that an error has come through; of a syntax error in it, where that is."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            found = trace.tb_lineno
        trace = trace.tb_next
    return found
