"""Writes a compressed tar archive piece by piece, so that even one huge file can be stopped in its middle.

``tarfile`` writes a whole file at once; here it only makes the headers (POSIX pax format).
"""

import hashlib
import os
import stat
import tarfile
import zlib
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
_GZIP = 31  # zlib's window bits for a gzip header and trailer
_LEVEL = 6


class TarWriter:
    """Writes to ``file`` and knows the SHA-256 of what it wrote, and how much that was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._squeeze = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        self._hash = hashlib.sha256()
        self.written = 0

    def add_header(self, info: tarfile.TarInfo) -> None:
        """Begin an entry; ``info.size`` bytes of content follow, then ``end_content``."""
        self.add(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def add(self, data: bytes) -> None:
        """Write bytes of an entry."""
        self._put(self._squeeze.compress(data))

    def end_content(self, size: int) -> None:
        """Fill the last block of a content of ``size`` bytes."""
        self.add(bytes(-size % BLOCK))

    def finish(self) -> str:
        """Write the end of the archive and give its SHA-256."""
        self.add(bytes(2 * BLOCK))
        self._put(self._squeeze.flush())
        return self._hash.hexdigest()

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.written += len(data)


def header_of(name: str, status: os.stat_result, link: str = "") -> tarfile.TarInfo:
    """Make the header of a file, a folder, or a link to ``link``."""
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(status.st_mode)
    info.uid, info.gid = status.st_uid, status.st_gid
    info.mtime = int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
    elif link:
        info.type, info.linkname = tarfile.SYMTYPE, link
    else:
        info.size = status.st_size
    return info
