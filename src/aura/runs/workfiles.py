"""What is in a run's workdir, for people who want to see it: a list in pages, and files opened to be read.

A workdir holds whatever the run's actions made, perhaps while it is looked at. So nothing is trusted: each part of a
path is opened below the one before it and never through a link, and only ordinary files are listed and opened. Memory
is bounded by a page and by the depth, whatever is there; time by what one folder holds and by ``MAX_LOOKED_AT``.

Everything here blocks and belongs in a thread. Paths are relative to the workdir, as text with ``surrogateescape`` for
what is not UTF-8.
"""

import heapq
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

#: Folders below this many others are not looked into.
MAX_DEPTH = 64
#: A page ends early after so many entries, at the next folder.
MAX_LOOKED_AT = 100_000

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class WorkFile(NamedTuple):
    """One file; ``modified`` is in Unix seconds."""

    path: str
    bytes: int
    modified: float


class FilePage(NamedTuple):
    """Files in the order of their paths; ``last`` is the path behind which the next page begins, None at the end."""

    files: list[WorkFile]
    last: str | None


class OpenFile(NamedTuple):
    """A file to be read, and what it was when it was opened; who opened it closes ``handle``."""

    handle: int
    bytes: int
    modified_ns: int


def list_files(workdir: Path, after: str, limit: int) -> FilePage:
    """Give the next ``limit`` files behind the path ``after``; a workdir that is not there holds none."""
    walk = _Walk(limit, after)
    with _opened(str(workdir), None) as root:
        if root is not None:
            walk.look_into(root, "", 0)
    if len(walk.files) > limit:
        return FilePage(walk.files[:limit], walk.files[limit - 1].path)
    return FilePage(walk.files, walk.last if walk.is_full else None)


def open_file(workdir: Path, path: str) -> OpenFile:
    """Open a file of a workdir to be read.

    Raises:
        FileNotFoundError: there is no ordinary file of that name that could be read; the message says what is there.
    """
    *folders, name = parts = path.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\0" in path or len(parts) > MAX_DEPTH + 1:
        raise FileNotFoundError("it is not the name of a file")
    with _opened(str(workdir), None) as root:
        return _open_below(root, folders, name)


def _open_below(folder: int | None, folders: list[str], name: str) -> OpenFile:
    if folder is None:
        raise FileNotFoundError("there is no such folder")
    if folders:
        with _opened(folders[0], folder) as next_one:
            return _open_below(next_one, folders[1:], name)
    try:
        handle = os.open(name, _FILE, dir_fd=folder)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"it cannot be opened: {getattr(error, 'strerror', error)}") from error
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode):
        return OpenFile(handle, found.st_size, found.st_mtime_ns)
    os.close(handle)
    raise FileNotFoundError("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is not an ordinary file")


@contextmanager
def _opened(name: str, below: int | None) -> Iterator[int | None]:
    """A folder that is no link; None if there is none, or it is not ours to read."""
    try:
        handle = os.open(name, _FOLDER, dir_fd=below)
    except (OSError, ValueError):
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


class _Entry(NamedTuple):
    """What is in a folder; ``key`` orders it as the paths below it would be: the name of a folder ends with a slash."""

    key: str
    is_folder: bool


class _Walk:
    """One page in the making: goes through folders in the order of their paths until it has one file too many."""

    def __init__(self, limit: int, after: str) -> None:
        self._limit = limit
        self._after = after
        self._looked_at = 0
        self.files: list[WorkFile] = []
        #: Everything up to this path has been seen.
        self.last = after
        self.is_full = False

    def look_into(self, folder: int, prefix: str, depth: int) -> None:
        """Add the files of a folder and of those below it; their paths begin with ``prefix``."""
        bound = self._after
        while entries := self._next_entries(folder, prefix, bound):
            for entry in entries:
                bound = prefix + entry.key
                if entry.is_folder:
                    self._look_below(folder, entry.key, prefix, depth)
                else:
                    self._add(folder, entry.key, bound)
                if self.is_full:
                    return
                self.last = bound

    def _look_below(self, folder: int, key: str, prefix: str, depth: int) -> None:
        if self._looked_at > MAX_LOOKED_AT and self.last != self._after:  # each page gets further, however little
            self.is_full = True
        elif depth < MAX_DEPTH:
            with _opened(key[:-1], folder) as below:
                if below is not None:
                    self.look_into(below, prefix + key, depth + 1)

    def _add(self, folder: int, name: str, path: str) -> None:
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return  # it went meanwhile
        if stat.S_ISREG(found.st_mode):
            self.files.append(WorkFile(path, found.st_size, found.st_mtime))
            self.is_full = len(self.files) > self._limit

    def _next_entries(self, folder: int, prefix: str, after: str) -> list[_Entry]:
        """The next few entries of a folder in order: never more in memory than a page, however many there are."""
        with os.scandir(folder) as entries:
            wanted = (found for entry in entries if (found := self._entry(entry, prefix, after)))
            return heapq.nsmallest(self._limit + 1, wanted)

    def _entry(self, entry: "os.DirEntry[str]", prefix: str, after: str) -> _Entry | None:
        self._looked_at += 1
        try:
            if entry.is_dir(follow_symlinks=False):
                path = f"{prefix}{entry.name}/"
                leads_behind = path > after or (after.startswith(path) and after != path)
                return _Entry(entry.name + "/", True) if leads_behind else None
            is_new_file = prefix + entry.name > after and entry.is_file(follow_symlinks=False)
        except OSError:
            return None  # it went meanwhile
        return _Entry(entry.name, False) if is_new_file else None
