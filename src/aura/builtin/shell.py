"""The shipped action ``shell.run``: a command, its output in the log while it runs, and its end as a result.

``processes`` starts and ends the command; here its arguments are made text, its output is bounded, and the ways in
which it can go wrong get names. Exit codes are a shell's: 126 not executable, 127 not found, 128 + n signal n.
"""

import errno
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import msgspec

from aura.actions import MAX_OUTPUT, Context, action
from aura.builtin.files import inside
from aura.errors import ParamsInvalid, ShellFailed
from aura.pipes import Kept, Lines
from aura.processes import ChildProcess, child_environment, open_process

NOT_EXECUTABLE = 126
NOT_FOUND = 127
#: How much of the output is kept for the result, in bytes; both together fit into a step's output.
STDOUT_KEPT = MAX_OUTPUT * 3 // 4
STDERR_KEPT = MAX_OUTPUT // 8

Word = str | int | float | bool


class ShellResult(msgspec.Struct, frozen=True):
    """What a command did. Of long output the middle is left out, with a marker that says how much."""

    exit_code: int
    stdout: str
    stderr: str
    duration_s: float


class _Output:
    """One stream of a command: kept for the result, and cut into lines for the log."""

    def __init__(self, kept: int, emit: Callable[[str], None]) -> None:
        self.kept = Kept(kept)
        self.lines = Lines(emit, anyio.current_time)

    def feed(self, chunk: bytes) -> None:
        self.kept.feed(chunk)
        self.lines.feed(chunk)


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
    words = _words(argv, shell)
    environment = child_environment(ctx.process_environment, {name: _text(value) for name, value in env.items()})
    folder = inside(ctx.workdir, cwd or ".")
    if not folder.is_dir():
        raise ShellFailed(f"the working folder {folder} does not exist; make it, or give another `cwd`")
    out = _Output(STDOUT_KEPT, lambda line: ctx.log.info(line, stream="stdout"))
    err = _Output(STDERR_KEPT, lambda line: ctx.log.warning(line, stream="stderr"))
    began = anyio.current_time()
    exit_code = await _execute(ctx, words, environment, folder, None if stdin is None else stdin.encode(), out, err)
    out.lines.finish()
    err.lines.finish()
    result = _fitted(exit_code, out.kept, err.kept, anyio.current_time() - began)
    if exit_code not in ok_exit_codes:
        raise ShellFailed(_reason(words[0], result))
    return result


async def _execute(
    ctx: Context,
    words: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    stdin: bytes | None,
    out: _Output,
    err: _Output,
) -> int:
    started = open_process(
        words,
        environment=environment,
        cwd=folder,
        stdin=stdin,
        on_stdout=out.feed,
        on_stderr=err.feed,
        grace_left=ctx.grace_left,
    )
    async with AsyncExitStack() as stack:
        try:
            child = await stack.enter_async_context(started)
        except (OSError, ValueError) as error:
            exit_code = _code_of(error, words, environment)
            err.feed(f"{words[0]}: {_START_REASONS[exit_code]}\n".encode())
            return exit_code
        exit_code = _exit_code(await child.wait())
        _report_background(ctx, child)
    return exit_code


_START_REASONS = {NOT_FOUND: "command not found", NOT_EXECUTABLE: "not executable"}


def _words(argv: Sequence[Word] | None, shell: str | None) -> list[str]:
    if (argv is None) == (shell is None):
        raise ParamsInvalid("shell.run needs either argv (a list) or shell (text for /bin/sh), and not both")
    if shell is not None:
        return ["/bin/sh", "-c", shell]
    if not argv:
        raise ParamsInvalid("shell.run: argv is empty; its first item is the program")
    return [_text(word) for word in argv]


def _text(word: Word) -> str:
    """Numbers become text as they appear in JSON, and so do true and false."""
    return word if isinstance(word, str) else msgspec.json.encode(word).decode()


def _exit_code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


def _code_of(error: OSError | ValueError, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Give the exit code that a shell has for a command that did not start, or raise what no shell has one for."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NOT_FOUND
    if isinstance(error, PermissionError) or getattr(error, "errno", 0) in (errno.ENOEXEC, errno.EISDIR, errno.ELOOP):
        return NOT_EXECUTABLE
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        size = sum(len(word.encode()) for word in words)
        raise ShellFailed(f"the arguments are too long for the system ({size} bytes); use stdin or a file") from None
    if any("\0" in text for text in [*words, *environment, *environment.values()]):
        raise ShellFailed("an argument or a variable contains NUL, which no command can be given") from None
    raise ShellFailed(f"{words[0]} could not be started: {error}") from error


def _report_background(ctx: Context, child: ChildProcess) -> None:
    for seen in child.left_running():
        ctx.log.warning(f"left running in the background: {seen.name} (process {seen.pid})")


def _fitted(exit_code: int, out: Kept, err: Kept, duration: float) -> ShellResult:
    """Make the result so that it fits into a step's output, also where most of it has to be escaped."""
    limit = STDOUT_KEPT
    while True:
        result = ShellResult(exit_code, out.text(limit), err.text(limit), round(duration, 6))
        if len(msgspec.json.encode(result)) <= MAX_OUTPUT - 1024:
            return result
        limit //= 2


def _reason(program: str, result: ShellResult) -> str:
    said = result.stderr.rstrip().rpartition("\n")[2][:500]
    if said == f"{program}: {_START_REASONS.get(result.exit_code)}":
        said = ""  # our own words
    return f"{program}: {_ending(result.exit_code)}" + (f": {said}" if said else "")


def _ending(exit_code: int) -> str:
    if exit_code in _START_REASONS:
        return f"{_START_REASONS[exit_code]} (exit code {exit_code})"
    try:
        return f"killed by {signal.Signals(exit_code - 128).name} (exit code {exit_code})"
    except ValueError:
        return f"exit code {exit_code}"
