"""Reads an archive back and compares it with what was packed: each name, each size, each content."""

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aura import Context, action

from .archive import CHUNK, MANIFEST
from .naming import CHECKSUM
from .slices import in_slices


class ArchiveDamaged(Exception):
    """The archive is not what was packed. It has been set aside under another name."""


@dataclass
class Verified:
    """What was read back, and was as it should be."""

    entries: int = 0
    files: int = 0
    bytes: int = 0


@action
async def verify(ctx: Context, archive: str, sha256: str) -> Verified:
    """Read an archive back and compare it with what was packed; set it aside if it is damaged."""
    path, manifest = Path(archive), ctx.workdir / MANIFEST
    total = path.stat().st_size
    reading = Reading(path, manifest, sha256)
    try:
        await in_slices(reading.run(), lambda: ctx.progress(min(reading.read, total), total, "reading back"))
    except ArchiveDamaged:
        set_aside(path)
        raise
    return reading.result


def set_aside(archive: Path) -> None:
    """Take an archive's good name away from it."""
    archive.rename(archive.with_name(archive.name + ".damaged"))
    with suppress(FileNotFoundError):
        archive.with_name(archive.name + CHECKSUM).unlink()


class Reading:
    """Reads one archive. ``read`` counts the bytes of the archive that have been read."""

    def __init__(self, archive: Path, manifest: Path, sha256: str) -> None:
        self._archive = archive
        self._manifest = manifest
        self._sha256 = sha256
        self.result = Verified()
        self.read = 0

    def run(self) -> Generator[None, None, None]:
        """Compare; a step for each entry and each megabyte.

        Raises:
            ArchiveDamaged: the archive cannot be read, or differs.
        """
        with open(self._archive, "rb") as file, open(self._manifest) as manifest:
            hashing = _Hashing(file)
            try:
                with gzip.GzipFile(fileobj=hashing) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
                    for _ in self._compare(tar, manifest):
                        self.read = hashing.read_bytes
                        yield
                    while plain.read(CHUNK):  # the end of the archive, and the checksum of gzip's own
                        yield
            except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
                raise ArchiveDamaged(f"{self._archive} cannot be read back: {error}") from error
        if hashing.hexdigest() != self._sha256:
            raise ArchiveDamaged(f"{self._archive} has SHA-256 {hashing.hexdigest()}, not {self._sha256}")

    def _compare(self, tar: tarfile.TarFile, manifest: Iterator[str]) -> Iterator[None]:
        for member in tar:
            found = yield from self._entry(tar, member)
            expected = json.loads(next(manifest, "null"))
            if found != expected:
                raise ArchiveDamaged(f"{self._archive} has {found} where {expected} was packed")
            self.result.entries += 1
            tar.members = []  # type: ignore[attr-defined]  # it would remember them all
            yield
        if missing := next(manifest, None):
            raise ArchiveDamaged(f"{self._archive} ends where {json.loads(missing)} was packed")

    def _entry(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Generator[None, None, list[object]]:
        if member.isdir():
            return ["folder", member.name]
        if member.issym():
            return ["link", member.name, member.linkname]
        digest, size = hashlib.sha256(), 0
        content = tar.extractfile(member)
        while content and (piece := content.read(CHUNK)):
            digest.update(piece)
            size += len(piece)
            yield
        self.result.files += 1
        self.result.bytes += size
        return ["file", member.name, size, digest.hexdigest()]


class _Hashing(io.RawIOBase):
    """A file that knows the SHA-256 of what was read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self.read_bytes += len(data)
        return data

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
