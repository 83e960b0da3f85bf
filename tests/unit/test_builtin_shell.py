"""``shell.run``: what it runs, what it refuses, how it names what went wrong, and its bounds."""

import signal
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.fakes.children import dead_children, running_of, until, until_file
from tests.fakes.context import Bench

from aura import leftovers
from aura.actions import MAX_OUTPUT
from aura.builtin import shipped
from aura.errors import ParamsInvalid, ShellFailed


@pytest.fixture(scope="module", autouse=True)
def _no_zombie_is_left_by_these_tests() -> Iterator[None]:
    before = {seen.pid for seen in dead_children()}  # others have left some that nobody can know to be adopted
    yield
    leftovers.reap_adopted()
    assert not [seen for seen in dead_children() if seen.pid not in before]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, shipped())
    yield made
    for seen in running_of(made.host.process_environment["AURA_CID"]):
        leftovers.send(seen, signal.SIGKILL)


@pytest.mark.parametrize(
    ("params", "stdout"),
    [
        pytest.param({"argv": ["echo", "a b", 1, 2.5, True]}, "a b 1 2.5 true\n", id="numbers become text"),
        pytest.param({"argv": ["echo", "; touch p", "$(id)", "`id`", "a\nb", "*"]}, None, id="nothing is expanded"),
        pytest.param({"argv": ["echo", "é\U0001f600"]}, "é\U0001f600\n", id="unicode"),
        pytest.param({"shell": "echo $((1 + 1)) | cat"}, "2\n", id="shell text"),
        pytest.param({"argv": ["cat"], "stdin": "in"}, "in", id="stdin"),
        pytest.param({"argv": ["cat"]}, "", id="no stdin"),
        pytest.param({"argv": ["sh", "-c", "echo $A $B"], "env": {"A": 1, "B": "x"}}, "1 x\n", id="env"),
        pytest.param({"argv": ["printf", "\\377\\000\\033[1m"]}, "\ufffd\x00\x1b[1m", id="binary output"),
        pytest.param({"shell": "echo early; exec >&-; sleep 0.1"}, "early\n", id="stdout closed early"),
        pytest.param({"shell": "exit 3", "ok_exit_codes": [0, 3]}, "", id="another exit code that is ok"),
    ],
)
async def test_command_gives_its_output(bench: Bench, params: dict[str, Any], stdout: str | None) -> None:
    result = await bench.call("shell.run", **params)
    expected = " ".join(params["argv"][1:]) + "\n" if stdout is None else stdout
    assert (result["stdout"], result["stderr"]) == (expected, "")
    assert result["duration_s"] >= 0
    assert not (bench.workdir / "p").exists()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        pytest.param({"argv": ["no-such"]}, "no-such: command not found (exit code 127)", id="not found"),
        pytest.param({"argv": ["/etc/passwd/x"]}, "/etc/passwd/x: command not found (exit code 127)", id="no folder"),
        pytest.param({"argv": ["/etc/passwd"]}, "/etc/passwd: not executable (exit code 126)", id="not executable"),
        pytest.param({"argv": ["/etc"]}, "/etc: not executable (exit code 126)", id="a folder"),
        pytest.param({"shell": "no-such 2>&-"}, "/bin/sh: command not found (exit code 127)", id="by a shell"),
        pytest.param({"shell": "kill -9 $$"}, "/bin/sh: killed by SIGKILL (exit code 137)", id="killed"),
        pytest.param({"shell": "exit 255"}, "/bin/sh: exit code 255", id="exit code"),
        pytest.param({"shell": "echo a >&2; echo b >&2; exit 1"}, "/bin/sh: exit code 1: b", id="its last word"),
        pytest.param({"argv": ["true"], "ok_exit_codes": [1]}, "true: exit code 0", id="0 is not ok"),
        pytest.param({"argv": ["true"], "cwd": "none"}, "the working folder", id="no such working folder"),
        pytest.param({"argv": ["echo", "a\0b"]}, "an argument or a variable contains NUL", id="NUL in argv"),
        pytest.param({"shell": "echo \0"}, "an argument or a variable contains NUL", id="NUL in shell"),
        pytest.param({"argv": ["true"], "env": {"A": "\0"}}, "an argument or a variable contains NUL", id="NUL in env"),
        pytest.param({"argv": ["echo", "x" * 3_000_000]}, "the arguments are too long for the system (30", id="3 MB"),
        pytest.param({"argv": ["true"], "env": {"A=B": "c"}}, "true could not be started: illegal", id="a bad name"),
    ],
)
async def test_failure_has_a_reason(bench: Bench, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ShellFailed) as raised:
        await bench.call("shell.run", **params)
    assert str(raised.value).startswith(message)
    assert str(raised.value) == message or not message.endswith(")")


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({}, id="neither"),
        pytest.param({"argv": ["true"], "shell": "true"}, id="both"),
        pytest.param({"argv": []}, id="empty argv"),
        pytest.param({"argv": "echo a"}, id="text as argv"),
        pytest.param({"argv": ["echo", None]}, id="null in argv"),
        pytest.param({"argv": ["true"], "env": {"AURA_CID": "x"}}, id="a mark in env"),
    ],
)
async def test_bad_parameters_are_refused(bench: Bench, params: dict[str, Any]) -> None:
    with pytest.raises(ParamsInvalid):
        await bench.call("shell.run", **params)


