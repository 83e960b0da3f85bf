"""``shell.run``: what it runs, what it refuses, how it names what went wrong, and its bounds."""

import math
import re
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

from aura.actions import MAX_OUTPUT
from aura.builtin import shipped
from aura.builtin.shell import STDOUT_ENDS, STDOUT_KEPT
from aura.errors import ParamsInvalid, ShellFailed
from aura.processes import leftovers


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
        pytest.param({"argv": ["no-such"]}, "no-such: command not found (exit code 127): .* PATH", id="not in PATH"),
        pytest.param({"argv": ["./x"]}, "./x: command not found (exit code 127): there is no such", id="no file"),
        pytest.param(
            {"argv": ["/etc/passwd/x"]}, "/etc/passwd/x: command not found (exit code 127): .*", id="no folder"
        ),
        pytest.param({"argv": ["a" * 300]}, "a{200} could not be started: File name too", id="a long name"),
        pytest.param({"argv": ["/etc/passwd"]}, "/etc/passwd: not executable (exit code 126): .* chmod", id="no x"),
        pytest.param({"argv": ["/etc"]}, "/etc: not executable (exit code 126): it is a folder", id="a folder"),
        pytest.param({"argv": ["./bad"]}, "./bad: bad interpreter (exit code 127): .*/bad .* by /no/such", id="bad #!"),
        pytest.param({"argv": ["./text"]}, "./text: not executable (exit code 126): it has no #! line", id="no #!"),
        pytest.param({"argv": ["./loop"]}, "./loop: not executable (exit code 126): .* circle", id="a circle of links"),
        pytest.param({"argv": ["./text"], "env": {"PATH": "/no"}}, "./text: not executable", id="no PATH is needed"),
        pytest.param({"argv": ["true"], "env": {"PATH": "/no"}}, "true: .* PATH, which is /no", id="another PATH"),
        pytest.param({"shell": "no-such 2>&-"}, "/bin/sh: exit code 127", id="by a shell"),
        pytest.param({"shell": "kill -9 $$"}, "/bin/sh: killed by signal SIGKILL, .* out of memory", id="SIGKILL"),
        pytest.param({"shell": "kill -TERM $$"}, "/bin/sh: killed by signal SIGTERM (exit code 143)", id="SIGTERM"),
        pytest.param({"shell": "exit 137"}, "/bin/sh: exit code 137, as a shell has for signal SIGKILL", id="137"),
        pytest.param({"shell": "exit 255"}, "/bin/sh: exit code 255", id="exit code"),
        pytest.param({"shell": "seq 9 >&2; exit 1"}, "/bin/sh: exit code 1: 5\n6\n7\n8\n9", id="its last words"),
        pytest.param({"argv": ["true"], "ok_exit_codes": [1]}, "true: exit code 0", id="0 is not ok"),
        pytest.param({"argv": ["true"], "cwd": "none"}, "the working folder .*/none does not exist; make", id="no cwd"),
        pytest.param({"argv": ["true"], "cwd": "text"}, "the working folder .*/text is no folder; give", id="a file"),
        pytest.param({"argv": ["echo", "x" * 3_000_000]}, ".* too long .* (3.* bytes); use stdin", id="3 MB"),
        pytest.param({"argv": ["true"], "env": {"A": "x" * 3_000_000}}, ".* variables are too long", id="3 MB of env"),
    ],
)
async def test_failure_has_a_reason(bench: Bench, params: dict[str, Any], message: str) -> None:
    (bench.workdir / "bad").write_text("#!/no/such\n")
    (bench.workdir / "text").write_text("some text\n")
    for name in ("bad", "text"):
        (bench.workdir / name).chmod(0o755)
    (bench.workdir / "loop").symlink_to("loop")
    with pytest.raises(ShellFailed) as raised:
        await bench.call("shell.run", **params)
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    assert re.match(pattern + ("$" if message[-1] in ")0123456789" else ""), str(raised.value)), raised.value
    assert str(raised.value).count("command not found") <= 1


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        pytest.param({}, ParamsInvalid, "either argv .* or shell", id="neither"),
        pytest.param({"argv": ["a"], "shell": "a"}, ParamsInvalid, "either argv .* and not both", id="both"),
        pytest.param({"argv": []}, ParamsInvalid, "argv is empty: its first item is the program", id="empty argv"),
        pytest.param({"argv": [""]}, ParamsInvalid, r"argv\[0\] is empty: it is the program", id="no program"),
        pytest.param({"argv": ["a", "b\0"]}, ParamsInvalid, r"argv\[1\] has a NUL .* use stdin", id="NUL in argv"),
        pytest.param({"argv": ["a", "\ud800"]}, ParamsInvalid, r"argv\[1\] has half a character", id="half in argv"),
        pytest.param({"argv": ["a", math.nan]}, ParamsInvalid, r"argv\[1\] is nan", id="not a number"),
        pytest.param({"argv": ["a", -math.inf]}, ParamsInvalid, r"argv\[1\] is -inf", id="infinite"),
        pytest.param({"argv": "echo a"}, ParamsInvalid, "argv", id="text as argv"),
        pytest.param({"argv": ["a", None]}, ParamsInvalid, r"argv", id="null in argv"),
        pytest.param({"argv": ["a", ["b"]]}, ParamsInvalid, r"argv", id="a list in argv"),
        pytest.param({"shell": " \n"}, ParamsInvalid, "shell is empty: there is nothing to run", id="empty shell"),
        pytest.param({"shell": "echo \0"}, ParamsInvalid, "shell has a NUL", id="NUL in shell"),
        pytest.param({"shell": ["a"]}, ParamsInvalid, "shell", id="a list as shell"),
        pytest.param({"argv": ["a"], "env": {"A": "\0"}}, ParamsInvalid, "env: A has a NUL", id="NUL in env"),
        pytest.param({"argv": ["a"], "env": {"A": "\udfff"}}, ParamsInvalid, "env: A has half", id="half in env"),
        pytest.param({"argv": ["a"], "env": {"A": None}}, ParamsInvalid, "env", id="null in env"),
        pytest.param({"argv": ["a"], "env": {"A=B": "c"}}, ParamsInvalid, "'A=B' cannot be the name", id="= in a name"),
        pytest.param({"argv": ["a"], "env": {"": "c"}}, ParamsInvalid, "'' cannot be the name", id="no name"),
        pytest.param({"argv": ["a"], "env": {"\ud800": "c"}}, ParamsInvalid, "name .* has half", id="half a name"),
        pytest.param({"argv": ["a"], "env": {"AURA_CID": "x"}}, ParamsInvalid, "env may not set AURA_CID", id="a mark"),
        pytest.param({"argv": ["a"], "env": ["A=1"]}, ParamsInvalid, "env", id="a list as env"),
        pytest.param({"argv": ["a"], "cwd": ".."}, PermissionError, "leads out of the run's workdir", id="cwd out"),
        pytest.param({"argv": ["a"], "cwd": "out"}, PermissionError, "leads out of the run's workdir", id="by a link"),
        pytest.param({"argv": ["a"], "cwd": "\0"}, ValueError, "NUL", id="NUL in cwd"),
        pytest.param({"argv": ["a"], "cwd": "x" * 5000}, ShellFailed, "x cannot be used: File", id="a long cwd"),
        pytest.param({"argv": ["a"], "stdin": "\ud800"}, ParamsInvalid, "stdin has half .* at 0", id="stdin"),
        pytest.param({"argv": ["a"], "stdin": 5}, ParamsInvalid, "stdin", id="a number as stdin"),
        pytest.param({"argv": ["a"], "ok_exit_codes": []}, ParamsInvalid, "is empty: no exit code", id="no code"),
        pytest.param({"argv": ["a"], "ok_exit_codes": [-9]}, ParamsInvalid, "has -9; .* 128 \\+ n", id="code below"),
        pytest.param({"argv": ["a"], "ok_exit_codes": [256]}, ParamsInvalid, "has 256; .* 0 to 255", id="code above"),
        pytest.param({"argv": ["a"], "ok_exit_codes": ["0"]}, ParamsInvalid, "ok_exit_codes", id="text as a code"),
        pytest.param({"argv": ["a"], "ok_exit_codes": 0}, ParamsInvalid, "ok_exit_codes", id="no list"),
        pytest.param({"argv": ["a"], "timeout": 5}, ParamsInvalid, "timeout", id="what it does not have"),
    ],
)
async def test_bad_parameters_are_refused(
    bench: Bench, params: dict[str, Any], error: type[Exception], message: str
) -> None:
    (bench.workdir / "out").symlink_to("/")
    with pytest.raises(error, match=message):
        await bench.call("shell.run", **params)
    assert not bench.log.lines


