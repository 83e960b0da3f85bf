"""Child processes: what they inherit, how they end, and that a stop leaves nothing of them."""

import asyncio
import errno
import gc
import os
import secrets
import subprocess
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from tests.fakes.children import dead_children, has_ended, running_in, running_of, until, until_file

from aura import config
from aura.errors import ParamsInvalid, ProcessNotEnded
from aura.processes import leftovers
from aura.processes import process as processes
from aura.processes.process import ChildProcess, child_environment, open_process


class Started:
    """Commands of one run, and what they said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cid = secrets.token_hex(8)
        self.out = bytearray()
        self.err = bytearray()
        self.grace = 60.0
        #: When the grace of a stop is over; set when it is first asked for.
        self.deadline: float | None = None

    def grace_left(self) -> float:
        if self.deadline is None:
            self.deadline = anyio.current_time() + self.grace
        return max(0.0, self.deadline - anyio.current_time())

    @asynccontextmanager
    async def open(self, *argv: str, stdin: bytes | None = None) -> AsyncIterator[ChildProcess]:
        async with open_process(
            argv,
            environment=child_environment({leftovers.CID: self.cid}, {}),
            cwd=self.folder,
            on_stdout=self.out.extend,
            on_stderr=self.err.extend,
            stdin=stdin,
            grace_left=self.grace_left,
        ) as child:
            yield child

    async def run(self, *argv: str, stdin: bytes | None = None) -> int:
        async with self.open(*argv, stdin=stdin) as child:
            return await child.wait()

    async def stop_when_ready(self, shell: str) -> float:
        """Run a text that writes the file `ready`, stop it then, and say how long that took."""
        async with anyio.create_task_group() as group:  # the command alone; ended by the cancel below
            group.start_soon(self.run, "sh", "-c", shell)
            await until_file(self.folder / "ready")
            began = time.monotonic()
            group.cancel_scope.cancel()
        return time.monotonic() - began


@pytest.fixture
def started(tmp_path: Path) -> Started:
    return Started(tmp_path)


@pytest.mark.parametrize(
    ("argv", "returncode"),
    [
        pytest.param(["true"], 0, id="succeeds"),
        pytest.param(["sh", "-c", "exit 255"], 255, id="fails"),
        pytest.param(["sh", "-c", "kill -9 $$"], -9, id="killed"),
        pytest.param(["sh", "-c", "exec >&- 2>&-; sleep 0.1; exit 3"], 3, id="closes its output early"),
    ],
)
async def test_process_ends_by_itself(started: Started, argv: list[str], returncode: int) -> None:
    assert await started.run(*argv) == returncode


async def test_process_has_a_group_a_session_and_a_umask_of_its_own(started: Started) -> None:
    async with started.open("sh", "-c", "umask; cat") as child:
        assert (os.getpgid(child.pid), os.getsid(child.pid)) == (child.pid, child.pid)
        await child.wait()
    assert started.out == b"0077\n"


async def test_process_and_what_it_starts_are_killed_before_the_server_when_memory_runs_out(started: Started) -> None:
    late = "until [ -e go ]; do sleep 0.01; done; cat /proc/self/oom_score_adj"
    async with started.open("sh", "-c", f"sleep 100 & echo $! > early; {late}; kill $!") as child:
        early = await until_file(started.folder / "early")
        for pid in (child.pid, int(early)):
            assert Path(f"/proc/{pid}/oom_score_adj").read_bytes() == b"500\n"
        (started.folder / "go").touch()
        await child.wait()
    assert started.out == b"500\n"
    assert int(Path("/proc/self/oom_score_adj").read_bytes()) < 500


async def test_stdin_is_read_to_its_end_or_is_empty(started: Started) -> None:
    text = b"x" * 1_000_000
    await started.run("cat", stdin=text)
    assert started.out == text
    await started.run("cat")
    assert started.out == text


def test_environment_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AURA_TOKEN", "AURA_SECRET_X", "AURA_DATA", "AURA_BOOT", "LD_PRELOAD", "LC_TIME", "TZ"):
        monkeypatch.setenv(name, "of the server")
    made = child_environment({"AURA_CID": "c"}, {"MINE": "1", "TZ": "UTC", "AURA_TOKEN": "given"})
    assert set(made) <= processes.INHERITED | {"LC_TIME", "AURA_CID", "MINE", "AURA_TOKEN", "LC_ALL", "LC_CTYPE"}
    assert (made["TZ"], made["MINE"], made["AURA_CID"], made["AURA_TOKEN"]) == ("UTC", "1", "c", "given")
    assert made["LC_TIME"] == "of the server"


@pytest.mark.parametrize("name", sorted(processes.RESERVED))
def test_marks_cannot_be_set(name: str) -> None:
    with pytest.raises(ParamsInvalid, match=name):
        child_environment({}, {name: "x"})


def test_marks_are_no_settings_so_that_a_command_may_call_aura() -> None:
    assert processes.RESERVED <= config.NO_SETTINGS


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        pytest.param(["no-such-command"], FileNotFoundError, id="not found"),
        pytest.param(["/etc/passwd"], PermissionError, id="not executable"),
        pytest.param(["echo", "a\0b"], ValueError, id="NUL"),
        pytest.param(["echo", "x" * 3_000_000], OSError, id="too long"),
    ],
)
async def test_process_that_cannot_start_leaves_no_descriptor(
    started: Started, argv: list[str], error: type[Exception]
) -> None:
    await started.run("true")  # what asyncio opens once is open now
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error):
        await started.run(*argv)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_start_is_tried_again_while_the_system_has_no_process(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter([1, 1])
    real = subprocess.Popen

    def popen(*args: object, **options: object) -> object:
        if next(refusals, None):
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(*args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(processes, "FORK_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(subprocess, "Popen", popen)
    assert await started.run("true") == 0


async def test_number_of_processes_is_bounded(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_PROCESSES", 3)
    most = 0

    async def one() -> None:
        nonlocal most
        async with started.open("sleep", "0.02") as child:
            most = max(most, len(running_of(started.cid)))
            await child.wait()

    async with anyio.create_task_group() as group:  # a dozen commands; ends with the last
        for _ in range(12):
            group.start_soon(one)
    assert 1 <= most <= 3


@pytest.mark.parametrize(
    "shell",
    [
        pytest.param("echo > ready; sleep 100; true", id="a child of a shell"),
        pytest.param("sleep 100 & sleep 100 & echo > ready; wait", id="children in the background"),
        pytest.param("setsid sleep 100 & echo > ready; sleep 100; true", id="one that left the session"),
        pytest.param("(setsid sh -c 'sleep 100 & sleep 100' &); echo > ready; sleep 100; true", id="daemons"),
        pytest.param("env -i sleep 100 & echo > ready; wait", id="one that emptied its environment"),
        pytest.param("echo > ready; kill -STOP $$", id="a stopped one"),
        pytest.param("exec >&- 2>&- <&-; echo > ready; sleep 100; true", id="one that closed its pipes"),
        pytest.param(
            "(sh -c 'setsid sh -c \"setsid sleep 100 & echo > ready\" & exit' &) ; sleep 100; true",
            id="one whose parents have all ended",
        ),
        pytest.param("yes & echo > ready; wait", id="one that floods"),
        pytest.param("env -i sh -c \"trap '' TERM; echo > ready; sleep 9; sleep 9\" & wait", id="bare and stubborn"),
        pytest.param("sleep 100 & echo > ready; exec sleep 0.0", id="one that has ended, with a child that has not"),
    ],
)
async def test_stop_ends_all_of_it_quickly(started: Started, shell: str) -> None:
    started.grace = 1.0
    assert await started.stop_when_ready(shell) < 2
    assert not running_in(started.folder)


async def test_stop_waits_for_a_clean_up_and_its_last_words(started: Started) -> None:
    loud = "head -c 300000 /dev/zero; echo cleaned; exit"  # more than a pipe holds
    await started.stop_when_ready(f"trap '{loud}' TERM; echo > ready; while :; do sleep 0.02; done")
    assert started.out.endswith(b"cleaned\n")


async def test_stop_waits_for_the_clean_up_of_those_that_the_first_started(started: Started) -> None:
    inner = "trap 'sleep 0.3; echo > cleaned; exit' TERM; echo > ready; while :; do sleep 0.02; done"
    await started.stop_when_ready(f'sh -c "{inner}" & wait')
    assert (started.folder / "cleaned").exists()


async def test_stop_wakes_what_has_left_the_session_and_is_stopped(started: Started) -> None:
    inner = "trap 'echo > cleaned; exit' TERM; echo > ready; kill -STOP $$; sleep 100"
    await started.stop_when_ready(f'setsid sh -c "{inner.replace("$", chr(92) + "$")}" & wait')
    assert (started.folder / "cleaned").exists()


@pytest.mark.parametrize(
    ("grace", "least", "most"),
    [pytest.param(0.0, 0.0, 1.0, id="none left"), pytest.param(1.0, 0.5, 2.0, id="half of what is left")],
)
async def test_stop_kills_what_ignores_term(started: Started, grace: float, least: float, most: float) -> None:
    started.grace = grace
    took = await started.stop_when_ready("trap '' TERM; setsid sleep 100 & echo > ready; sleep 100; sleep 100")
    assert least <= took < most
    assert not running_of(started.cid)


async def test_block_that_fails_or_does_not_wait_ends_the_process(started: Started) -> None:
    async with started.open("sleep", "100"):
        pass
    with pytest.raises(ZeroDivisionError):
        async with started.open("sleep", "100"):
            _ = 1 / 0
    assert not running_of(started.cid)


async def test_process_that_hangs_in_the_kernel_is_reported(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "KILL_WAIT", 0.05)
    monkeypatch.setattr(leftovers, "send", lambda seen, number: True)
    monkeypatch.setattr(os, "killpg", lambda group, number: None)
    started.grace = 0.0
    child: ChildProcess | None = None
    with pytest.raises(ProcessNotEnded, match="hang in the kernel"):
        async with started.open("sleep", "0.5") as child:
            pass
    assert child is not None
    pid = child.pid
    await until(lambda: has_ended(pid))
    await started.run("true")
    assert not [seen for seen in dead_children() if seen.pid == pid]


async def test_output_that_is_kept_open_is_read_for_two_seconds(started: Started) -> None:
    began = time.monotonic()
    await started.run("sh", "-c", "(sleep 0.3; echo late; sleep 100) & echo early")
    assert 1.9 < time.monotonic() - began < 4
    assert started.out == b"early\nlate\n"
    assert await leftovers.end_run_leftovers("", started.cid) == []  # another boot's
    await leftovers.end_processes(lambda seen: seen.marks.get(leftovers.CID) == started.cid, lambda: 0.0)
    assert not running_of(started.cid)


async def test_patience_gets_shorter_when_the_stop_leaves_less_time(started: Started) -> None:
    """A second stop: what is deaf to TERM must be gone within what that one leaves."""
    deaf = "trap '' TERM; echo > ready; while :; do sleep 1; done"
    async with anyio.create_task_group() as group:  # the command, stopped below, and what brings its end nearer

        async def hurry() -> None:
            await until(lambda: started.deadline)  # the stop has begun
            started.deadline = anyio.current_time() + 0.2

        group.start_soon(hurry)
        assert await started.stop_when_ready(deaf) < 1.5
    assert not running_of(started.cid)


async def test_error_of_a_sink_is_raised_and_the_process_is_not_blocked(started: Started) -> None:
    def sink(chunk: bytes) -> None:
        raise LookupError("nowhere to put it")

    with pytest.raises(LookupError):
        async with open_process(
            ["head", "-c", "1000000", "/dev/zero"],
            environment={},
            cwd=started.folder,
            on_stdout=sink,
            on_stderr=sink,
        ) as child:
            await child.wait()


@pytest.mark.parametrize("handle", ["with a pidfd", "without"])
async def test_nothing_stays_open(started: Started, monkeypatch: pytest.MonkeyPatch, handle: str) -> None:
    await started.run("true")
    if handle == "without":

        def pidfd_open(pid: int, flags: int = 0) -> int:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    before = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings(action="error"):
        for _ in range(20):
            assert await started.run("sh", "-c", "echo a; echo b >&2; exit 4") == 4
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not leftovers.awaited


async def test_status_that_plan_code_took_away_is_not_waited_for(started: Started) -> None:
    async with started.open("sh", "-c", "exit 3") as child:
        await until(lambda: has_ended(child.pid))
        os.waitpid(child.pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
        with anyio.fail_after(5):
            assert await child.wait() == 0


async def test_number_that_plan_code_gave_away_is_not_signalled(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled: list[object] = []
    monkeypatch.setattr(os, "killpg", lambda *args: signalled.append(args))
    monkeypatch.setattr(leftovers, "send", lambda *args: signalled.append(args))

    async def fails_when_it_is_reaped() -> None:
        async with started.open("true") as child:
            await until(lambda: has_ended(child.pid))
            os.waitpid(child.pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
            stranger = leftovers.Seen(child.pid, "stranger", False, 1, child.pid, child.pid, 1)
            monkeypatch.setattr(leftovers, "look_at_all", lambda: [stranger])
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        await fails_when_it_is_reaped()
    assert not signalled


async def test_child_of_asyncio_keeps_its_status(started: Started) -> None:
    other = await asyncio.create_subprocess_exec("sh", "-c", "exit 9", start_new_session=True)
    for _ in range(3):
        await started.run("true")
    assert await other.wait() == 9
