"""The disk under the data folder: how much room it has, what it says to a write, and the ballast in it.

The *ballast* is a file of real blocks that nobody reads. A full disk refuses a DELETE as well as an INSERT, so there is
room that can be given back by removing a file: the ends of what runs are written into it. It stays between starts.

Everything here blocks, briefly; what is decided by it stands in ``space``.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from aura.errors import StoreFull, StoreReadOnly
from aura.store import FULL
from aura.stores.folder import sync_folder

BALLAST_NAME = "ballast"
#: What is written to ask the disk whether it takes anything, in bytes.
PROBE = 4096
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})
_BLOCK = 512  # of ``st_blocks``, whatever the file system's own are (stat(2))


class Free(NamedTuple):
    """What is left for an ordinary user: bytes, and files that can still be made; None where there is no such bound."""

    bytes: int
    files: int | None


class Disk(Protocol):
    """What ``space`` asks of the disk under a data folder."""

    def free(self) -> Free:
        """How much room there is now.

        Raises:
            OSError: the disk does not say.
        """
        ...

    def held(self) -> int:
        """How many bytes the ballast holds; 0 if it is not there."""
        ...

    def make_ballast(self, size: int) -> None:
        """Take that much room, or none at all if there is not enough."""
        ...

    def drop_ballast(self) -> None:
        """Give its room back."""
        ...


class FolderDisk:
    """The disk under a folder that this process owns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ballast = folder / BALLAST_NAME

    def free(self) -> Free:
        found = os.statvfs(self._folder)
        return Free(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)

    def held(self) -> int:
        try:
            found = os.lstat(self._ballast)
        except OSError:
            return 0
        return min(found.st_size, found.st_blocks * _BLOCK)

    def make_ballast(self, size: int) -> None:
        self.drop_ballast()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._ballast, flags, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(self._folder)
        except OSError:  # somebody was quicker: half a ballast is none
            self.drop_ballast()

    def drop_ballast(self) -> None:
        with suppress(OSError):  # it is not there, or the disk takes no change at all
            os.unlink(self._ballast)


def refused_by(folder: Path) -> OSError | None:
    """What keeps the disk under a folder from taking a write now, if that may pass; None if it took one, or fails.

    SQLite does not say why it cannot write, and calls some of these an I/O error: a quota, a file system that was made
    read-only, no room for its shared memory. What is written here has no name: nothing is left of it, whatever happens.
    """
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, PROBE)
        finally:
            os.close(descriptor)
    except OSError as error:
        return error if error.errno in _PASSING else None
    return None


def as_refusal(error: OSError) -> StoreReadOnly:
    """The same for whoever asks for something that has to be stored."""
    if error.errno == errno.EROFS:
        return StoreReadOnly("the file system of the data folder is read-only; make it writable, and Aura goes on")
    if error.errno in (errno.EMFILE, errno.ENFILE):  # nobody knows what the disk would have said
        return StoreReadOnly("the database cannot be written, and too many files are open to see why; Aura tries again")
    return StoreFull(FULL)
