"""What comes out of a child process: read as soon as it is there, and kept within bounds; ``loglines`` has its lines.

A pipe is read by a callback of the event loop, not by a child in a task group: reading must go on while the owner of
the process is being cancelled, so that a process which says something while it cleans up is never blocked by a full
pipe, and there is nothing to clean up here but a file descriptor. Memory is bounded whatever arrives: 64 KiB in
flight, and what ``Kept`` keeps. So is the time that others on the loop have to wait: less is read at a time as long as
it takes the sink too long, as very many short lines do.
"""

import asyncio
import os
import time
from collections.abc import Callable

import anyio

#: The most and the least that is read at a time, in bytes; how long a sink may take over it, in seconds.
CHUNK, SMALL_CHUNK = 64 * 1024, 4 * 1024
LONG = 0.002

Sink = Callable[[bytes], None]


class Pipe:
    """A pipe whose writing end goes to a child process. ``ended`` is set when nobody can write to it any more.

    An error that ``sink`` raises is kept in ``error``; from then on what arrives is read and forgotten.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._read_end, self.write_end = os.pipe()
        self._size = SMALL_CHUNK
        self._open = True
        self.ended = anyio.Event()
        self.error: Exception | None = None

    def start(self) -> None:
        """Begin to read. The writing end is closed here: from now on it is the child's alone."""
        os.close(self.write_end)
        self.write_end = -1
        os.set_blocking(self._read_end, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._read_end, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._read_end, self._size)
        except BlockingIOError:
            return
        if not chunk:
            self.close()
        elif self.error is None:
            self._pass_on(chunk)

    def _pass_on(self, chunk: bytes) -> None:
        began = time.perf_counter()
        try:
            self._sink(chunk)
        except Exception as error:
            self.error = error
        if time.perf_counter() - began > LONG:
            self._size = max(SMALL_CHUNK, self._size // 2)
        elif len(chunk) == self._size:
            self._size = min(CHUNK, self._size * 2)

    def close(self) -> None:
        """Stop reading; whoever still writes gets SIGPIPE. Closing twice does nothing."""
        if not self._open:
            return
        self._open = False
        if self.write_end >= 0:
            os.close(self.write_end)  # it was never started
        else:
            self._loop.remove_reader(self._read_end)
        os.close(self._read_end)
        self.ended.set()


class Kept:
    """A text of up to ``whole`` bytes; of a longer one the first and the last ``ends`` bytes."""

    def __init__(self, whole: int, ends: int) -> None:
        self._whole = whole
        self._ends = ends
        self._head = bytearray()
        #: What follows the head of a text that is known to be longer than ``whole``.
        self._tail: bytearray | None = None
        self._seen = 0

    def feed(self, chunk: bytes) -> None:
        """Take what comes next."""
        self._seen += len(chunk)
        if self._tail is None:
            self._head += chunk
            if self._seen <= self._whole:
                return
            self._head, self._tail = self._head[: self._ends], self._head[self._ends :]
        else:
            self._tail += chunk
        if len(self._tail) > 2 * self._ends:  # twice, so that a byte is not moved for each one that arrives
            del self._tail[: -self._ends]

    def text(self, limit: int | None = None) -> str:
        """Give what was kept, invalid UTF-8 replaced; ``limit`` bytes at most, if given."""
        limit = self._whole if limit is None else limit
        if self._tail is None and self._seen <= limit:
            return self._head.decode(errors="replace")
        ends = min(self._ends, limit // 2)
        head, rest = self._head[:ends], self._head[ends:] + (self._tail or b"")
        tail = rest[max(0, len(rest) - ends) :]
        dropped = self._seen - len(head) - len(tail)
        return f"{head.decode(errors='replace')}\n… {dropped} bytes dropped …\n{tail.decode(errors='replace')}"