async def test_message_of_a_failure_shows_no_argument(bench: Bench) -> None:
    with pytest.raises(ShellFailed) as raised:
        await bench.call("shell.run", argv=["sh", "-c", "exit 3", "hush"])
    assert str(raised.value) == "sh: exit code 3"


async def test_last_words_are_shown_and_bounded(bench: Bench) -> None:
    with pytest.raises(ShellFailed) as raised:
        await bench.call("shell.run", shell="printf '\\033[1m%01000d' 0 >&2; exit 1")
    assert str(raised.value) == "/bin/sh: exit code 1: \\x1b[1m" + "0" * 493 + " … 507 bytes dropped …"


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
    assert "bytes dropped …" in result["stdout"] + result["stderr"]
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


@pytest.mark.parametrize(
    ("shell", "ending"),
    [
        pytest.param("sleep 100", "killed by signal SIGTERM (exit code 143)", id="at TERM"),
        pytest.param("trap 'printf bye; exit 0' TERM; while :; do sleep 0.01; done", "exit code 0", id="by itself"),
        pytest.param(
            "trap '' TERM; while :; do sleep 0.01; done", "killed by signal SIGKILL (exit code 137)", id="KILL"
        ),
    ],
)
async def test_stop_is_told_with_its_reason_and_the_last_words(bench: Bench, shell: str, ending: str) -> None:
    bench.host.grace = 0.5
    async with anyio.create_task_group() as group:  # the command; ended by the cancel below
        group.start_soon(lambda: bench.call("shell.run", shell=f"printf 'no end '; echo >ready; {shell}"))
        await until_file(bench.workdir / "ready")
        bench.host.stopping_because = "timeout"
        group.cancel_scope.cancel()
    assert bench.log.texts("info") == ["no end " + "bye" * ("bye" in shell)]
    said = f"/bin/sh was ended, with all that it had started (timeout): {ending}"
    assert bench.log.texts("warning")[-1] == said  # a shell may say itself what became of its children


