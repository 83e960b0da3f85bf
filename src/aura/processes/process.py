"""Child processes of actions: started in a group of their own, drained, and gone when their owner is stopped.

``open_process`` is the only way in. It owns one process from its start to its reaping; ``pipes`` reads what it says,
``leftovers`` finds what got away from it. What the process means is the caller's business.

Theory of operation
    Start. Always on the event loop's thread, in a new session and so a new group, with an environment made from an
    allow-list: nothing of the server's own (its settings, its token, its secrets) is inherited. When memory runs out
    the kernel is to take it before the server.

    End by itself. The process is not reaped while its owner may still signal it: as a zombie it holds its number, so
    that ``killpg`` cannot hit a stranger's group. If plan code has reaped it, only its mark counts. Whoever keeps its
    pipes open after that is waited for 2 s.

    Stop. TERM to the group, and patience: until five seconds, or half of what the stop leaves, are over, which a second
    stop may bring nearer; what has left the group but not the session, or carries the mark of this process, is found
    and told too. Then KILL to all of it. This happens in a shield, for the owner is being cancelled; each wait in it
    has a bound, 9 s in all.
    What even KILL does not end hangs in the kernel; it is reported as an error and left alone.
"""

import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.lowlevel

from aura.errors import ParamsInvalid, ProcessNotEnded
from aura.processes import leftovers
from aura.processes.pipes import Pipe, Sink

