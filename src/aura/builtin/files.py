"""Shipped actions on files: ``file.read write glob remove copy checksum``.

A relative path is below the run's workdir and may not lead out of it, neither by ``..`` nor through a link. An absolute
one is taken as it is: the plan's author asked for it. What is written appears under its name at once and whole, or not
at all. Blocking work goes to threads, a bounded piece at a time, so that a stop is heard between two pieces.
"""

import fnmatch
import hashlib
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

import msgspec

from aura.actions import MAX_OUTPUT, action
from aura.builtin.threads import in_thread
from aura.context import Context

T = TypeVar("T")

#: How much one call in a thread does: bytes to copy or hash, entries to look at or remove.
PIECE = 4 * 1024 * 1024
ENTRIES = 500


class Written(msgspec.Struct, frozen=True):
    """A file that was written: its absolute path and its size."""

    path: str
    bytes: int


# -- the actions ------------------------------------------------------------------------------------------------------


@action(name="file.read")
async def read(ctx: Context, path: str) -> str:
    """Read a text file (UTF-8, 1 MiB at most)."""
    return await in_thread(_read_text, inside(ctx.workdir, path))


@action(name="file.write")
async def write(ctx: Context, path: str, content: str) -> Written:
    """Write a text file as a whole; missing folders are made."""
    target = inside(ctx.workdir, path)
    data = _encoded(target, content)
    await in_thread(_write_all, target, data)
    return Written(str(target), len(data))


@action(name="file.glob")
async def glob(ctx: Context, pattern: str, root: str = ".") -> list[str]:
    """Find files and folders by a pattern such as **/*.csv, sorted."""
    folder = inside(ctx.workdir, root)
    parts = _pattern_parts(pattern)
    await in_thread(os.listdir, folder)  # says clearly when there is no such folder, or it may not be read
    found: set[str] = set()
    size = 0
    async for path in _in_pieces(_matches(folder, parts)):
        if path and path not in found:
            found.add(path)
            size += len(os.fsencode(path)) + 3
        if size > MAX_OUTPUT:
            message = f"{pattern} in {folder} matches more than {len(found)} paths, which is more than a step can give"
            raise ValueError(f"{message}; narrow the pattern")
    return sorted(found)


@action(name="file.remove")
async def remove(ctx: Context, path: str, missing_ok: bool = True) -> bool:
    """Remove a file, a link, or a folder with all that is in it; say whether there was one."""
    target = inside(ctx.workdir, path, follow=False)
    if Path(os.path.realpath(ctx.workdir)).is_relative_to(target):
        raise PermissionError(f"{target} holds the run's own workdir and is not removed")
    try:
        kind = target.lstat().st_mode
    except FileNotFoundError:
        if missing_ok:
            return False
        raise
    if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
        raise PermissionError(f"{target} is a device and is not removed")
    if stat.S_ISDIR(kind):
        async for _ in _in_pieces(_removals(target)):
            pass
    else:
        await in_thread(target.unlink, missing_ok)
    return True


@action(name="file.copy")
async def copy(ctx: Context, source: str, target: str) -> Written:
    """Copy a file with its permissions; a target that is a folder gets it under the same name."""
    origin = inside(ctx.workdir, source)
    goal = inside(ctx.workdir, target)
    if goal.is_dir():
        goal = goal / origin.name
    if goal.exists() and goal.samefile(origin):
        raise ValueError(f"{origin} would be copied onto itself")
    copied = 0
    with await in_thread(_open_regular, origin) as reader, Partial(goal) as writer:
        size = os.fstat(reader.fileno()).st_size
        while count := await in_thread(_copy_piece, reader, writer.file):
            copied += count
            ctx.progress(copied, max(size, copied), goal.name)
        await in_thread(writer.publish, stat.S_IMODE(os.fstat(reader.fileno()).st_mode))
    return Written(str(goal), copied)


@action(name="file.checksum")
async def checksum(ctx: Context, path: str, algorithm: str = "sha256") -> str:
    """Compute a checksum of a file's content, as hexadecimal text."""
    if algorithm not in _algorithms():
        raise ValueError(f"unknown algorithm {algorithm!r}; there are {', '.join(_algorithms())}")
    hashed = hashlib.new(algorithm, usedforsecurity=False)
    with await in_thread(_open_regular, inside(ctx.workdir, path)) as reader:
        while piece := await in_thread(reader.read, PIECE):
            await in_thread(hashed.update, piece)
    return hashed.hexdigest()


# -- paths ------------------------------------------------------------------------------------------------------------


