"""Workdirs that nobody needs any more: how they go, whatever is in them.

A workdir holds what a run's actions have made: links that lead out of it, folders in folders without end, folders that
may not be read. So nothing in it is followed: every name is looked at below an open folder, a link is a name like any
other, and a folder that is not empty is moved to the top before it is looked into, so that no path grows and none is
walked twice. Only names that are a run's ``cid`` are touched at all.

Everything here blocks, for as long as it takes to remove ``entries`` names, and belongs in a thread.
"""

import errno
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_CID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Names of one folder in memory.
NAMES_AT_ONCE = 1000
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)


class Removed(NamedTuple):
    """``gone``: the names that are not there any more. ``failed``: of what cannot be removed, why. Both may be short of
    what was asked for: then the bound was reached, and there is more to do.
    """

    gone: list[str]
    failed: dict[str, str]


def remove_workdirs(workdirs: Path, names: Sequence[str], entries: int) -> Removed:
    """Remove folders below ``workdirs``, at most about so many names in all of them."""
    removed = Removed([], {})
    try:
        top = os.open(workdirs, _FOLDER)
    except FileNotFoundError:
        return Removed(list(names), {})
    try:
        budget = _Budget(entries)
        for name in names:
            if budget.left <= 0:
                break
            _remove_one(top, name, budget, removed)
    finally:
        os.close(top)
    return removed


def list_workdirs(workdirs: Path, older_than: float) -> list[str]:
    """The names of folders of runs in which nothing was made or removed since ``older_than``, in Unix seconds."""
    found = []
    with suppress(FileNotFoundError), os.scandir(workdirs) as entries:
        for entry in entries:
            if _CID.fullmatch(entry.name):
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode) and status.st_mtime < older_than:
                        found.append(entry.name)
    return found


class _Budget:
    """How many names may still be removed. ``moved`` counts the folders that were moved up: their names come of it."""

    def __init__(self, entries: int) -> None:
        self.left = entries
        self.moved = 0


def _remove_one(top: int, name: str, budget: _Budget, removed: Removed) -> None:
    try:
        # what is no run's name has no workdir: whatever is there is none of ours
        if not _CID.fullmatch(name) or _remove_folder(top, name, budget):
            removed.gone.append(name)
    except FileNotFoundError:
        removed.gone.append(name)
    except OSError as error:
        removed.failed[name] = str(error)


def _remove_folder(top: int, name: str, budget: _Budget) -> bool:
    """Remove a folder and what is in it; say whether it is gone, or the bound was reached."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=top)  # somebody has put a file, or a link, in its place
        return True
    folder = _open(name, top)
    try:
        while _names(folder):
            if not _empty(folder, budget):
                return False
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)
    budget.left -= 1
    return True


def _empty(folder: int, budget: _Budget) -> bool:
    """Remove what is in the folder now, and move to it what is one deeper; say whether the bound was not reached."""
    for name in _names(folder):
        if budget.left <= 0:
            return False
        budget.left -= 1
        if not _remove_name(folder, name):
            below = _open(name, folder)
            try:
                _lift(below, folder, budget)
            finally:
                os.close(below)
    return True


def _lift(below: int, folder: int, budget: _Budget) -> None:
    """Remove what a folder holds; folders in it that are not empty move up to ``folder``."""
    for name in _names(below):
        if budget.left <= 0:
            return
        budget.left -= 1
        if not _remove_name(below, name):
            os.close(_open(name, below))  # it can be moved only if it can be written to
            _move_up(name, below, folder, budget)


def _remove_name(folder: int, name: str) -> bool:
    """Remove a name that is no folder, or an empty one; say whether it is gone."""
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
            return False
    return True


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry, _ in zip(entries, range(NAMES_AT_ONCE), strict=False)]


def _move_up(name: str, below: int, folder: int, budget: _Budget) -> None:
    while True:
        budget.moved += 1
        try:
            os.rename(name, f".moved-{budget.moved}", src_dir_fd=below, dst_dir_fd=folder)
        except OSError as error:
            if error.errno not in (*_NOT_EMPTY, errno.ENOTDIR):  # else that name is taken
                raise
        else:
            return


def _open(name: str, below: int) -> int:
    """Open a folder that is no link, and make it ours to change; a run may have taken that right away.

    The right is given to the opened folder and not to its name, so a link in its place gains nothing.
    """
    try:
        handle = os.open(name, _FOLDER, dir_fd=below)
    except PermissionError:
        pinned = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=below)
        try:
            os.chmod(f"/proc/self/fd/{pinned}", 0o700)
        finally:
            os.close(pinned)
        return os.open(name, _FOLDER, dir_fd=below)
    with suppress(PermissionError):
        os.fchmod(handle, 0o700)
    return handle
