"""The server's own standard streams, with secrets hidden in what is printed: by plan code, by Python, by anyone.

Only text that goes through ``sys.stdout`` and ``sys.stderr`` passes here; what is written to the file descriptors
themselves does not, nor what a process of its own prints, which is never inherited.
"""

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from aura.redaction import Redactor


class CoveredStream(io.TextIOBase):
    """A text stream that hides secrets, however they are cut into writes. May be used from any thread."""

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self._stream = stream
        self._chunks = redactor.stream()
        self._lock = threading.Lock()  # held for one write

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        with self._lock:
            shown = self._chunks.feed(text.encode("utf-8", "surrogatepass"))
            if shown:
                self._stream.write(shown.decode("utf-8", "surrogatepass"))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()


@contextmanager
def covered_streams(redactor: Redactor) -> Iterator[None]:
    """Hide secrets in what is printed meanwhile."""
    former = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (CoveredStream(stream, redactor) for stream in former)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = former