async def test_secret_in_the_output_is_hidden_in_the_log_and_kept_for_the_next_step(bench: Bench) -> None:
    bench.host.redactor.learn("p/key", "line one\nline two")
    result = await bench.call("shell.run", argv=["printf", "%b", "a line one\\nline two b"])
    assert bench.log.lines == [("info", "a *** b")]
    assert result["stdout"] == "a line one\nline two b"


async def test_output_in_the_result_is_as_it_was(bench: Bench) -> None:
    result = await bench.call("shell.run", argv=["printf", "\\033[1m\\000\\r10%%\\r20%%\\377"])
    assert result["stdout"] == "\x1b[1m\0\r10%\r20%\ufffd"
    assert bench.log.texts("info") == ["\\x1b[1m\\x00", "10%", "20%\ufffd"]


@pytest.mark.parametrize(
    ("size", "kept"), [(STDOUT_KEPT, STDOUT_KEPT), (STDOUT_KEPT + 1, 2 * STDOUT_ENDS)], ids=["whole", "its ends"]
)
async def test_long_output_is_kept_whole_or_its_two_ends(bench: Bench, size: int, kept: int) -> None:
    result = await bench.call("shell.run", shell=f"head -c {size} /dev/zero | tr '\\0' x")
    assert result["stdout"].count("x") == kept
    assert ("bytes dropped" in result["stdout"]) == (kept < size)


async def test_result_fits_into_an_output_however_much_has_to_be_escaped(bench: Bench) -> None:
    result = await bench.call("shell.run", shell=f"head -c {STDOUT_KEPT} /dev/zero; head -c 60000 /dev/zero >&2")
    assert len(msgspec.json.encode(result)) <= MAX_OUTPUT
    assert result["stdout"].count("\0") == STDOUT_ENDS
