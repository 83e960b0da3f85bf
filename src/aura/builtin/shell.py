"""The shipped action ``shell.run``: a command, its output in the log while it runs, and its end as a result.

``processes`` starts and ends the command, ``loglines`` brings what it says to the log, ``commands`` makes it of what
the step says. Here it is run, what it said is kept for the result, and its end gets a name.
"""

from contextlib import suppress

import anyio
import msgspec

from aura.actions import MAX_OUTPUT, action
from aura.builtin.commands import Command, Word, check_exit_codes, command_of, ending_of, why_unstarted
from aura.context import Context
from aura.errors import ContextClosed, ShellFailed
from aura.events import printable
from aura.processes.loglines import OutputLog
from aura.processes.pipes import Kept
from aura.processes.process import ChildProcess, open_process

KIB = 1024
#: How much of the output is kept for the result as a whole, and of the two ends of a longer one, in bytes.
STDOUT_KEPT, STDOUT_ENDS = 256 * KIB, 64 * KIB
STDERR_KEPT, STDERR_ENDS = 64 * KIB, 16 * KIB
#: How much of stderr a failure says: lines, and characters of one.
LAST_LINES, LAST_LINE = 5, 500


class ShellResult(msgspec.Struct, frozen=True):
    """What a command did. Of long output the middle is left out, with a marker that says how much."""

    exit_code: int
    stdout: str
    stderr: str
    duration_s: float


class _Output:
    """What a command says: kept for the result, and on its way into the log."""

    def __init__(self, ctx: Context) -> None:
        self._log = OutputLog(ctx)
        self.out = Kept(STDOUT_KEPT, STDOUT_ENDS)
        self.err = Kept(STDERR_KEPT, STDERR_ENDS)
        self.finish = self._log.finish

    def feed_stdout(self, chunk: bytes) -> None:
        self.out.feed(chunk)
        self._log.stdout.feed(chunk)

    def feed_stderr(self, chunk: bytes) -> None:
        self.err.feed(chunk)
        self._log.stderr.feed(chunk)


class _Ended(msgspec.Struct, frozen=True):
    """The end of a command: a shell's exit code, what it was in words, and whether the command began at all."""

    exit_code: int
    words: str
    began: bool = True


@action(name="shell.run")
async def run(
    ctx: Context,
    argv: list[Word] | None = None,
    shell: str | None = None,
    env: dict[str, Word] = {},  # noqa: B006 - an action's default is copied
    cwd: str | None = None,
    stdin: str | None = None,
    ok_exit_codes: list[int] = [0],  # noqa: B006 - an action's default is copied
) -> ShellResult:
    """Run a program with arguments (argv), or a line of shell text (shell), and wait for its end."""
    check_exit_codes(ok_exit_codes)
    command = command_of(ctx, argv, shell, env, cwd, stdin)
    output = _Output(ctx)
    began = anyio.current_time()
    ended = await _execute(ctx, command, output)
    result = _fitted(ended.exit_code, output, anyio.current_time() - began)
    if ended.exit_code not in ok_exit_codes:
        raise ShellFailed(_reason(command, ended, result))
    return result


async def _execute(ctx: Context, command: Command, output: _Output) -> _Ended:
    child: ChildProcess | None = None
    try:
        async with open_process(
            command.words,
            environment=command.environment,
            cwd=command.folder,
            stdin=command.stdin,
            on_stdout=output.feed_stdout,
            on_stderr=output.feed_stderr,
            grace_left=ctx.grace_left,
        ) as child:
            returncode = await child.wait()
            _report_background(ctx, child)
    except OSError as error:
        if child is not None:
            raise
        return _unstarted(error, command, output)
    finally:
        with suppress(ContextClosed):  # it was given up as stuck meanwhile: nobody is told anything more
            output.finish()
            if child is not None and ctx.stopping_because is not None:
                _report_stop(ctx, command, child)
    return _Ended(returncode if returncode >= 0 else 128 - returncode, ending_of(returncode))


def _unstarted(error: OSError, command: Command, output: _Output) -> _Ended:
    found = why_unstarted(error, command)
    output.err.feed(f"{command.program}: {found.what}\n".encode())
    return _Ended(found.exit_code, f"{found.what} (exit code {found.exit_code}): {found.why}", began=False)


def _report_background(ctx: Context, child: ChildProcess) -> None:
    for seen in child.left_running():
        ctx.log.warning(f"left running in the background: {seen.name} (process {seen.pid})")


def _report_stop(ctx: Context, command: Command, child: ChildProcess) -> None:
    if child.returncode is not None:
        ending = ending_of(child.returncode, ours=True)
        ctx.log.warning(f"{command.program} was ended, with all that it had started ({ctx.stopping_because}): {ending}")


def _fitted(exit_code: int, output: _Output, duration: float) -> ShellResult:
    """Make the result so that it fits into a step's output, also where most of it has to be escaped."""
    limit = STDOUT_KEPT
    while True:
        result = ShellResult(exit_code, output.out.text(limit), output.err.text(limit), round(duration, 6))
        if len(msgspec.json.encode(result)) <= MAX_OUTPUT - 1024:
            return result
        limit //= 2


def _reason(command: Command, ended: _Ended, result: ShellResult) -> str:
    """The program alone: its arguments may hold what not everybody is to see."""
    said = _last_lines(result.stderr) if ended.began else ""
    return f"{command.program}: {ended.words}" + (f": {said}" if said else "")


def _last_lines(text: str) -> str:
    lines = [printable(line) for line in text.rstrip().splitlines()[-LAST_LINES:]]
    return "\n".join(map(_shortened, lines))


def _shortened(line: str) -> str:
    dropped = len(line.encode()) - len(line[:LAST_LINE].encode())
    return f"{line[:LAST_LINE]} … {dropped} bytes dropped …" if dropped else line
