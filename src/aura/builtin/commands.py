"""Commands as ``shell.run`` is given them: what can be run is made ready, and what cannot is named.

Parameters are refused here before anything is started (``ParamsInvalid``), without showing what is in them: an argument
may hold what not everybody is to see. Why a command did not start is looked up here after that has happened. Exit codes
are a shell's: 126 not executable, 127 not found, 128 + n signal n.
"""

import errno
import math
import os
import signal
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from aura.builtin.files import inside
from aura.context import Context
from aura.errors import ParamsInvalid, ShellFailed
from aura.events import printable
from aura.processes.process import child_environment

NOT_EXECUTABLE = 126
NOT_FOUND = 127
SHELL = "/bin/sh"
#: How much of a name is shown, in characters.
SHOWN = 200

Word = str | int | float | bool


class Command(msgspec.Struct, frozen=True):
    """What is to be started."""

    words: list[str]
    environment: Mapping[str, str]
    folder: Path
    stdin: bytes | None

    @property
    def program(self) -> str:
        """Its name, as it can be shown."""
        return printable(self.words[0])[:SHOWN]


class Unstarted(msgspec.Struct, frozen=True):
    """Why a command did not start, in general and here, and the exit code that a shell has for that."""

    exit_code: int
    what: str
    why: str


# -- before the start -------------------------------------------------------------------------------------------------


def command_of(
    ctx: Context,
    argv: Sequence[Word] | None,
    shell: str | None,
    env: Mapping[str, Word],
    cwd: str | None,
    stdin: str | None,
) -> Command:
    """Make a command of parameters.

    Raises:
        ParamsInvalid: they say nothing that can be run. ShellFailed: there is no such folder.
        PermissionError: the folder leads out of the workdir. ValueError: it is no path.
    """
    words = _words(argv, shell)
    variables = {name: _text(f"env: {_variable(name)}", value) for name, value in env.items()}
    environment = child_environment(ctx.process_environment, variables)
    return Command(words, environment, _folder(ctx.workdir, cwd), None if stdin is None else _encoded("stdin", stdin))


def _words(argv: Sequence[Word] | None, shell: str | None) -> list[str]:
    if (argv is None) == (shell is None):
        raise ParamsInvalid(f"shell.run needs either argv (a list) or shell (text for {SHELL}), and not both")
    if shell is not None:
        if not shell.strip():
            raise ParamsInvalid("shell is empty: there is nothing to run")
        return [SHELL, "-c", _text("shell", shell)]
    if not argv:
        raise ParamsInvalid("argv is empty: its first item is the program")
    words = [_text(f"argv[{number}]", word) for number, word in enumerate(argv)]
    if not words[0].strip():
        raise ParamsInvalid("argv[0] is empty: it is the program")
    return words


def _text(where: str, word: Word) -> str:
    """Numbers become text as they appear in JSON, and so do true and false."""
    if isinstance(word, float) and not math.isfinite(word):
        raise ParamsInvalid(f"{where} is {word}, which is no number that has a text; check how it was computed")
    text = word if isinstance(word, str) else msgspec.json.encode(word).decode()
    if "\0" in text:
        raise ParamsInvalid(f"{where} has a NUL character, which no command can be given; use stdin or a file for it")
    _encoded(where, text)
    return text