#: What a child process inherits from the server's environment; ``LC_*`` as well.
INHERITED = frozenset({"PATH", "HOME", "LANG", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR"})
#: Only Aura sets these for a child: they are how it is found and ended.
RESERVED = frozenset({leftovers.BOOT, leftovers.CID, leftovers.PROCESS, "AURA_STEP", "AURA_ATTEMPT"})
#: How long a pipe that somebody keeps open is read after the process has ended, in seconds.
PIPE_GRACE = 2.0
#: The longest that a process may take to end after TERM, in seconds.
MAX_PATIENCE = 5.0
#: How often a stop looks whether it leaves less time than it did, in seconds.
LOOK_EVERY = 0.05
#: How many child processes there are at most at a time; a start waits for its turn.
MAX_PROCESSES = 200
#: How ready the kernel is to kill a child, rather than this server, when there is no memory left (``proc(5)``).
OOM_SCORE = 500
#: How long to wait before the next try when the system has no process to give, in seconds.
FORK_PAUSES = (0.05, 0.2, 0.8)

_places: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("aura.processes.process.places")
#: Processes that even KILL did not end; they are reaped when the kernel lets go of them.
_hanging: list[subprocess.Popen[bytes]] = []


def child_environment(marks: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Make the environment of a child: what the allow-list lets through, then ``extra``, then ``marks``.

    Raises:
        ParamsInvalid: ``extra`` names a variable by which Aura finds its processes.
    """
    for name in sorted(RESERVED & extra.keys()):
        raise ParamsInvalid(f"env may not set {name}: it is how Aura finds and ends the processes of a run")
    kept = {name: value for name, value in os.environ.items() if name in INHERITED or name.startswith("LC_")}
    return {"PATH": os.defpath} | kept | dict(extra) | dict(marks)


class ChildProcess:
    """A running child. Made by ``open_process`` alone."""

    def __init__(self, popen: subprocess.Popen[bytes], pipes: Sequence[Pipe], mark: str) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._pipes = pipes
        self._mark = mark
        leftovers.awaited.add(self.pid)

    @property
    def returncode(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, or None while it runs."""
        if self._popen.returncode is not None:
            return self._popen.returncode
        try:  # WNOWAIT leaves the zombie where it is: see the theory of operation
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # plan code has waited for all children, whosever they are
            return self._popen.poll()
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    async def wait(self) -> int:
        """Wait until it has ended and its output has been read, and give its return code.

        Output that others keep open is read for 2 s more. An error that a sink raised is raised here.
        """
        returncode = await self._wait_exited()
        with anyio.move_on_after(PIPE_GRACE):
            await self._wait_drained()
        for pipe in self._pipes:
            if pipe.error is not None:
                raise pipe.error
        return returncode

    def left_running(self) -> list[leftovers.Seen]:
        """Give what it started and left behind, now children of this server. Nothing, if that is no subreaper."""
        return [seen for seen in leftovers.adopted() if self._is_ours(seen)]

    async def _wait_exited(self) -> int:
        if (returncode := self.returncode) is not None:
            return returncode
        with _pidfd(self.pid) as handle:
            while (returncode := self.returncode) is None:
                if handle is None:
                    await anyio.sleep(0.02)
                else:
                    await anyio.wait_readable(handle)
        return returncode

    async def _wait_drained(self) -> None:
        for pipe in self._pipes:
            await pipe.ended.wait()

    async def _end(self, grace_left: Callable[[], float]) -> None:
        """End it and all that it started, as the theory of operation says."""
        patience = _half_of(grace_left)
        # The shield cannot hang: `end_processes` has a bound of its own, and so have all waits here.
        with anyio.CancelScope(shield=True):
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a stopped process would not hear it
            while self.returncode is None and (more := patience()) > 0:
                with anyio.move_on_after(min(more, LOOK_EVERY)):  # the patience may get shorter meanwhile
                    await self._wait_exited()
            left = (await leftovers.end_processes(self._is_ours, patience))[1]
            with anyio.move_on_after(0.1):
                await self._wait_drained()  # its last words
        if left:
            raise ProcessNotEnded(f"processes {left} are still there after SIGKILL: they hang in the kernel")

    def _is_ours(self, seen: leftovers.Seen) -> bool:
        by_number = self._has_number and self.pid in (seen.pid, seen.group, seen.session)
        return by_number or seen.marks.get(leftovers.PROCESS) == self._mark

    @property
    def _has_number(self) -> bool:
        """Whether nobody has reaped it, so that its number cannot be another's."""
        return self.returncode is None or self._popen.returncode is None

    def _signal(self, number: signal.Signals) -> None:
        if self._has_number:
            with suppress(ProcessLookupError, PermissionError):  # nobody is left who could hear it
                os.killpg(self.pid, number)

    def _close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        leftovers.awaited.discard(self.pid)
        if self._popen.poll() is None:
            _hanging.append(self._popen)
        leftovers.reap_adopted()


@asynccontextmanager
async def open_process(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    on_stdout: Sink,
    on_stderr: Sink,
    stdin: bytes | None = None,
    grace_left: Callable[[], float] = lambda: math.inf,
    handles: Sequence[int] = (),
) -> AsyncIterator[ChildProcess]:
    """Start a process and have it for the length of the block.

    Both sinks are called on the event loop with what arrives, 64 KiB at most. Without ``stdin`` it reads nothing.
    ``grace_left`` gives the seconds that a stop leaves for clean-up. The process has umask 077, and of our open files
    its output and ``handles`` alone.

    A block that ends while the process runs, or by an error or a cancellation, ends the process and all that it
    started. After a block that has seen its end, what it left running goes on; ``leftovers.end_run_leftovers`` ends it.

    Raises:
        OSError: it could not be started, as the system says (not found, not executable, arguments too long).
        ValueError: an argument or a variable contains NUL.
        ProcessNotEnded: it was to be stopped and is still there after KILL.
    """
    async with _place():
        child = await _start(argv, environment, cwd, stdin, (on_stdout, on_stderr), handles)
        ended_by_itself = False
        try:
            yield child
            ended_by_itself = child.returncode is not None
        finally:
            try:
                if not ended_by_itself:
                    await child._end(grace_left)
            finally:
                child._close()


def _half_of(grace_left: Callable[[], float]) -> leftovers.Patience:
    """Half of what a stop leaves from now on, at most ``MAX_PATIENCE``; less as soon as the stop leaves less."""
    began = anyio.current_time()

    def left() -> float:
        now = anyio.current_time()
        half = (now + grace_left() - began) / 2
        return began + min(MAX_PATIENCE, half) - now

    return left


@asynccontextmanager
async def _place() -> AsyncIterator[None]:
    places = _places.get(None)
    if places is None:
        places = anyio.CapacityLimiter(MAX_PROCESSES)
        _places.set(places)
    borrower = object()  # not the task: one action may have several processes
    await places.acquire_on_behalf_of(borrower)
    try:
        yield
    finally:
        places.release_on_behalf_of(borrower)


async def _start(
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path,
    stdin: bytes | None,
    sinks: Sequence[Sink],
    handles: Sequence[int],
) -> ChildProcess:
    _hanging[:] = [popen for popen in _hanging if popen.poll() is None]
    mark = secrets.token_hex(8)
    marked = dict(environment) | {leftovers.PROCESS: mark}
    for pause in FORK_PAUSES:
        try:
            return _start_now(argv, marked, cwd, stdin, sinks, handles, mark)
        except BlockingIOError:  # EAGAIN: the system has no process to give at the moment
            await anyio.sleep(pause)
    return _start_now(argv, marked, cwd, stdin, sinks, handles, mark)


def _start_now(
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path,
    stdin: bytes | None,
    sinks: Sequence[Sink],
    handles: Sequence[int],
    mark: str,
) -> ChildProcess:
    with ExitStack() as undo, _stdin_file(stdin) as source:
        pipes = []
        for sink in sinks:
            pipes.append(Pipe(sink))
            undo.callback(pipes[-1].close)
        popen = subprocess.Popen(
            argv,
            stdin=source,
            stdout=pipes[0].write_end,
            stderr=pipes[1].write_end,
            cwd=cwd,
            env=environment,
            start_new_session=True,
            umask=0o077,
            pass_fds=handles,
        )
        undo.pop_all()
    _offer_to_oom_killer(popen.pid)
    for pipe in pipes:
        pipe.start()
    return ChildProcess(popen, pipes, mark)


def _offer_to_oom_killer(pid: int) -> None:
    """Have a child die before the server when memory runs out, and all that it has started already or will start."""
    with suppress(OSError):  # no such file on this system, it has ended already, or it runs as somebody else
        ours = int(Path("/proc/self/oom_score_adj").read_bytes())
        Path(f"/proc/{pid}/oom_score_adj").write_bytes(b"%d" % max(OOM_SCORE, ours))
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split():
            _offer_to_oom_killer(int(child))


@contextmanager
def _stdin_file(content: bytes | None) -> Iterator[BinaryIO | int]:
    """What the child reads: a file in memory, so that nobody has to feed it and no reader can block a writer."""
    if content is None:
        yield subprocess.DEVNULL
        return
    with open(os.memfd_create("stdin"), "w+b") if sys.platform == "linux" else tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file


@contextmanager
def _pidfd(pid: int) -> Iterator[int | None]:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        yield None  # this system has none, or none left: its end is then looked for now and then
        return
    try:
        yield handle
    finally:
        os.close(handle)
