"""One Python process for one job: started with a socket to it, spoken to, and gone when its owner lets go of it.

What the messages mean is for ``calls``; how the process ends, and all that it started, for ``processes``.
"""

import asyncio
import math
import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio
import msgspec

from aura.errors import ProcessDied
from aura.isolation.messages import MAX_FRAME, Frames, FromChild, Ready, frame_of, from_child
from aura.processes.process import ChildProcess, open_process

CHUNK = 64 * 1024
#: How long one that is not needed may take to end by itself once its socket is closed, in seconds.
LET_GO = 0.5
#: What it runs: nothing of a job, for everyone on the machine may see it. The imports are found where they are here.
_START = "import sys; sys.path[:] = sys.argv[2:]; from aura.isolation.child import main; main(int(sys.argv[1]))"


def _ignore(_: object) -> None:
    return


class Interpreter:
    """A process that waits for a job, or has one. Made by ``start``; whoever has it must ``close`` it.

    What it prints and says goes to ``on_stdout``, ``on_stderr`` and ``on_message``, which may be set at any time. When
    what it says cannot be understood, or ``on_message`` raises, ``on_error`` is told, and nothing more is heard.
    ``grace_left`` gives the seconds that a stop leaves.
    """

    child: ChildProcess

    def __init__(self, mine: socket.socket) -> None:
        self.on_stdout: Callable[[bytes], None] = _ignore
        self.on_stderr: Callable[[bytes], None] = _ignore
        self.on_message: Callable[[FromChild], None] = _ignore
        self.on_error: Callable[[Exception], None] = _ignore
        self.grace_left: Callable[[], float] = lambda: math.inf
        #: Set when it waits for its job, and ``may_be_marked`` is known, or when it is gone.
        self.ready = anyio.Event()
        self.may_be_marked = False
        self._stack = AsyncExitStack()
        self._socket = mine
        self._loop = asyncio.get_running_loop()
        self._frames = Frames(MAX_FRAME)
        self._unsent = bytearray()
        self._open = self._heard = True

    @classmethod
    async def start(cls, environment: Mapping[str, str]) -> "Interpreter":
        """Start one; it imports what it needs while nobody waits for it.

        Raises:
            ProcessDied: the system gives no process, or no socket.
        """
        if not sys.executable:
            raise ProcessDied("this program does not know its own Python (sys.executable), so it cannot start another")
        try:
            mine, theirs = socket.socketpair()
        except OSError as error:
            raise ProcessDied(f"no process of its own could be started: {error}") from error
        made = cls(mine)
        try:
            with theirs:
                await made._start(environment, theirs.fileno())
        except BaseException as error:
            made._end_talk()
            if isinstance(error, OSError):
                raise ProcessDied(f"no process of its own could be started: {error}") from error
            raise
        return made

    async def _start(self, environment: Mapping[str, str], handle: int) -> None:
        path = [folder or os.getcwd() for folder in sys.path]
        started = open_process(
            [sys.executable, "-I", "-X", "utf8", "-c", _START, str(handle), *path],
            environment=environment,
            cwd=Path("/"),
            on_stdout=lambda chunk: self.on_stdout(chunk),
            on_stderr=lambda chunk: self.on_stderr(chunk),
            grace_left=lambda: self.grace_left(),
            handles=[handle],
        )
        self.child = await self._stack.enter_async_context(started)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._read)

    async def close(self) -> None:
        """End it, and all that it started unless it has ended by itself; take what it said until then.

        Raises:
            ProcessNotEnded: it hangs in the kernel. What a sink raised does not matter any more.
        """
        try:
            await self._stack.aclose()
        finally:
            while self._heard and self._read():
                pass
            self._end_talk()

    async def let_go(self) -> None:
        """End one that never had a job."""
        self._end_talk()
        self.grace_left = lambda: 0.0
        # The shield cannot hang: the wait has a bound, and so has the end of a process.
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(LET_GO), suppress(Exception):
                await self.child.wait()
            await self._stack.aclose()

    # -- talking

    def send(self, message: msgspec.Struct) -> None:
        """Have a message written; one that it does not live to read is lost.

        Raises:
            TypeError, OverflowError, UnicodeEncodeError: something in it has no JSON form.
        """
        frame = frame_of(message)
        if not self._open:
            return
        if not self._unsent:
            self._loop.add_writer(self._socket, self._write)
        self._unsent += frame

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._unsent[:CHUNK])
        except BlockingIOError:
            return
        except OSError:  # it is gone; its end says so
            self._unsent.clear()
        else:
            del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _read(self) -> bool:
        """Take one chunk of what it says; say whether there may be more."""
        try:
            chunk = self._socket.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            self._stop_hearing()
            return False
        try:
            for body in self._frames.feed(chunk):
                self._hear(from_child.decode(body))
        except Exception as error:
            self._stop_hearing()
            self.on_error(error)
        return self._heard

    def _hear(self, message: FromChild) -> None:
        if isinstance(message, Ready):
            self.may_be_marked = message.may_be_marked
            self.ready.set()
        else:
            self.on_message(message)

    def _stop_hearing(self) -> None:
        """Hear nothing more of it: it has closed its end, as it ends or whatever its code does, or speaks nonsense."""
        if self._heard:
            self._heard = False
            self.ready.set()
            self._loop.remove_reader(self._socket)

    def _end_talk(self) -> None:
        self._stop_hearing()
        if self._open:
            self._open = False
            self._loop.remove_writer(self._socket)
            self._socket.close()
