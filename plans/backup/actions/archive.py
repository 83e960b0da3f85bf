"""Packs a folder. What is packed is listed in the run's workdir, for ``verify`` to compare with."""

import hashlib
import json
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from anyio import to_thread

from aura import Context, action

from .naming import archive_path, check_paths, open_partial, remove_stale, write_checksum
from .slices import in_slices
from .tarfiles import TarWriter, header_of
from .tree import Found, reason, walk

MANIFEST = "manifest.jsonl"
CHUNK = 1024 * 1024
#: How many of the files that could not be read are named; all are counted.
NAMED = 100

Work = Generator[None, None, None]


@dataclass
class Skipped:
    """Something that is not in the archive, and why."""

    path: str
    reason: str


@dataclass
class Archived:
    """An archive. ``bytes`` is the size of the files in it; ``special`` counts pipes, sockets and devices left out."""

    archive: str
    sha256: str = ""
    archive_bytes: int = 0
    files: int = 0
    folders: int = 0
    links: int = 0
    bytes: int = 0
    special: int = 0
    changed: int = 0
    skipped_count: int = 0
    skipped: list[Skipped] = field(default_factory=list)


@action
async def archive(ctx: Context, source: str, target: str, name: str = "") -> Archived:
    """Pack a folder into a compressed archive and write its checksum beside it."""
    folder, goal, name = check_paths(source, target, name)
    goal.mkdir(parents=True, exist_ok=True)
    for stale in await to_thread.run_sync(remove_stale, goal, name):
        ctx.log.warning(f"removed {stale.name}, which a run that died had left")
    count = Count(folder)
    await in_slices(count.run(), lambda: ctx.progress(0, None, f"counting: {count.entries}"))
    packing = Packing(folder, archive_path(goal, name), ctx.workdir / MANIFEST)
    await in_slices(packing.run(), lambda: ctx.progress(packing.seen, max(count.entries, packing.seen), packing.at))
    for skipped in packing.result.skipped:
        ctx.log.warning(f"not in the archive: {skipped.path}: {skipped.reason}")
    return packing.result


class Count:
    """Counts what is in a folder, so that progress has an end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.entries = 0

    def run(self) -> Work:
        for _ in walk(self._folder):
            self.entries += 1
            yield


class Packing:
    """Packs one folder. ``seen`` counts entries, ``at`` is the one it is at."""

    def __init__(self, folder: Path, archive: Path, manifest: Path) -> None:
        self._folder = folder
        self._archive = archive
        self._manifest = manifest
        self._top = folder.name or "root"
        self.result = Archived(str(archive))
        self.seen = 0
        self.at = ""

    def run(self) -> Work:
        """Write archive, checksum and manifest; a step for each entry and each megabyte."""
        with open(self._manifest, "w") as manifest, open_partial(self._archive) as file:
            writer = TarWriter(file)
            for found in walk(self._folder):
                self.at = found.name
                yield from self._add(found, writer, manifest)
                self.seen += 1
                yield
            self.result.sha256 = writer.finish()
            self.result.archive_bytes = writer.written
        write_checksum(self._archive, self.result.sha256)

    def _add(self, found: Found, writer: TarWriter, manifest: IO[str]) -> Work:
        if found.status is None:
            self._skip(found.name, found.problem or "")
        elif stat.S_ISREG(found.status.st_mode):
            yield from self._add_file(found.name, writer, manifest)
        elif stat.S_ISLNK(found.status.st_mode):
            self._add_link(found.name, found.status, writer, manifest)
        elif stat.S_ISDIR(found.status.st_mode):
            writer.add_header(header_of(self._name(found.name), found.status))
            _note(manifest, "folder", self._name(found.name))
            self.result.folders += 1
        else:
            self.result.special += 1

    def _add_link(self, name: str, status: os.stat_result, writer: TarWriter, manifest: IO[str]) -> None:
        try:
            link = os.readlink(self._folder / name)
        except OSError as error:
            self._skip(name, reason(error))
            return
        writer.add_header(header_of(self._name(name), status, link))
        _note(manifest, "link", self._name(name), link)
        self.result.links += 1

    def _add_file(self, name: str, writer: TarWriter, manifest: IO[str]) -> Work:
        try:
            handle = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._skip(name, reason(error))
            return
        with os.fdopen(handle, "rb", buffering=0) as file:
            yield from self._add_content(name, file, writer, manifest)

    def _add_content(self, name: str, file: BinaryIO, writer: TarWriter, manifest: IO[str]) -> Work:
        before = os.fstat(file.fileno())
        try:
            piece = file.read(min(CHUNK, before.st_size))
        except OSError as error:
            self._skip(name, reason(error))
            return
        digest, left = hashlib.sha256(), before.st_size
        writer.add_header(header_of(self._name(name), before))
        while left:
            piece = piece or bytes(min(CHUNK, left))  # it became shorter: the header has promised the rest
            writer.add(piece)
            digest.update(piece)
            left -= len(piece)
            yield
            piece = _read_on(file, min(CHUNK, left))
        writer.end_content(before.st_size)
        _note(manifest, "file", self._name(name), before.st_size, digest.hexdigest())
        self._count_file(before, os.fstat(file.fileno()))

    def _count_file(self, before: os.stat_result, after: os.stat_result) -> None:
        self.result.files += 1
        self.result.bytes += before.st_size
        self.result.changed += (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)

    def _name(self, name: str) -> str:
        return self._top if name == "." else f"{self._top}/{name}"

    def _skip(self, name: str, why: str) -> None:
        self.result.skipped_count += 1
        if len(self.result.skipped) < NAMED:
            self.result.skipped.append(Skipped(os.fsencode(name).decode(errors="replace"), why))


def _read_on(file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError:
        return b""


def _note(manifest: IO[str], *entry: object) -> None:
    manifest.write(json.dumps(entry) + "\n")
