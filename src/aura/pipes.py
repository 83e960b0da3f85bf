"""What comes out of a child process: read as soon as it is there, cut into lines, kept within bounds.

A pipe is read by a callback of the event loop, not by a child in a task group: reading must go on while the owner of
the process is being cancelled, so that a process which says something while it cleans up is never blocked by a full
pipe, and there is nothing to clean up here but a file descriptor. Memory is bounded whatever arrives: 64 KiB in
flight, one line of at most 64 KiB, and what ``Kept`` keeps.
"""

import asyncio
import os
from collections.abc import Callable

import anyio

CHUNK = 64 * 1024
#: The longest line that is passed on, in bytes; the rest of a longer one is dropped, with a marker.
LINE_CAP = 64 * 1024
#: How much of a command's output goes to the log: lines and bytes a second, and bytes in all.
LINES_PER_S = 1000
BYTES_PER_S = 1024 * 1024
LOG_CAP = 10 * 1024 * 1024

Sink = Callable[[bytes], None]


class Pipe:
    """A pipe whose writing end goes to a child process. ``ended`` is set when nobody can write to it any more.

    An error that ``sink`` raises is kept in ``error``; from then on what arrives is read and forgotten.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._read_end, self.write_end = os.pipe()
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
            chunk = os.read(self._read_end, CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            self.close()
        elif self.error is None:
            self._pass_on(chunk)

    def _pass_on(self, chunk: bytes) -> None:
        try:
            self._sink(chunk)
        except Exception as error:
            self.error = error

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
    """The beginning and the end of a text of any length, ``limit`` bytes at most."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._seen = 0

    def feed(self, chunk: bytes) -> None:
        """Take what comes next."""
        self._seen += len(chunk)
        room = self._half - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        if len(self._tail) > 2 * self._half:  # twice, so that a byte is not moved for each one that arrives
            del self._tail[: -self._half]

    def text(self, limit: int | None = None) -> str:
        """Give what was kept, invalid UTF-8 replaced; ``limit`` bytes at most, if given."""
        half = self._half if limit is None else min(self._half, limit // 2)
        head, tail = self._head[:half], self._head[half:] + self._tail
        tail = tail[max(0, len(tail) - half) :]
        dropped = self._seen - len(head) - len(tail)
        if not dropped:
            return (head + tail).decode(errors="replace")
        return f"{head.decode(errors='replace')}\n… {dropped} bytes dropped …\n{tail.decode(errors='replace')}"


class Lines:
    """Cuts bytes into lines and passes them on as text, no faster and no more than a log can bear.

    When the bound is reached, what follows is counted and not even cut; one line says how much it was, as soon as
    there is room again or at the end. ``now`` gives seconds.
    """

    def __init__(self, emit: Callable[[str], None], now: Callable[[], float]) -> None:
        self._emit = emit
        self._now = now
        self._at = now()
        self._lines = 2.0 * LINES_PER_S
        self._bytes = 2.0 * BYTES_PER_S
        self._left = LOG_CAP
        self._held = bytearray()
        self._surplus = 0
        self._midline = False
        self._dropped = [0, 0]

    def feed(self, chunk: bytes) -> None:
        """Take what comes next."""
        at = 0
        while at < len(chunk):
            if not self._has_room():
                self._drop(chunk, at)
                return
            end = chunk.find(b"\n", at)
            if end < 0:
                self._hold(chunk, at, len(chunk))
                return
            self._hold(chunk, at, end)
            self._pass_on()
            at = end + 1

    def finish(self) -> None:
        """Pass on a last line without an end, and say what was dropped."""
        if self._held or self._surplus:
            self._pass_on()
        self._say_dropped()

    def _has_room(self) -> bool:
        now = self._now()
        passed, self._at = now - self._at, now
        self._lines = min(2.0 * LINES_PER_S, self._lines + passed * LINES_PER_S)
        self._bytes = min(2.0 * BYTES_PER_S, self._bytes + passed * BYTES_PER_S)
        return self._lines >= 1 and self._bytes > 0 and self._left > 0

    def _hold(self, chunk: bytes, start: int, end: int) -> None:
        if self._midline:  # the beginning of this line was dropped, so its end is as well
            self._dropped[1] += end - start
            return
        room = min(end - start, LINE_CAP - len(self._held))
        self._held += chunk[start : start + room]
        self._surplus += end - start - room

    def _pass_on(self) -> None:
        if self._midline:
            self._midline = False
            return
        self._say_dropped()
        text = self._held.removesuffix(b"\r").decode(errors="replace")
        if self._surplus:
            text += f" … {self._surplus} bytes dropped …"
        self._lines -= 1
        self._bytes -= len(self._held)
        self._left -= len(self._held) + 1
        self._held.clear()
        self._surplus = 0
        self._emit(text)

    def _drop(self, chunk: bytes, at: int) -> None:
        self._dropped[0] += chunk.count(b"\n", at)
        self._dropped[1] += len(chunk) - at + len(self._held) + self._surplus
        self._held.clear()
        self._surplus = 0
        self._midline = not chunk.endswith(b"\n")

    def _say_dropped(self) -> None:
        lines, size = self._dropped
        if size:
            self._dropped = [0, 0]
            self._emit(f"… {lines} lines, {size} bytes not logged: that was too much at once …")
