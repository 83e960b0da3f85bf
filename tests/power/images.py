"""What a power cut leaves: everything that was synced, and of the rest any part, sector by sector.

The model of a disk: what was written before a file's last sync is there. Of what was written after it each sector of
512 bytes may be there or not, in any order, and each change of a file's size as well. The name of a new file is there
once the file has been synced, as SQLite's own layer sees to; a removed one may come back until its folder is synced.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from tests.power.disk import Delete, Dropped, Entry, Mark, Sync, Truncate, Write

SECTOR = 512


class File:
    """One file: what is on the disk for sure, and what may be."""

    def __init__(self, synced: bytes | None = None) -> None:
        self.synced = synced
        self.open: list[Write | Truncate | Delete] = []

    def settle(self) -> None:
        """Everything so far is on the disk."""
        self.synced = _apply(self.synced, self.open)
        self.open = []


def _apply(content: bytes | None, changes: Sequence[Write | Truncate | Delete]) -> bytes | None:
    made = None if content is None else bytearray(content)
    for change in changes:
        match change:
            case Delete():
                made = None
            case Truncate(_, size):
                made = (made or bytearray())[:size].ljust(size, b"\0")
            case Write(_, offset, data):
                made = bytearray() if made is None else made
                made.extend(bytes(max(0, offset - len(made))))
                made[offset : offset + len(data)] = data
    return None if made is None else bytes(made)


def _sectors(change: Write) -> Iterator[Write]:
    """A write as the sectors of the disk that it touches."""
    at = change.offset
    end = at + len(change.data)
    while at < end:
        upto = min(end, (at // SECTOR + 1) * SECTOR)
        yield Write(change.file, at, change.data[at - change.offset : upto - change.offset])
        at = upto


class Platter:
    """The disk while the log is played."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {"aura.db": File(b"")}  # made and synced before SQLite opens it

    def play(self, entry: Entry) -> None:
        match entry:
            case Mark():
                return
            case Sync(name):
                new = self._file(name).synced is None
                self._file(name).settle()
                if new:  # with a new file SQLite syncs its folder, and with that what was removed from it
                    self._settle_removed()
            case Dropped(name):
                self._file(name).open.clear()
            case Delete(name, synced):
                self._file(name).open.append(entry)
                if synced:
                    self._file(name).settle()
            case Write() | Truncate():
                self._file(entry.file).open.append(entry)

    def _settle_removed(self) -> None:
        for file in self.files.values():
            if any(isinstance(change, Delete) for change in file.open):
                file.settle()

    def _file(self, name: str) -> File:
        return self.files.setdefault(name, File())

    def cut(self, random: Random, folder: Path, chance: float | None = None) -> None:
        """Write into the folder what a power cut now may leave; ``chance``: with how much of what was not synced."""
        chance = random.choice((0.0, 0.1, 0.5, 0.9, 1.0)) if chance is None else chance
        for name, file in self.files.items():
            pieces: list[Write | Truncate | Delete] = []
            for change in file.open:
                pieces += _sectors(change) if isinstance(change, Write) else [change]
            content = _apply(file.synced, [piece for piece in pieces if random.random() < chance])
            if content is not None:
                (folder / name).write_bytes(content)
