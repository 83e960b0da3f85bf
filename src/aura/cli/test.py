"""``aura test``: pytest on the tests of plans.

It finds the plans and their tests and says what to do where there are none; all else is pytest's, in a process of its
own that inherits this one's terminal, so that it is as clean as one started by hand. The settings of pytest that belong
to the plans folder, or to one above it, hold as ever. Nothing is written into the plans: neither ``__pycache__`` nor
``.pytest_cache``.
"""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
import msgspec

from aura.cli.options import config_option, json_option, settings_of
from aura.cli.output import one_line, print_json, say
from aura.errors import ExitCode, UnknownTask

if TYPE_CHECKING:
    from aura.watching.testreport import Report

#: The folder of a plan's tests, as ``loading.snapshot`` has it.
TESTS = "tests"
#: What pytest ends with → what the command does, where they differ; a signal's number is below 0.
_CODES = {0: ExitCode.OK, 1: ExitCode.FAILED, 2: ExitCode.FAILED, 4: ExitCode.USAGE, 5: ExitCode.FAILED}
_REST = "aura.test.rest"


class _WithRest(click.Command):
    """A command that hands on what stands behind ``--``."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        context.meta[_REST] = args[at + 1 :]
        try:
            return super().parse_args(context, args[:at])
        except click.NoSuchOption as error:
            if error.possibilities:  # a slip of the pen
                raise
            first = next(place for place, word in enumerate(args) if word.startswith(error.option_name[:2]))
            said = shlex.join(["aura", "test", *args[:first], "--", *args[first:]])
            raise click.UsageError(f"{error.message} What is for pytest stands behind --: {said}", context) from None


@click.command(cls=_WithRest)
@click.argument("names", metavar="[PLAN]… [-- PYTEST_ARG…]", nargs=-1)
@click.option("--plans", type=click.Path(path_type=Path), metavar="DIR", help="The plans folder; else of the settings.")
@click.option("--sweep", is_flag=True, help="Sweep every task of a plan that has no tests.")
@config_option
@json_option
@click.pass_context
def test(context: click.Context, names: Sequence[str], plans: Path | None, sweep: bool, as_json: bool) -> int:
    """Run the tests of plans, in virtual time.

    All plans, or those that are named. What stands behind -- is for pytest: aura test hello -- -k greet -x.
    """
    # imported here: `aura --help` imports this module, and nothing slow
    from aura.loading.snapshot import has_test_file

    folder = settings_of({"plans": plans}).plans
    chosen = _chosen(folder, names)
    without = [name for name in chosen if not has_test_file(folder / name)]
    paths = [folder / name / ("tasks" if name in without else TESTS) for name in chosen if sweep or name not in without]
    if without and not sweep:
        say(one_line(_no_tests(folder, without)))
    report, code = _run(folder, paths, [*(["--aura-sweep"] if sweep else []), *context.meta[_REST]], as_json)
    if as_json:
        _print(report, code, without)
    return code


def _chosen(folder: Path, names: Sequence[str]) -> list[str]:
    """The plans that are named, or all.

    Raises:
        UnknownTask: there is no such plan, or none at all. ConfigError: the folder cannot be read.
    """
    # imported here: `aura --help` imports this module, and nothing slow
    from aura.loading.snapshot import plan_names
    from aura.sandbox import near

    known = plan_names(folder)
    for name in names:
        if name not in known:
            raise UnknownTask(f"there is no plan {name!r} in {folder}{near(name, known)}")
    if not known:
        raise UnknownTask(f"there are no plans in {folder}; name the folder with --plans, or make one with `aura init`")
    return list(dict.fromkeys(names)) or known


def _no_tests(folder: Path, without: Sequence[str]) -> str:
    place = folder / without[0] / TESTS / "test_plan.py"
    return f"no tests: {', '.join(without)}; write {place}, or have the tasks swept: aura test --sweep"


# -- pytest


def _run(folder: Path, paths: Sequence[Path], more: Sequence[str], as_json: bool) -> tuple["Report | None", int]:
    """Run pytest, and give what it came to, if JSON is wanted, and the exit code."""
    if not paths:
        return None, ExitCode.FAILED
    with tempfile.TemporaryDirectory(prefix="aura-test-") as scratch:
        file = Path(scratch) / "report.json"
        reporter = ["-p", "aura.watching.testreport", "--gate-report", str(file)] if as_json else []
        cache = f"cache_dir={Path(scratch) / 'cache'}"  # it is there for settings that name its options, and forgets
        quiet = ["-q", "-o", cache, "--rootdir", str(folder)]
        argv = [sys.executable, "-m", "pytest", *quiet, *reporter, *map(str, paths), *more]
        code = _ended(argv, as_json)
        return _read(file) if as_json else None, code


def _ended(argv: Sequence[str], as_json: bool) -> int:
    """Wait for a process; its exit code as one of ours. With JSON, what it prints goes to stderr."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(argv, env=environment, stdout=2 if as_json else None) as process, _told(process) as stopped:
        code = process.wait()
    if stopped:
        raise KeyboardInterrupt
    if code == 5:
        say("no test was run")
    elif code not in _CODES:
        say(f"pytest {f'was ended by signal {-code}' if code < 0 else f'failed by itself, with exit code {code}'}")
    return _CODES.get(code, ExitCode.INTERNAL)


@contextmanager
def _told(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Let pytest end in order when this command is told to end; gives the signals that came.

    A Ctrl-C reaches pytest by itself: the terminal sends it to both.
    """
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        if number != signal.SIGINT:
            process.send_signal(signal.SIGINT)

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield came
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


# -- as JSON


def _read(file: Path) -> "Report | None":
    from aura.watching.testreport import Report

    try:
        return msgspec.json.decode(file.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError):
        return None  # it ended before it could say anything


def _print(report: "Report | None", code: int, without: Sequence[str]) -> None:
    passed, failed = (report.passed, report.failed) if report else (0, 0)
    failures = msgspec.to_builtins(report.failures) if report else []
    print_json({"ok": code == 0, "passed": passed, "failed": failed, "failures": failures, "without_tests": without})
