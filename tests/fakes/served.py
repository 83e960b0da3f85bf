"""A real ``aura serve`` for tests: started on a free port, asked by the real commands, stopped at the end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from tests.fakes.forked import Forked, is_same_start

AURA = str(Path(sys.executable).with_name("aura"))
READY = "aura: ready on "


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without any setting of Aura, and ``more``."""
    return {key: value for key, value in os.environ.items() if not key.startswith("AURA_")} | dict(more)


def aura(*argv: str, cwd: Path, env: Mapping[str, str], stdin: str | None = None, fresh: bool = False) -> Done:
    """Run one command to its end. ``fresh``: in an interpreter of its own, as the script ``aura`` has it."""
    command, env = [AURA, *argv], environment(env)
    if not fresh and is_same_start(env):
        return _forked(command, cwd, env, stdin)
    done = subprocess.run(
        command, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _forked(command: list[str], cwd: Path, env: Mapping[str, str], stdin: str | None) -> Done:
    """Run it as a fork, with files for what it reads and says."""
    with TemporaryFile("w+") as given, TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        given.write(stdin or "")
        given.seek(0)
        reads = 0 if stdin is None else given.fileno()
        with Forked(command, cwd, env, reads, out.fileno(), err.fileno()) as process:
            try:
                code = process.wait(60)
            finally:
                process.kill()
        out.seek(0)
        err.seek(0)
        return Done(code, out.read(), err.read())


class Served:
    """One running server; ``folder`` is its working folder and has ``plans`` and ``data`` in it."""

    def __init__(
        self, folder: Path, process: "subprocess.Popen[str] | Forked", address: str, fresh: bool = False
    ) -> None:
        self.folder = folder
        self.process = process
        self.address = address
        self._fresh = fresh

    @property
    def env(self) -> dict[str, str]:
        """What a command needs in its environment to find this server."""
        return {"AURA_SERVER": self.address, "AURA_DATA": str(self.folder / "data")}

    def aura(self, *argv: str, stdin: str | None = None) -> Done:
        """Run a command against this server."""
        return aura(*argv, cwd=self.folder, env=self.env, stdin=stdin, fresh=self._fresh)

    @contextmanager
    def following(self, *argv: str) -> Iterator["subprocess.Popen[str]"]:
        """A command that is still running; killed at the end if it is then."""
        command = [AURA, *argv]
        env = environment(self.env)
        with subprocess.Popen(command, cwd=self.folder, env=env, stdout=PIPE, stderr=PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def write_plans(folder: Path, files: Mapping[str, str]) -> None:
    """Write files below ``folder/plans``, with modes that a careful server accepts."""
    (folder / "plans").mkdir(mode=0o755, exist_ok=True)
    for name, text in files.items():
        file = folder / "plans" / name
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


@contextmanager
def open_served(
    folder: Path,
    *argv: str,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
    fresh: bool = False,
) -> Iterator[Served]:
    """Serve ``folder/plans`` with ``folder/data``; the server's log is ``folder/server.log``.

    ``within`` is a command that runs another in a place of its own, such as a namespace. ``fresh``: the server, and
    each command against it, is an interpreter of its own and no fork.
    """
    command = [*within, AURA, "serve", "--data", "data", *(argv or ("--port", "0"))]
    with (
        open(folder / "server.log", "a", encoding="utf-8") as log,
        start(command, folder, environment(env or {}), log, fresh or bool(within)) as process,
    ):
        assert process.stdout
        try:
            line = process.stdout.readline()
            assert line.startswith(READY), (folder / "server.log").read_text(encoding="utf-8")
            yield Served(folder, process, line.removeprefix(READY).strip(), fresh)
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()


def start(
    command: Sequence[str], folder: Path, env: Mapping[str, str], log: IO[str], fresh: bool = False
) -> "subprocess.Popen[str] | Forked":
    """Start a server whose stdout can be read; what it says on stderr goes to ``log``."""
    if fresh or not is_same_start(env):
        return subprocess.Popen(command, cwd=folder, env=env, stdout=PIPE, stderr=log, text=True)
    reads, writes = os.pipe()
    try:
        process = Forked(command, folder, env, 0, writes, log.fileno())
    finally:
        os.close(writes)
    process.stdout = open(reads, encoding="utf-8")  # noqa: SIM115 - closed with it
    return process
