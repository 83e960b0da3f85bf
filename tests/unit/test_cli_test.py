"""``aura test``: which tests are run, how pytest is called, and what its end means. Pytest itself is a fake here.

Real ones are in ``tests/acceptance/test_first_steps.py`` and ``test_docs.py``.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.fakes.commands import Command, commands_in
from tests.fakes.plans import write_files

TASK = "steps: {a: {action: log, params: {message: x}}}\n"
PLANS = {
    "lab/tasks/t.yaml": TASK,
    "lab/tests/deep/test_x.py": "",
    "bare/tasks/t.yaml": TASK,
    "bare/tests/notes.py": "",
    "shop/tasks/t.yaml": TASK,
    "shop/tests/test_x.py": "",
    "zoo/tasks/t.yaml": TASK,
    "zoo/tests/x_test.py": "",
}
#: Stands for Python with pytest: writes down how it was called, does what it is told, and ends as it is told.
FAKE = """#!/bin/sh
for one; do printf '%s\\n' "$one"; done > "$SEEN"
printf %s "$PYTHONDONTWRITEBYTECODE" > "$SEEN.bytecode"
eval "$DOES"
exit "$ENDS"
"""


class Called(NamedTuple):
    """How the fake was called: whole, and what stands after the options that it always gets."""

    argv: list[str]
    paths: list[str]


Ends = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    write_files(tmp_path / "plans", PLANS)
    return commands_in(tmp_path, monkeypatch, capsys)


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ends:
    """Say how the fake ends, and with what it does before."""
    fake = tmp_path / "python"
    fake.write_text(FAKE)
    fake.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))

    def say(code: int = 0, does: str = "") -> None:
        monkeypatch.setenv("ENDS", str(code))
        monkeypatch.setenv("DOES", does)

    say()
    return say


def called(folder: Path) -> Called:
    argv = (folder / "seen").read_text().splitlines()
    return Called(argv, [word.removeprefix(f"{folder}/") for word in argv[argv.index("--rootdir") + 2 :]])


@pytest.mark.parametrize(
    ("argv", "paths"),
    [
        pytest.param([], ["plans/lab/tests", "plans/shop/tests", "plans/zoo/tests"], id="all-that-have-some"),
        pytest.param(["lab"], ["plans/lab/tests"], id="one"),
        pytest.param(["shop", "lab", "shop"], ["plans/shop/tests", "plans/lab/tests"], id="each-once"),
        pytest.param(["lab", "--", "-k", "a b", "-x"], ["plans/lab/tests", "-k", "a b", "-x"], id="rest-is-handed-on"),
        pytest.param(
            ["--", "--sweep"],
            ["plans/lab/tests", "plans/shop/tests", "plans/zoo/tests", "--sweep"],
            id="rest-is-not-ours",
        ),
        pytest.param(["bare", "--sweep"], ["plans/bare/tasks", "--aura-sweep"], id="sweep"),
        pytest.param(["zoo"], ["plans/zoo/tests"], id="other-name-of-a-test-file"),
        pytest.param(["lab", "--sweep"], ["plans/lab/tests", "--aura-sweep"], id="sweep-where-there-are-tests"),
    ],
)
def test_tests_of_plans_are_run(run: Command, ends: Ends, tmp_path: Path, argv: list[str], paths: list[str]) -> None:
    assert run("test", *argv).code == 0
    seen = called(tmp_path)
    assert seen.argv[:2] == ["-m", "pytest"]
    assert "-q" in seen.argv
    assert seen.paths == paths


def test_nothing_is_written_beside_the_tests(run: Command, ends: Ends, tmp_path: Path) -> None:
    run("test")
    assert (tmp_path / "seen.bytecode").read_text() == "1"
    [cache] = [word.removeprefix("cache_dir=") for word in called(tmp_path).argv if word.startswith("cache_dir=")]
    assert not Path(cache).is_relative_to(tmp_path / "plans")
    assert not Path(cache).exists()


def test_settings_that_name_what_pytest_remembers_hold(run: Command, tmp_path: Path) -> None:
    (tmp_path / "plans/pytest.ini").write_text("[pytest]\naddopts = --ff --collect-only\n")
    (tmp_path / "plans/lab/tests/deep/test_x.py").write_text("def test_x(): pass")
    assert run("test", "lab").code == 0
    assert list((tmp_path / "plans").rglob(".pytest_cache")) == []


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(["labb"], 64, "there is no plan 'labb' in ", id="unknown"),
        pytest.param(["labb"], 64, "did you mean 'lab'?", id="near"),
        pytest.param(["--plans", "nowhere"], 64, "nowhere cannot be read: No such file or directory", id="no-folder"),
        pytest.param(["--plans", "plans/lab/tests/deep"], 64, "there are no plans in ", id="no-plans"),
        pytest.param(["bare"], 1, "no tests: bare; write ", id="no-tests"),
        pytest.param(["bare"], 1, "plans/bare/tests/test_plan.py, or have the tasks swept: aura test --sweep", id="do"),
        pytest.param(
            ["lab", "-k", "a b", "-x"],
            64,
            "No such option '-k'. What is for pytest stands behind --: aura test lab -- -k 'a b' -x",
            id="k",
        ),
        pytest.param(["-vk", "a"], 64, "stands behind --: aura test -- -vk a", id="several-in-one"),
        pytest.param(["lab", "--maxfail=1"], 64, "stands behind --: aura test lab -- --maxfail=1", id="with-a-value"),
        pytest.param(["--swep"], 64, "--sweep", id="slip"),
        pytest.param(["lab", "bare"], 0, "no tests: bare; ", id="some-have-none"),
    ],
)
def test_what_is_not_there_is_said(run: Command, ends: Ends, argv: list[str], code: int, said: str) -> None:
    done = run("test", *argv)
    assert (done.code, said in done.err) == (code, True), done.err


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [
        pytest.param(0, 0, "", id="passed"),
        pytest.param(1, 1, "", id="failed"),
        pytest.param(2, 1, "", id="not-collected"),
        pytest.param(3, 70, "pytest failed by itself, with exit code 3", id="internal"),
        pytest.param(4, 64, "", id="usage"),
        pytest.param(5, 1, "no test was run", id="none"),
        pytest.param(99, 70, "pytest failed by itself, with exit code 99", id="other"),
    ],
)
def test_end_of_pytest_is_an_exit_code(run: Command, ends: Ends, ended: int, code: int, said: str) -> None:
    ends(ended)
    done = run("test", "lab")
    assert (done.code, said in done.err) == (code, True), done.err


def test_pytest_that_is_killed_is_said(run: Command, ends: Ends) -> None:
    ends(does="kill -9 $$")
    done = run("test", "lab")
    assert (done.code, "pytest was ended by signal 9" in done.err) == (70, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_is_handed_on_and_130(run: Command, ends: Ends, tmp_path: Path, number: int) -> None:
    ends(2, does='trap "touch told; exit 2" INT; touch waits; while :; do sleep 0.02; done')

    def tell() -> None:
        while not (tmp_path / "waits").exists():
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=tell)  # ends once the fake waits, which it does at once
    former = signal.getsignal(number)
    thread.start()
    done = run("test", "lab")
    thread.join()
    assert (done.code, (tmp_path / "told").exists(), signal.getsignal(number)) == (130, True, former)


REPORT: dict[str, Any] = {
    "exit_code": 1,
    "passed": 2,
    "failed": 1,
    "failures": [{"file": "lab/tests/test_x.py", "line": 3, "test": "test_a", "phase": "call", "message": "assert 0"}],
}


@pytest.mark.parametrize(
    ("report", "counted"),
    [
        pytest.param(json.dumps(REPORT), {key: REPORT[key] for key in ("passed", "failed", "failures")}, id="report"),
        pytest.param("nonsense", {"passed": 0, "failed": 0, "failures": []}, id="no-report"),
    ],
)
def test_json_is_a_summary(run: Command, ends: Ends, report: str, counted: dict[str, Any]) -> None:
    ends(1, does=f"for one; do case $one in */report.json) printf %s '{report}' > $one;; esac; done; echo shown")
    done = run("test", "lab", "bare", "--json")
    assert done.code == 1
    assert done.json == {"ok": False, **counted, "without_tests": ["bare"]}