def inside(workdir: Path, path: str, *, follow: bool = True) -> Path:
    """Give the absolute path that is meant, links resolved; without ``follow`` a last part that is a link is kept.

    Raises:
        PermissionError: it is relative and leads out of ``workdir``. ValueError: it is no path.
    """
    _refuse_no_path(path)
    base = os.path.realpath(workdir)
    joined = os.path.join(base, path)
    folder, name = os.path.split(joined)
    if follow or name in ("", ".", ".."):
        found = Path(os.path.realpath(joined))
    else:
        found = Path(os.path.realpath(folder), name)
    if not os.path.isabs(path) and not found.is_relative_to(base):
        raise PermissionError(f"{path} leads out of the run's workdir; give an absolute path if that is meant")
    return found


def _refuse_no_path(path: str) -> None:
    if "\0" in path:
        raise ValueError(f"{path!r:.200} has a NUL character, which is in no path")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"{path!r:.200} has half a character (a lone surrogate), which is in no path") from None


def _open_regular(path: Path) -> BinaryIO:
    """Open an ordinary file to be read; anything else (a folder, a pipe, a device) is an error, and never a wait."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)  # links are resolved already
    file = os.fdopen(os.dup(handle), "rb") if stat.S_ISREG(os.fstat(handle).st_mode) else None
    os.close(handle)
    if file is None:
        _refuse_special(path)
        raise OSError(f"{path} is not an ordinary file")
    return file


def _refuse_special(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not an ordinary file")


class Partial:
    """A file that is being written under a name of its own. ``publish`` gives it its real one; else it goes again."""

    def __init__(self, target: Path) -> None:
        _refuse_special(target)
        _make_folders(target.parent)
        self._target = target
        self._path = target.with_name(f".aura-{secrets.token_hex(8)}.partial")
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self.file: BinaryIO = os.fdopen(handle, "wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.file.close()
        finally:
            self._path.unlink(missing_ok=True)

    def publish(self, mode: int | None = None) -> None:
        """Bring it to the disk and put it in its place, with ``mode``, else with that of the file it replaces."""
        self.file.flush()
        if mode is None and self._target.exists():
            mode = stat.S_IMODE(self._target.stat().st_mode)
        if mode is not None:
            os.fchmod(self.file.fileno(), mode)
        os.fsync(self.file.fileno())
        self._path.replace(self._target)
        _sync_folder(self._target.parent)


def _make_folders(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        message = f"{folder} cannot be made: {error.filename} is not a folder; give another path, or remove it first"
        raise NotADirectoryError(message) from None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- what runs in a thread --------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    with _open_regular(path) as file:
        data = file.read(MAX_OUTPUT + 1)
    if len(data) > MAX_OUTPUT:
        raise ValueError(f"{path} is larger than {MAX_OUTPUT} bytes, which is the most that a step can give")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: byte {error.start} does not fit") from None


def _encoded(target: Path, content: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        message = f"the content for {target} has half a character (a lone surrogate) at position {error.start}"
        raise ValueError(f"{message}; it cannot be written as UTF-8") from None


def _write_all(target: Path, data: bytes) -> None:
    with Partial(target) as writer:
        writer.file.write(data)
        writer.publish()


def _copy_piece(reader: BinaryIO, writer: BinaryIO) -> int:
    return writer.write(reader.read(PIECE))


def _algorithms() -> list[str]:
    return sorted(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake_"))


def _pattern_parts(pattern: str) -> list[str]:
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if pattern.startswith("/") or ".." in parts:
        raise ValueError(f"the pattern {pattern!r} must be relative and without `..`; give the folder as `root`")
    return parts


def _matches(root: Path, parts: Sequence[str]) -> Iterator[str | None]:
    """Give each match, and None for each entry that was looked at in vain. Links to folders are not followed."""
    fits = [_part_matcher(part) for part in parts]
    todo = [(str(root), 0)] if parts else []
    while todo:
        folder, at = todo.pop()
        deep, last = parts[at] == "**", at == len(parts) - 1
        if deep and not last:
            todo.append((folder, at + 1))
        for entry in _entries(folder):
            fit = fits[at](entry.name)
            if fit and (deep or not last) and entry.is_dir(follow_symlinks=False):
                todo.append((entry.path, at if deep else at + 1))
            yield entry.path if fit and last else None


def _part_matcher(part: str) -> Callable[[str], bool]:
    expression = re.compile(fnmatch.translate("*" if part == "**" else part))
    hidden = part.startswith(".")  # as in a shell, a name that begins with a dot must be asked for
    return lambda name: name.startswith(".") <= hidden and expression.match(name) is not None


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []  # it went meanwhile, or is not ours to see


def _removals(top: Path) -> Iterator[str]:
    """Remove a folder and all that is in it, one entry at each step; links are removed, not followed."""
    folders = [str(top)]
    for folder in folders:  # it grows while it is walked
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    os.unlink(entry.path)
                yield entry.path
    for folder in reversed(folders):
        os.rmdir(folder)
        yield folder


async def _in_pieces(items: Iterator[T]) -> AsyncIterator[T]:
    while piece := await in_thread(_piece, items):
        for item in piece:
            yield item


def _piece(items: Iterator[T]) -> list[T]:
    return list(islice(items, ENTRIES))
