"""The files below a folder that a pattern means, as they are now, and in what they differ from what was known.

It asks a file system, which may be slow or hang: whoever calls ``look_at`` does so in a thread. It opens no file,
follows no link below the folder, and evaluates no name. A file is what its time of modification and its size say: the
same of both is the same file.

A pattern is made of parts between slashes: ``**`` is any number of folders, ``*``, ``?`` and ``[…]`` stand within a
name. As in a shell, only a part that begins with a dot means names that do: what editors and copying programs write
beside a file until it is whole is mostly called so.
"""

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from aura.scheduling.mounts import remote_devices
from aura.watching.folders import Identity, identity_of

#: How many files of one folder may fit, how many entries are looked at for that, and how deep.
MAX_FILES = 100_000
MAX_ENTRIES = 1_000_000
MAX_DEPTH = 32
_ANY = "**"
#: What is not there any more when it is looked at: it was removed a moment ago.
_GONE = (errno.ENOENT, errno.ENOTDIR)


class Sign(NamedTuple):
    """By what a file is known again."""

    mtime_ns: int
    size: int


#: What has become of files, by their path below the folder; None for one that is not there any more.
Changes = Mapping[str, Sign | None]


class Look(NamedTuple):
    """What a look at a folder has found: in what it differs from what was known, and the folders that can ring a bell.

    ``trouble`` is why not all of it could be seen; ``is_blind``: nothing can be said, though there is something.
    """

    changes: Changes
    folders: Mapping[Identity, str] = {}
    trouble: str | None = None
    is_blind: bool = False


class FilePattern:
    """A pattern of names below a folder, as what it still means after each folder on the way (a set of its parts)."""

    def __init__(self, text: str) -> None:
        parts = [part for part in text.split("/") if part]
        if parts and parts[-1] == _ANY:
            parts.append("*")
        self._parts = [None if part == _ANY else re.compile(fnmatch.translate(part)).match for part in parts]
        self._hidden = [part.startswith(".") for part in parts]
        #: What each part means, with those behind it that are met by no folder at all.
        self._from = [self._closed(state) for state in range(len(parts) + 1)]
        self.start = self._from[0]

    def _closed(self, state: int) -> frozenset[int]:
        end = state
        while end < len(self._parts) and self._parts[end] is None:
            end += 1
        return frozenset(range(state, end + 1))

    def step(self, states: frozenset[int], name: str) -> frozenset[int]:
        """What it still means in the folder of that name, or whether it means the file of that name."""
        is_hidden, after = name.startswith("."), frozenset[int]()
        for state in states:
            if state == len(self._parts) or (is_hidden and not self._hidden[state]):
                continue
            match = self._parts[state]
            if match is None:
                after |= self._from[state]
            elif match(name):
                after |= self._from[state + 1]
        return after

    def is_met(self, states: frozenset[int]) -> bool:
        """Whether a file is meant by the parts that have been met."""
        return len(self._parts) in states

    def goes_on(self, states: frozenset[int]) -> bool:
        """Whether it may mean files in the folder that has been met."""
        return any(state < len(self._parts) for state in states)


class _Found(msgspec.Struct):
    """What a walk has seen beside files. ``blind``: paths that could not be looked at; ``trouble``: why the first."""

    remote: frozenset[int]
    folders: dict[Identity, str] = {}
    blind: list[str] = []
    trouble: str | None = None
    is_there: bool = True

    def miss(self, path: str, why: str) -> None:
        self.blind.append(path)
        self.trouble = self.trouble or why

    def hides(self, path: str) -> bool:
        return any(path == one or path.startswith(one and f"{one}/") for one in self.blind)


def look_at(root: str, pattern: FilePattern, known: Mapping[str, Sign]) -> Look:
    """Look at a folder and say in what it differs from what is known of it.

    What could not be seen is as it was: a file that nobody may look at, a folder that is not there, or one with more
    than ``MAX_FILES``, of which nothing is said.
    """
    found, changes, seen = _Found(remote_devices()), dict[str, Sign | None](), set[str]()
    for number, (path, sign) in enumerate(_walk(root, pattern, found)):
        if number == MAX_FILES:
            why = f"more than {MAX_FILES} files in it fit; nothing is told of it until there are fewer"
            return Look({}, found.folders, why, is_blind=True)
        if path in known:
            seen.add(path)
        if known.get(path) != sign:
            changes[path] = sign
    if "" in found.blind:
        return Look({}, found.folders, found.trouble, found.is_there)
    changes |= dict.fromkeys(path for path in known.keys() - seen if not found.hides(path))
    return Look(changes, found.folders, found.trouble)


def _walk(root: str, pattern: FilePattern, found: _Found) -> Iterator[tuple[str, Sign]]:
    """The files that fit, by their path below the root."""
    waiting = [("", pattern.start, 0)]
    looked_at = 0
    while waiting:
        folder, states, depth = waiting.pop()
        for name, status in _entries(root, folder, found):
            looked_at += 1
            if looked_at > MAX_ENTRIES:
                found.miss("", f"it has more than {MAX_ENTRIES} entries; nothing is told of it until there are fewer")
                return
            path, met = _below(folder, name), pattern.step(states, name)
            if stat.S_ISREG(status.st_mode) and pattern.is_met(met):
                yield path, Sign(min(max(status.st_mtime_ns, -(2**63)), 2**63 - 1), status.st_size)
            elif stat.S_ISDIR(status.st_mode) and pattern.goes_on(met):
                if depth < MAX_DEPTH:
                    waiting.append((path, met, depth + 1))
                else:
                    found.miss(path, f"{shown(path)} is more than {MAX_DEPTH} folders deep")


def _entries(root: str, folder: str, found: _Found) -> Iterator[tuple[str, os.stat_result]]:
    """What is in a folder, links as such."""
    whole = os.path.join(root, folder) if folder else root
    try:
        status = os.stat(whole)
        if status.st_dev not in found.remote:
            found.folders[identity_of(status)] = whole
        with os.scandir(whole) as entries:
            for entry in entries:
                try:
                    yield entry.name, entry.stat(follow_symlinks=False)
                except OSError as error:
                    if error.errno not in _GONE:
                        path = _below(folder, entry.name)
                        found.miss(path, f"{shown(path)} cannot be looked at: {error.strerror}")
    except OSError as error:
        if error.errno not in _GONE:
            found.miss(folder, f"{shown(folder) or 'it'} cannot be read: {error.strerror}")
        elif not folder:
            found.is_there = False
            found.miss("", "it is not there")
    except ValueError as error:  # a NUL in the path
        found.miss(folder, f"it is no path: {error}")


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def shown(path: str) -> str:
    """A path as text: bytes of it that are no UTF-8 are written as ``\\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
