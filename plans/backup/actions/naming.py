"""What archives are called, which of them belong together, and the file that one is written to before it has its name.

An archive is ``<name>-<time>.tar.gz`` with the time in UTC, so that the order of the names is that of time; its
checksum is beside it in ``….tar.gz.sha256``, as ``sha256sum`` writes it. While it is being written it is called
``….tar.gz.partial`` and locked: one that is not locked was left by something that died.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".tar.gz"
PARTIAL = ".partial"
CHECKSUM = ".sha256"
_STAMP = r"\d{8}T\d{6}\.\d{6}Z"


def check_paths(source: str, target: str, name: str) -> tuple[Path, Path, str]:
    """Give the folder to pack, the folder for the archive, and the archives' name."""
    for what, path in (("source", source), ("target", target)):
        if not os.path.isabs(path):
            raise ValueError(f"{what} must be an absolute path, not {path!r}")
    folder, goal = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if not folder.is_dir():
        raise NotADirectoryError(f"the source {folder} is not a folder")
    if goal.is_relative_to(folder):
        raise ValueError(f"the target {goal} is inside the source {folder}: the archive would have to contain itself")
    name = name or folder.name or "root"
    if "/" in name or "\0" in name or name.startswith("."):
        raise ValueError(f"{name!r} cannot be the beginning of a file's name")
    return folder, goal, name


def archive_path(folder: Path, name: str) -> Path:
    """Give the path for a new archive."""
    return folder / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{SUFFIX}"


def name_of(archive: Path) -> str:
    """Give the name that an archive was made under."""
    found = re.fullmatch(rf"(.+)-{_STAMP}{re.escape(SUFFIX)}", archive.name, re.DOTALL)
    if not found:
        raise ValueError(f"{archive} is not called as an archive of this plan is")
    return found[1]


def archives_of(folder: Path, name: str, ending: str = "") -> list[Path]:
    """Give the archives of a name, the oldest first; with ``ending``, the files that belong to them."""
    pattern = re.compile(rf"{re.escape(name)}-{_STAMP}{re.escape(SUFFIX + ending)}", re.DOTALL)
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))


@contextmanager
def open_partial(archive: Path) -> Iterator[BinaryIO]:
    """Write an archive under its partial name; it gets its own at the end of the block, or is removed."""
    partial = archive.with_name(archive.name + PARTIAL)
    with open(partial, "xb", opener=_open_private) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.rename(archive)
            sync_folder(archive.parent)
        finally:
            partial.unlink(missing_ok=True)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # what is in it may not be for everybody


def remove_stale(folder: Path, name: str) -> list[Path]:
    """Remove the partial archives that nobody is writing any more, and give their paths."""
    return [partial for partial in archives_of(folder, name, PARTIAL) if _remove_if_stale(partial)]


def _remove_if_stale(partial: Path) -> bool:
    try:
        with open(partial, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False  # somebody is writing it, or has just finished
    return True


def write_checksum(archive: Path, sha256: str) -> None:
    """Write the checksum's file, whole or not at all."""
    path = archive.with_name(archive.name + CHECKSUM)
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            file.write(f"{sha256}  ".encode() + os.fsencode(archive.name) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