async def test_environment_has_the_marks_and_nothing_of_the_server(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AURA_TOKEN", "AURA_SECRET_SMTP", "AURA_DATA", "SOMETHING"):
        monkeypatch.setenv(name, "hidden")
    result = await bench.call("shell.run", argv=["env"])
    assert "hidden" not in result["stdout"]
    names = {line.partition("=")[0] for line in result["stdout"].splitlines()}
    assert {"PATH", "AURA_BOOT", "AURA_CID", "AURA_STEP", "AURA_ATTEMPT", "AURA_PROCESS"} <= names


async def test_command_that_was_not_found_may_be_ok(bench: Bench) -> None:
    result = await bench.call("shell.run", argv=["no-such"], ok_exit_codes=[127])
    assert (result["exit_code"], result["stderr"]) == (127, "no-such: command not found\n")


@pytest.mark.parametrize(
    ("cwd", "where"), [(None, "."), ("sub", "sub"), ("/", "/")], ids=["default", "below it", "absolute"]
)
async def test_working_folder_is_the_workdir_or_what_is_said(bench: Bench, cwd: str | None, where: str) -> None:
    (bench.workdir / "sub").mkdir()
    result = await bench.call("shell.run", argv=["pwd"], cwd=cwd)
    assert result["stdout"] == f"{(bench.workdir / where).resolve()}\n"


async def test_working_folder_may_not_lead_out(bench: Bench) -> None:
    with pytest.raises(PermissionError, match="leads out"):
        await bench.call("shell.run", argv=["pwd"], cwd="..")


async def test_output_is_in_the_log_line_by_line_while_the_command_runs(bench: Bench) -> None:
    async with anyio.create_task_group() as group:  # the command, which waits for us; ends with it
        shell = "echo a; echo b >&2; until [ -e go ]; do sleep 0.02; done"
        group.start_soon(lambda: bench.call("shell.run", shell=shell))
        await until(lambda: len(bench.log.lines) == 2)
        (bench.workdir / "go").touch()
    assert sorted(bench.log.lines) == [("info", "a"), ("warning", "b")]


@pytest.mark.parametrize(
    ("shell", "least"),
    [
        pytest.param("yes | head -c 100000000", 1000, id="yes"),
        pytest.param("seq 100000", 1000, id="1e5 tiny lines"),
        pytest.param("head -c 50000000 /dev/zero", 1, id="one line of 50 MB"),
        pytest.param("head -c 20000000 /dev/urandom", 1000, id="noise"),
        pytest.param("yes | head -c 20000000 >&2", 1000, id="on stderr"),
    ],
)
async def test_flood_is_drained_within_bounds(bench: Bench, shell: str, least: int) -> None:
    tracemalloc.start()
    result = await bench.call("shell.run", shell=shell)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result["exit_code"] == 0
    assert len(msgspec.json.encode(result)) <= MAX_OUTPUT
    assert "bytes dropped …" in result["stdout"] + result["stderr"] or len(result["stdout"]) == 588895
    assert least <= len(bench.log.lines) < 20_000
    assert peak < 32 * 1024 * 1024


async def test_flood_leaves_the_loop_free(bench: Bench) -> None:
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            began = time.perf_counter()
            await anyio.sleep(0.001)
            worst = max(worst, time.perf_counter() - began)

    async with anyio.create_task_group() as group:  # the watcher; ended by the cancel below
        group.start_soon(watch)
        await bench.call("shell.run", shell="yes | head -c 200000000")
        group.cancel_scope.cancel()
    assert worst < 0.25


@pytest.mark.parametrize("closes", [True, False], ids=["and closes it", "and keeps it open"])
async def test_daemon_that_is_left_behind_is_reported(bench: Bench, closes: bool) -> None:
    assert leftovers.become_subreaper()
    redirect = ">/dev/null 2>&1" if closes else ""
    daemon = f"(setsid sh -c 'echo > ready; sleep 100; true' {redirect} &)"
    result = await bench.call("shell.run", shell=f"{daemon}; until [ -e ready ]; do sleep 0.01; done")
    assert 2.0 * (not closes) <= result["duration_s"] < 2.0 * (not closes) + 1.5
    assert "left running in the background: sh" in bench.log.texts("warning")[0]
    cid = bench.host.process_environment["AURA_CID"]
    assert len(await leftovers.end_run_leftovers("teststore.1", cid)) == 2
    assert not running_of(cid)


async def test_stop_ends_the_whole_tree_within_the_grace(bench: Bench) -> None:
    bench.host.grace = 1.0
    cid = bench.host.process_environment["AURA_CID"]
    shell = "trap '' TERM; sleep 100 & setsid sleep 100 & echo > ready; sleep 100; sleep 100"
    async with anyio.create_task_group() as group:  # the command; ended by the cancel below
        group.start_soon(lambda: bench.call("shell.run", shell=shell))
        await until_file(bench.workdir / "ready")
        assert len(running_of(cid)) == 4
        began = time.monotonic()
        group.cancel_scope.cancel()
    assert time.monotonic() - began < 2
    assert not running_of(cid)
