"""The fork server of the tests themselves: a command that is forked has what a fresh one has, and ends like one."""

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.fakes.door import wait_until
from tests.fakes.forked import FRESH, Forked, is_same_start
from tests.fakes.served import aura, environment, open_served, write_plans

WAIT = 30.0


@pytest.mark.parametrize("argv", [["check"], ["show", "x"], ["run", "lab/bad", "--input", "-"]])
def test_forked_command_says_and_ends_as_a_fresh_one(tmp_path: Path, argv: list[str]) -> None:
    write_plans(tmp_path, {"lab/tasks/bad.yaml": "steps: 1\n"})
    env = {"AURA_SERVER": "http://127.0.0.1:1", "AURA_PLANS": "plans"}
    forked = aura(*argv, cwd=tmp_path, env=env, stdin='{"a": 1}')
    assert forked == aura(*argv, cwd=tmp_path, env=env, stdin='{"a": 1}', fresh=True)
    assert forked.out + forked.err


@contextmanager
def core_limit(size: int) -> Iterator[None]:
    former = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, former)


def open_files(pid: int) -> list[str]:
    """The kinds of what a process has open."""
    found = []
    for file in (Path("/proc") / str(pid) / "fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            found.append(os.readlink(file).rpartition("/")[2])
    return sorted(kind.partition(":[")[0] if kind.startswith(("socket", "pipe")) else kind for kind in found)


def test_forked_server_has_the_place_of_a_fresh_one(tmp_path: Path) -> None:
    for name in "forked", "fresh":
        (tmp_path / name).mkdir()
        write_plans(tmp_path / name, {})
    with (
        core_limit(4096),
        open_served(tmp_path / "forked") as forked,
        open_served(tmp_path / "fresh", fresh=True) as fresh,
    ):
        for served in forked, fresh:
            proc = Path("/proc") / str(served.process.pid)
            assert os.readlink(proc / "cwd") == str(served.folder)
            assert os.readlink(proc / "fd/2") == f"{served.folder}/server.log"
            assert resource.prlimit(served.process.pid, resource.RLIMIT_CORE)[0] == 4096
        wait_until(lambda: open_files(forked.process.pid) == open_files(fresh.process.pid))


def test_command_that_is_killed_is_told_with_its_signal(tmp_path: Path) -> None:
    write_plans(tmp_path, {})
    with open_served(tmp_path) as served, pytest.raises(subprocess.TimeoutExpired):
        served.process.wait(0.001)
    with open_served(tmp_path) as served:
        served.process.kill()
        assert served.process.wait(WAIT) == served.process.poll() == -signal.SIGKILL
    served.process.kill()  # harms nobody


def test_commands_run_side_by_side(tmp_path: Path) -> None:
    with open(os.devnull, "r+b") as null:
        files = (null.fileno(),) * 3
        argvs = [["aura", "--help"], ["aura", "nonsense"], ["aura", "--help"], ["aura", "nonsense"]]
        started = [Forked(argv, tmp_path, environment({}), *files) for argv in argvs]
        found = []
        for process in started:
            with process:
                found.append(process.wait(WAIT))
    assert found == [0, 64, 0, 64]


def test_what_counts_when_an_interpreter_starts_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FRESH, raising=False)
    assert is_same_start(environment({"AURA_TOKEN": "x"}))
    assert not is_same_start(environment({"PYTHONHASHSEED": "1"}))
    monkeypatch.setenv(FRESH, "1")
    assert not is_same_start(environment({"AURA_TOKEN": "x"}))
