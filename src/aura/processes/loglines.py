"""What a process prints, on its way into the log: cut into lines, made fit to be shown, no more than the log can bear.

``OutputLog`` is made for one start of a step and has a ``Lines`` for each of its two streams. How much there is room
for is ``floods``' matter. What becomes of the bytes is decided here, in this order: secrets in them are hidden, they
are cut into lines, a line is made text that can steer no terminal, and that is cut to ``LINE_CAP``.

Theory of operation
    A line ends with LF, CR LF or CR: a progress bar gives a line for each state that it shows. A CR that ends nothing
    gives none. Whether a CR is alone is known when the next byte has come. How the bytes are cut into chunks makes no
    difference (``tests/unit/test_loglines.py`` compares with a model).

    Whether there is room is asked where a line begins, and then for all of it. A line that began without room is
    dropped to its end, and what follows in the same chunk is not even cut: a flood costs a look at each chunk. What was
    dropped is counted, and one line says how much as soon as there is room again, or at the end; there its last lines
    follow, for they often say why a command has failed.

    Memory for each stream: one line, and the last ``TAIL`` bytes of what was dropped.
"""

import re
from collections.abc import Callable

import anyio

from aura.context import Context
from aura.events import MAX_LINE, printable
from aura.processes.floods import Allowance, shared_bucket
from aura.redaction import Stream

#: The longest text of a line that is passed on, in bytes of UTF-8, so that a line of the log has room for its marker.
LINE_CAP = MAX_LINE - 64
#: How much is kept of the end of what was dropped, in bytes, and how many lines of it are passed on.
TAIL, TAIL_LINES = 16 * 1024, 100
_END = re.compile(rb"\r\n?|\n")


class OutputLog:
    """Brings what one start of a step prints to its log: stdout as ``info``, stderr as ``warning``."""

    def __init__(self, ctx: Context) -> None:
        allowance = Allowance(shared_bucket())
        now = anyio.current_time
        self.stdout = Lines(lambda text: ctx.log.info(text, stream="stdout"), allowance, now, ctx.hiding())
        self.stderr = Lines(lambda text: ctx.log.warning(text, stream="stderr"), allowance, now, ctx.hiding())

    def finish(self) -> None:
        """Nothing more will come: pass on what is left."""
        self.stdout.finish()
        self.stderr.finish()


class Lines:
    """Cuts bytes into lines and gives them to ``emit`` as text, as far as there is room. ``now`` gives seconds."""

    def __init__(
        self,
        emit: Callable[[str], None],
        allowance: Allowance,
        now: Callable[[], float],
        hiding: Stream | None = None,
    ) -> None:
        self._emit = emit
        self._allowance = allowance
        self._now = now
        self._hiding = hiding
        #: What has come of a line that is not complete, and how much of it is beyond the cap.
        self._held = bytearray()
        self._surplus = 0
        #: A CR of which it is not known yet whether an LF follows.
        self._cr = b""
        #: The present line began without room.
        self._dropping = False
        #: How many bytes were dropped since that was last said, and the end of them.
        self._dropped = 0
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Take what comes next."""
        self._cut(self._hiding.feed(chunk) if self._hiding else chunk)

    def finish(self) -> None:
        """Pass on a last line without an end, and the end of what was dropped."""
        if self._hiding:
            self._cut(self._hiding.end())
        if self._held:
            self._pass_on()
        if self._dropped:
            start = _start_of_last_lines(self._tail, is_cut=self._dropped > len(self._tail))
            last = self._tail[start:]
            self._say_dropped(self._dropped - len(last))
            for line in _END.split(last[:-1] if last.endswith((b"\n", b"\r")) else last):
                self._emit(_shown(line.removesuffix(b"\r"), 0))

    def _cut(self, chunk: bytes) -> None:
        chunk = self._cr + chunk
        self._cr = b"\r" if chunk.endswith(b"\r") else b""
        size = len(chunk) - len(self._cr)
        ends = _Ends(chunk, size)
        at = 0
        while at < size:
            if not (self._held or self._dropping or self._allowance.take_line(self._now())):
                self._drop(chunk[at:size])
                return
            end, follows = ends.first(at)
            if self._dropping:
                self._drop(chunk[at:follows])
            else:
                self._hold(chunk, at, end)
                if end < follows and (self._held or chunk[follows - 1] == _LF):
                    self._pass_on()
            at = follows

    def _hold(self, chunk: bytes, start: int, end: int) -> None:
        room = min(end - start, LINE_CAP - len(self._held))
        self._held += chunk[start : start + room]
        self._surplus += end - start - room

    def _pass_on(self) -> None:
        if self._dropped:
            self._say_dropped(self._dropped)
        text = _shown(bytes(self._held), self._surplus)
        self._held.clear()
        self._surplus = 0
        self._allowance.charge(self._now(), len(text) if text.isascii() else len(text.encode()))
        self._emit(text)

    def _drop(self, part: bytes) -> None:
        self._dropping = not part.endswith((b"\n", b"\r"))
        self._dropped += len(part)
        self._tail = part[-TAIL:] if len(part) >= TAIL else (self._tail + part)[-TAIL:]

    def _say_dropped(self, size: int) -> None:
        self._dropped, self._tail = 0, b""
        if size:
            self._emit(f"… {size} bytes dropped: more than the log takes …")


_LF = ord("\n")


class _Ends:
    """Finds the ends of lines in the first ``size`` bytes of a chunk. Each byte is looked at once for each kind."""

    def __init__(self, chunk: bytes, size: int) -> None:
        self._chunk = chunk
        self._size = size
        self._lf = self._cr = -1

    def first(self, at: int) -> tuple[int, int]:
        """Where the line that is at ``at`` ends, and where the next one begins; both ``size`` if it goes on."""
        if self._lf < at:
            self._lf = self._find(b"\n", at)
        if self._cr < at:
            self._cr = self._find(b"\r", at)
        if self._cr + 1 == self._lf:
            return self._cr, self._lf + 1
        end = min(self._lf, self._cr, self._size)
        return end, min(end + 1, self._size)

    def _find(self, end: bytes, at: int) -> int:
        found = self._chunk.find(end, at, self._size)
        return self._size + 2 if found < 0 else found  # far enough away from a CR that is the last byte


def _start_of_last_lines(tail: bytes, is_cut: bool) -> int:
    """Where the last ``TAIL_LINES`` whole lines begin; of one that is longer than the tail, where the tail does."""
    starts = [0, *(found.end() for found in _END.finditer(tail) if found.end() < len(tail))]
    if is_cut and len(starts) > 1:
        del starts[0]
    return starts[-TAIL_LINES:][0]


def _shown(line: bytes, surplus: int) -> str:
    """The text of a line of which so many bytes were left out already, not longer than ``LINE_CAP``, with a marker."""
    size = len(line)
    text = printable(line.decode(errors="replace"))
    while (bytes_of_text := len(text.encode())) > LINE_CAP:  # escapes and replacements are longer than what they show
        size = min(size - 1, size * LINE_CAP // bytes_of_text)
        text = printable(line[:size].decode(errors="replace"))
    dropped = surplus + len(line) - size
    return f"{text} … {dropped} bytes dropped …" if dropped else text