def _variable(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise ParamsInvalid(f"env: {name[:SHOWN]!r} cannot be the name of a variable: it is empty, or has = or NUL")
    _encoded("env: the name of a variable", name)
    return name[:SHOWN]


def _encoded(where: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        message = f"{where} has half a character (a lone surrogate) at {error.start}, which UTF-8 cannot hold"
        raise ParamsInvalid(message) from None


def _folder(workdir: Path, cwd: str | None) -> Path:
    folder = inside(workdir, cwd or ".")
    shown = f"the working folder {printable(str(folder))[:SHOWN]}"
    try:
        kind = folder.stat().st_mode
    except FileNotFoundError:
        raise ShellFailed(f"{shown} does not exist; make it, or give another `cwd`") from None
    except OSError as error:
        raise ShellFailed(f"{shown} cannot be used: {error.strerror}") from None
    if not stat.S_ISDIR(kind):
        raise ShellFailed(f"{shown} is no folder; give another `cwd`")
    if not os.access(folder, os.X_OK):
        raise ShellFailed(f"{shown} may not be entered by the user that Aura runs as")
    return folder


def check_exit_codes(codes: Sequence[int]) -> None:
    """Refuse what no exit code can be one of.

    Raises:
        ParamsInvalid
    """
    if not codes:
        raise ParamsInvalid("ok_exit_codes is empty: no exit code would do; leave it away for [0]")
    for code in codes:
        if not 0 <= code <= 255:
            raise ParamsInvalid(f"ok_exit_codes has {code}; an exit code is 0 to 255, 128 + n for signal n")


# -- after it ---------------------------------------------------------------------------------------------------------


def why_unstarted(error: OSError, command: Command) -> Unstarted:
    """Say why a command did not start.

    Raises:
        ShellFailed: for a reason for which no shell has an exit code.
    """
    if error.filename is not None and os.fspath(error.filename) == str(command.folder):
        raise ShellFailed(f"the working folder {command.folder} could not be entered: {error.strerror}") from None
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return _why_not_found(command)
        case errno.EACCES | errno.EPERM | errno.EISDIR | errno.ELOOP | errno.ENOEXEC | errno.ETXTBSY:
            return _why_not_executable(error.errno, command)
        case errno.E2BIG:
            raise ShellFailed(_too_long(command)) from None
    raise ShellFailed(f"{command.program} could not be started: {error.strerror}") from error


def _why_not_found(command: Command) -> Unstarted:
    found = _located(command)
    if found is None:
        path = printable(command.environment["PATH"])[:SHOWN]
        why = "there is no such file" if "/" in command.words[0] else f"it is in no folder of PATH, which is {path}"
        return Unstarted(NOT_FOUND, "command not found", why)
    interpreter = _interpreter(found)
    why = f"{found} is to be run by {interpreter}, which is not there"
    if not interpreter:
        why = f"{found} is there, and what loads it is not: it may be built for another system"
    return Unstarted(NOT_FOUND, "bad interpreter", why)


def _why_not_executable(number: int, command: Command) -> Unstarted:
    found = _located(command)
    if found is None and "/" not in command.words[0]:  # one folder of PATH may not be looked into, and no other has it
        return _why_not_found(command)
    if found is not None and found.is_dir():
        reason = "it is a folder"
    elif number == errno.ENOEXEC:
        reason = "it has no #! line and is no program of this system"
    elif number == errno.ETXTBSY:
        reason = "somebody is still writing it"
    elif number == errno.ELOOP:
        reason = "its links lead in a circle"
    elif found is not None and not os.access(found, os.X_OK):
        reason = "it may not be run; chmod +x it, or make its interpreter the first of argv"
    else:
        reason = "permission denied: by a folder on the way, its interpreter, or the file system that it is on"
    return Unstarted(NOT_EXECUTABLE, "not executable", reason)


def _located(command: Command) -> Path | None:
    """The file that a shell would take for the program; None if there is none."""
    program = command.words[0]
    folders = [""] if "/" in program else command.environment["PATH"].split(":")
    places = (command.folder / folder / program for folder in folders)
    return next((place for place in places if _is_there(place)), None)


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # it may not be looked at, its name is too long, its links lead in a circle
        return False


def _interpreter(script: Path) -> str:
    try:
        with script.open("rb") as file:
            first = file.readline(256)
    except OSError:
        return ""
    return printable(first[2:].decode(errors="replace").strip()) if first.startswith(b"#!") else ""


def _too_long(command: Command) -> str:
    size = sum(len(word.encode()) for word in command.words)
    size += sum(len(name.encode()) + len(value.encode()) for name, value in command.environment.items())
    return f"the arguments and variables are too long for the system ({size} bytes); use stdin or a file"


def ending_of(returncode: int, ours: bool = False) -> str:
    """Say how a command that was started has ended; ``returncode`` is the negative number of a signal, or its code.

    ``ours``: Aura has ended it.
    """
    if returncode < 0:
        name, code = _signal_name(-returncode), f"(exit code {128 - returncode})"
        if -returncode == signal.SIGKILL and not ours:
            return f"killed by signal {name}, which Aura did not send: perhaps the system was out of memory {code}"
        return f"killed by signal {name} {code}"
    if returncode - 128 in list(signal.Signals):
        return f"exit code {returncode}, as a shell has for signal {_signal_name(returncode - 128)}"
    return f"exit code {returncode}"


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in list(signal.Signals) else str(number)
