"""Finds any of many byte strings, the *needles*, in other bytes; most of what it is asked about holds none of them.

Theory of operation. Of each needle the ``width`` bytes at its first ``width`` offsets, its *grams*, are kept in one
table, as integers. The bytes to look through are read as a row of such integers, ``width`` bytes apart: an occurrence
of a needle that is long enough covers a whole one of them, and that is one of its grams, whatever its alignment. So a
look is one pass in C over a quarter or an eighth as many integers as there are bytes, however many needles there are.
Only where a gram is met is the needle itself compared. Needles come and go without anything being compiled.

The *width* is eight bytes as long as every needle has fifteen, else four, for needles of seven; shorter ones are looked
for one by one. Further grams, at offsets behind the first ones, find *fragments*: a long piece of a needle is found
although its beginning was cut off, or its lines were wrapped. Of a needle of up to 640 bytes that is any piece of
``FRAGMENT``; of a longer one it takes a longer piece, so that the table stays small.

Looking is safe in any thread while another one adds and drops; adding and dropping are for one at a time.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

Span = tuple[int, int]

#: The shortest piece of a needle that counts, in bytes.
FRAGMENT = 24
#: The most groups of grams that are kept of one needle.
_GROUPS = 64
#: The most offsets at which the same gram of one needle is kept.
_REPEATS = 8


class _Table:
    """The grams of all needles that are long enough for the width, and the others."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.format: Literal["I", "Q"] = "Q" if width == 8 else "I"
        self.grams: set[int] = set()
        #: gram → the needles that have it, and where.
        self.places: dict[int, tuple[tuple[bytes, int], ...]] = {}
        self.short: tuple[bytes, ...] = ()

    def add(self, needle: bytes) -> None:
        if len(needle) < 2 * self.width - 1:
            self.short = (*self.short, needle)
            return
        for offset in _offsets(len(needle), self.width):
            gram = int.from_bytes(needle[offset : offset + self.width], sys.byteorder)
            known = self.places.get(gram)
            if known is None:
                self.places[gram] = ((needle, offset),)
                self.grams.add(gram)
            elif sum(1 for other, _ in known if other is needle) < _REPEATS:
                self.places[gram] = (*known, (needle, offset))

    def drop(self, needle: bytes) -> None:
        if len(needle) < 2 * self.width - 1:
            self.short = tuple(other for other in self.short if other != needle)
            return
        for offset in _offsets(len(needle), self.width):
            gram = int.from_bytes(needle[offset : offset + self.width], sys.byteorder)
            left = tuple(place for place in self.places.get(gram, ()) if place[0] != needle)
            if left:
                self.places[gram] = left
            else:
                self.grams.discard(gram)
                self.places.pop(gram, None)


