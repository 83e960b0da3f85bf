"""``aura run --local``: the same as on a server, and nothing of it is left."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest
from tests.fakes.served import AURA, Done, aura, environment, open_served, write_plans

HANGS = "import time\nfrom aura import action\n@action\ndef hangs() -> None:\n    time.sleep(60)\n"
FILES = {
    "lab/tasks/hello.yaml": (
        "inputs:\n  day: {type: string}\n  count: {type: integer, default: 1}\n"
        "steps:\n"
        "  - {name: say, action: log, params: {message: 'hello {{ inputs.day }}'}}\n"
        "  - {name: list, action: shell.run, params: {argv: [echo, '{{ inputs.count }}']}}\n"
        "returns: {day: '{{ inputs.day }}', out: '{{ steps.list.output.stdout }}'}\n"
    ),
    "lab/tasks/fails.yaml": "steps: {do: {action: fail, params: {message: no}}}",
    "lab/tasks/nap.yaml": "steps: {nap: {action: sleep, params: {duration: 10m}}}",
    "lab/tasks/hangs.yaml": "cleanup_timeout: 100ms\nsteps: {do: {action: hangs}}",
    "lab/actions.py": HANGS,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_plans(tmp_path, FILES)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir()
    return tmp_path


def env_of(folder: Path) -> dict[str, str]:
    """Whatever a command writes lands below ``folder``."""
    return {"TMPDIR": str(folder / "tmp"), "HOME": str(folder / "home"), "XDG_STATE_HOME": str(folder / "home")}


def local(folder: Path, *argv: str) -> Done:
    return aura("run", "--local", *argv, cwd=folder, env=env_of(folder))


@contextmanager
def running(folder: Path, *argv: str) -> Iterator["subprocess.Popen[str]"]:
    """A command that is still running, once its step has begun."""
    command = [AURA, "run", "--local", *argv]
    env = environment(env_of(folder))
    with subprocess.Popen(command, cwd=folder, env=env, stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            assert process.stderr
            while not re.search(r"started +(nap|do)", line := process.stderr.readline()):
                assert line, "it has ended"
            yield process
        finally:
            process.kill()


def files(folder: Path) -> set[str]:
    """Everything that is there, but for what Python caches."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def without_times(text: str) -> list[str]:
    lines = re.sub(r"\d\d:\d\d:\d\d|[0-9a-f]{8}-[0-9a-f-]{27}|\d+\.\d+ s", "…", text).splitlines()
    return [line for line in lines if not line.startswith("see: ")]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        pytest.param(["lab/hello", "-i", "day=monday", "-i", "count=3"], 0, id="succeeds"),
        pytest.param(["lab/fails"], 1, id="fails"),
        pytest.param(["lab/hello"], 64, id="input-missing"),
        pytest.param(["lab/hello", "-i", "day=a", "-i", "count=x"], 64, id="input-of-another-type"),
        pytest.param(["lab/helo"], 64, id="no-such-task"),
    ],
)
def test_it_says_what_a_server_would(folder: Path, argv: list[str], code: int) -> None:
    here = local(folder, *argv)
    with open_served(folder) as served:
        there = served.aura("run", *argv)
    assert (here.code, here.out) == (there.code, there.out) == (code, here.out)
    assert without_times(here.err) == without_times(there.err)


def test_gate_of_a_plan_is_open(folder: Path) -> None:
    write_plans(folder, {"lab/plan.yaml": "reload: {gate: tests}\n"})
    assert local(folder, "lab/hello", "-i", "day=monday").json == {"day": "monday", "out": "1\n"}


def test_nothing_is_left_in_the_file_system(folder: Path) -> None:
    before = files(folder)
    assert local(folder, "lab/hello", "-i", "day=a").code == 0
    assert local(folder, "lab/fails").code == 1
    assert files(folder) == before


def test_plans_are_where_it_is_told(folder: Path) -> None:
    (folder / "plans").rename(folder / "elsewhere")
    assert local(folder, "lab/hello", "-i", "day=a", "--plans", "elsewhere").json["day"] == "a"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_cancels_the_run_and_leaves_nothing(folder: Path, number: int) -> None:
    before = files(folder)
    with running(folder, "lab/nap") as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "lab/nap cancelled: Ctrl-C" in err
    assert "aura show" not in err
    assert files(folder) == before


def test_second_ctrl_c_does_not_wait_for_what_hangs(folder: Path) -> None:
    (folder / "aura.toml").write_text("[server]\ngrace = '100s'")  # without a hurry it would take all of it
    before = files(folder)
    with running(folder, "lab/hangs") as process:
        assert process.stderr
        process.send_signal(signal.SIGINT)
        while "cancelling" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert files(folder) == before


@pytest.mark.parametrize(
    "argv", [["--local", "--detach"], ["--plans", "plans"]], ids=["detach-and-local", "plans-without-local"]
)
def test_options_that_do_not_go_together_are_refused(folder: Path, argv: list[str]) -> None:
    done = aura("run", "lab/nap", *argv, cwd=folder, env=env_of(folder) | {"AURA_SERVER": f"unix:{os.devnull}"})
    assert done.code == 64
    assert "goes with --local" in done.err or "--detach" in done.err
