"""Commands of Aura as processes of their own that begin without the half second that the imports of a fresh one take.

The first of a test process starts ``forkserver.py``, which has imported everything; each command is a fork of it. It is
as real as a fresh one from there on: its arguments, environment, folder, limits, signals and end are its own. What a
fork cannot show is the start of the interpreter, so tests of that start the ``aura`` script itself: those of the first
steps, of the commands, of a second instance, of signals during a boot, and the examples of the docs.
"""

import array
import atexit
import functools
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from tests.fakes import forkserver

FORK_SERVER = Path(forkserver.__file__)
#: Set in the environment of the tests, each command is an interpreter of its own after all.
FRESH = "FRESH_INTERPRETERS"
#: Variables that count when an interpreter or a program starts, which a fork does not.
_OF_A_START = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_")


@functools.cache
def _server(_pid: int) -> socket.socket:
    """This test process's own fork server, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, str(FORK_SERVER), str(theirs.fileno())]
        process = subprocess.Popen(
            command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
    atexit.register(process.wait, 10)
    atexit.register(ours.close)
    return ours


def is_same_start(env: Mapping[str, str]) -> bool:
    """Whether an interpreter with this environment would start as this one has, so that a fork may stand for it."""
    named = {name for name in {*env, *os.environ} if name.startswith(_OF_A_START)}
    return FRESH not in os.environ and all(env.get(name) == os.environ.get(name) for name in named)


class Forked:
    """A command that was started, with what tests use of ``subprocess.Popen``; killed and waited for by its context."""

    def __init__(
        self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], stdin: int, stdout: int, stderr: int
    ) -> None:
        """Start ``argv``; the three files stay open here too."""
        limits = [resource.getrlimit(limit) for limit in forkserver.LIMITS]
        order = {"argv": list(argv), "cwd": str(cwd), "env": dict(env), "limits": limits}
        self._report, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with told:
            files = array.array("i", [stdin, stdout, stderr, told.fileno()])
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, files)
            _server(os.getpid()).sendmsg([json.dumps(order).encode()], [rights])
        self.pid = int(self._report.recv(100))
        self.stdout: IO[str] | None = None
        self._code: int | None = None

    @property
    def returncode(self) -> int | None:
        """As of ``subprocess``; None while it runs. Any thread may ask."""
        return self._look(0)

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and give the exit code, negative for a signal. **Raises** ``TimeoutExpired``."""
        if (code := self._look(timeout)) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def _look(self, timeout: float | None) -> int | None:
        """Its exit code, waited for as long; what is told stays to be read by others."""
        if self._code is None:
            poll = select.poll()
            poll.register(self._report, select.POLLIN)
            if poll.poll(None if timeout is None else 1000 * timeout):
                self._code = os.waitstatus_to_exitcode(int(self._report.recv(100, socket.MSG_PEEK)))
        return self._code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Wait for its end, as ``Popen`` does, and let go of what is open for it."""
        if self.stdout:
            self.stdout.close()
        self.wait()
        self._report.close()