def _offsets(length: int, width: int) -> Iterator[int]:
    """The offsets whose grams are kept: the first ``width``, and as many again in each period behind them."""
    last = length - width
    period = max(FRAGMENT - 2 * width + 2, -(-length // _GROUPS))
    for group in range(0, last + 1, period):
        yield from range(group, min(group + width, last + 1))


class Needles:
    """A set of needles, each counted as often as it was added."""

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()
        self._table = _Table(8)
        #: Which beginnings of needles there are, made when it is asked for; None since the needles have changed.
        self._beginnings: _Beginnings | None = None

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, needle: bytes) -> None:
        """Look for this needle from now on."""
        self._counts[needle] += 1
        if self._counts[needle] > 1:
            return
        if self._table.width == 8 and len(needle) < 15:
            table = _Table(4)
            for known in self._counts:
                table.add(known)
            self._table = table  # at once, whole: others are looking through it
        else:
            self._table.add(needle)
        self._beginnings = None

    def drop(self, needle: bytes) -> None:
        """Take back one ``add``."""
        self._counts[needle] -= 1
        if self._counts[needle] <= 0:
            del self._counts[needle]
            self._table.drop(needle)
            self._beginnings = None

    def find(self, data: bytes) -> Sequence[Span]:
        """The parts of ``data`` that are needles or fragments of them: in order, apart from each other."""
        table = self._table
        view = memoryview(data)[: len(data) & -table.width].cast(table.format)
        met = not table.grams.isdisjoint(view)
        if not met and not table.short:
            return ()
        spans = list(_compared(table, data, view)) if met else []
        for needle in table.short:
            if needle in data:
                spans += _occurrences(data, needle)
        return merged(spans) if spans else ()

    def open_end(self, data: bytes) -> int:
        """Where the longest end of ``data`` begins with which a needle begins; its length if there is none."""
        if self._beginnings is None:
            self._beginnings = _Beginnings(list(self._counts))
        return self._beginnings.open_end(data)

    def open_start(self, data: bytes) -> int:
        """Where the longest start of ``data`` ends with which a needle ends; 0 if there is none."""
        backwards = _Beginnings([needle[::-1] for needle in list(self._counts)])
        return len(data) - backwards.open_end(data[::-1])


def _compared(table: _Table, data: bytes, view: Iterable[int]) -> Iterator[Span]:
    ends: dict[bytes, int] = {}
    for index, gram in enumerate(view):
        if gram not in table.grams:
            continue
        at = index * table.width
        found: dict[bytes, int] = {}
        for needle, offset in table.places.get(gram, ()):
            if ends.get(needle, 0) > at:
                continue
            span = _span(data, at, at - offset, needle, table.width)
            if span is not None:  # the next offset may give more of it: of a needle that repeats itself
                found[needle] = max(span[1], found.get(needle, 0))
                yield span
        ends.update(found)


def _span(data: bytes, at: int, begin: int, needle: bytes, width: int) -> Span | None:
    """The needle that would begin at ``begin``, or the piece of it round ``at``; None if that is too short."""
    if begin >= 0 and data.startswith(needle, begin):
        return begin, begin + len(needle)
    if len(needle) < FRAGMENT:
        return None
    low, high = at, at + width
    first, last = max(begin, 0), min(begin + len(needle), len(data))
    while low > first and data[low - 1] == needle[low - 1 - begin]:
        low -= 1
    while high < last and data[high] == needle[high - begin]:
        high += 1
    return _whole_characters(data, low, high) if high - low >= FRAGMENT else None


def _whole_characters(data: bytes, low: int, high: int) -> Span:
    """The span made longer until it cuts no character of UTF-8 apart."""
    while low > 0 and data[low] & 0xC0 == 0x80:
        low -= 1
    while high < len(data) and data[high] & 0xC0 == 0x80:
        high += 1
    return low, high


def _occurrences(data: bytes, needle: bytes) -> Iterator[Span]:
    at = data.find(needle)
    while at >= 0:
        yield at, at + len(needle)
        at = data.find(needle, at + len(needle))


def merged(spans: list[Span]) -> list[Span]:
    """The same parts in order, with those that touch made one."""
    spans.sort()
    found: list[Span] = []
    for low, high in spans:
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


class _Beginnings:
    """The beginnings of needles, for the end of what has come so far."""

    def __init__(self, needles: Sequence[bytes]) -> None:
        self._heads: dict[bytes, list[bytes]] = {}
        self._short = {needle[:length] for needle in needles for length in range(1, 4)}
        for needle in needles:
            self._heads.setdefault(needle[:4], []).append(needle)
        self._line = max((len(needle) for needle in needles if b"\n" not in needle), default=0)
        self._block = max((len(needle) for needle in needles if b"\n" in needle), default=0)

    def open_end(self, data: bytes) -> int:
        size = len(data)
        start = max(size - self._line + 1, data.rfind(b"\n") + 1)  # a needle of one line begins behind the last one
        start = max(0, min(start, size - self._block + 1, size))
        for at in range(start, size):
            if self._begins(data[at:]):
                return at
        return size

    def _begins(self, end: bytes) -> bool:
        if len(end) < 4:
            return end in self._short
        return any(needle.startswith(end) and needle != end for needle in self._heads.get(end[:4], ()))
