"""Whether a write-ahead log was damaged in its middle, which SQLite takes for its end.

Theory of operation. SQLite reads the log up to the first frame whose checksum is wrong and says nothing of the rest: a
power cut leaves such an end in the one transaction that was being written. But every commit is synced before the next
one is written (``synchronous=FULL``), so behind that end a power cut can leave no more than this one transaction. Two
commits there, one upon the other, or a header that is not whole above frames, are a damage: commits that were told of
would be missing, and older pages would lie over newer ones that are in the file already.

What is no damage: frames of a log that was begun anew since, by the salts of the header or those of the index, which
is ahead of it for a moment; and what several power cuts, or writes that a full disk refused, have left one behind the
other. Their frames do not follow upon each other: each checksum goes on from that of the frame before.

The format is SQLite's (sqlite.org/fileformat2.html#the_write_ahead_log).
"""

import os
import struct
from itertools import islice
from pathlib import Path
from typing import BinaryIO

_HEADER = struct.Struct(">8I")  # magic, version, page size, checkpoint number, two salts, two checksums
_FRAME = struct.Struct(">6I")  # page number, size of the database after a commit or 0, two salts, two checksums
_MAGIC = 0x377F0682  # its last bit says in which order the checksums take the bytes
_INDEX_FRAMES = struct.Struct("=16xI")  # of the log's index: how many frames it has (sqlite.org/walformat.html) …
_INDEX_SALTS = slice(32, 40)  # … and the salts, as they are in the log


def damage_of(log: Path, index: Path) -> str | None:
    """What is wrong with a log that SQLite has read in order to make this index of it; None if nothing is known.

    It opens the index, so no connection of this process may be open: its locks of the index would be lost (fcntl(2)).
    """
    with open(log, "rb") as file:
        raw = file.read(_HEADER.size)
        if os.fstat(file.fileno()).st_size <= _HEADER.size:
            return None
        header = _HEADER.unpack(raw)
        if header[0] & ~1 != _MAGIC or _checksum(raw[:24], header[0] & 1) != header[6:]:
            return f"the header of its log {log.name} is not whole"
        taken = _frames_of(index, raw[16:24])
        missed = taken is not None and _has_commits_in_a_row(file, header, taken)
    return f"its log {log.name} is damaged before its last commits" if missed else None


def _frames_of(index: Path, salts: bytes) -> int | None:
    """How many frames of the log SQLite has taken for good; None if it takes none, for it begins the log anew."""
    raw = index.read_bytes()[: _INDEX_SALTS.stop]
    return int(_INDEX_FRAMES.unpack_from(raw)[0]) if raw[_INDEX_SALTS] == salts else None


def _has_commits_in_a_row(file: BinaryIO, header: tuple[int, ...], first: int) -> bool:
    """Whether two commits, one upon the other, are among the frames from ``first`` on, counted from 0."""
    page_size, salts = header[2], header[4:6]
    step = _FRAME.size + page_size
    before: tuple[int, ...] | None = None
    commits = 0
    for at in range(_HEADER.size + first * step, os.fstat(file.fileno()).st_size - step + 1, step):
        raw = os.pread(file.fileno(), _FRAME.size, at)
        frame = _FRAME.unpack(raw)
        if frame[2:4] != salts:
            before = None
            continue
        if before is None or _frame_checksum(file, at, header, before) != frame[4:]:
            commits = 0  # here something begins that has nothing to do with what is before it
        before, commits = frame[4:], commits + (frame[1] > 0)
        if commits > 1:
            return True
    return False


def _frame_checksum(file: BinaryIO, at: int, header: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, int]:
    """What the checksum of a frame is if it follows upon the one with the checksum ``before``."""
    raw = os.pread(file.fileno(), _FRAME.size + header[2], at)
    return _checksum(raw[:8] + raw[_FRAME.size :], header[0] & 1, before)


def _checksum(data: bytes, big_endian: int, before: tuple[int, ...] = (0, 0)) -> tuple[int, int]:
    first, second = before
    words = iter(struct.unpack(f"{'>' if big_endian else '<'}{len(data) // 4}I", data))
    while pair := tuple(islice(words, 2)):
        first = (first + pair[0] + second) & 0xFFFFFFFF
        second = (second + pair[1] + first) & 0xFFFFFFFF
    return first, second
