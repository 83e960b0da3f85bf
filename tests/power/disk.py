"""A disk that remembers: a layer below SQLite that writes down what reaches each file, and fails when it is told to.

What SQLite writes goes to real files, and into a log of what happened in its order. From the log ``images`` makes what
a power cut at any moment may leave. The same layer can fail a call, once or from then on, as a bad disk does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apsw

#: What a failing call says.
ERRORS: dict[str, tuple[type[apsw.Error], int]] = {
    "write": (apsw.IOError, apsw.SQLITE_IOERR_WRITE),
    "sync": (apsw.IOError, apsw.SQLITE_IOERR_FSYNC),
    "truncate": (apsw.IOError, apsw.SQLITE_IOERR_TRUNCATE),
    "read": (apsw.IOError, apsw.SQLITE_IOERR_READ),
    "delete": (apsw.IOError, apsw.SQLITE_IOERR_DELETE),
    "open": (apsw.CantOpenError, apsw.SQLITE_CANTOPEN),
    "lock": (apsw.BusyError, apsw.SQLITE_BUSY),
    "full": (apsw.FullError, apsw.SQLITE_FULL),
}


class Write(NamedTuple):
    """Bytes for a file, at an offset."""

    file: str
    offset: int
    data: bytes


class Truncate(NamedTuple):
    """A file was cut to a size."""

    file: str
    size: int


class Sync(NamedTuple):
    """Everything written to a file so far is on the disk, and its name in the folder."""

    file: str


class Dropped(NamedTuple):
    """A sync failed: what it was to bring to the disk is gone for good, as on Linux, whatever a later one says."""

    file: str


class Delete(NamedTuple):
    """A file was removed; ``synced``: and the folder brought to the disk."""

    file: str
    synced: bool


class Mark(NamedTuple):
    """Something that was true at this moment, of which the disk knows nothing: what somebody was told."""

    fact: Any


Entry = Write | Truncate | Sync | Dropped | Delete | Mark


class Disk:
    """The log of one folder, and the plan of its faults. ``honest=False``: it says synced and has done nothing."""

    def __init__(self, *, honest: bool = True) -> None:
        self.log: list[Entry] = []
        self.honest = honest
        #: How often each kind of call was made, and which one is to fail: kind, number, for ever.
        self.calls: dict[str, int] = {}
        self.fault: tuple[str, int, bool] | None = None
        self.failed = 0
        #: The process that writes to it has ended: nothing more gets there.
        self.dead = False
        #: Loop time since which it took nothing, for a reason that may pass.
        self.unwell_since = float("inf")
        #: Whether each commit is noted with what the database holds then.
        self.digests = True

    def mark(self, fact: Any) -> None:
        self.log.append(Mark(fact))

    def pass_call(self, kind: str, fails: str | None = None) -> None:
        """Count a call, and fail it if it is its turn."""
        count = self.calls[kind] = self.calls.get(kind, 0) + 1
        if self.dead:
            raise _error("write", count)
        if self.fault is None or self.fault[0] != (fails or kind):
            return
        _, number, for_ever = self.fault
        if count == number or (for_ever and count > number):
            self.failed += 1
            raise _error(fails or kind, count)


def _error(kind: str, count: int) -> apsw.Error:
    made, code = ERRORS[kind]
    error: Any = made(f"the test's disk fails: {kind} {count}")
    error.extendedresult = code
    error.result = code & 0xFF
    found: apsw.Error = error
    return found


class RecordingFile(apsw.VFSFile):
    """A real file whose changes are written down."""

    def __init__(self, disk: Disk, path: Any, flags: list[int]) -> None:
        super().__init__("unix", path, flags)
        self._disk = disk
        self._name = Path(path.filename() if isinstance(path, apsw.URIFilename) else path).name

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.pass_call("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:
        self._disk.pass_call("write")
        self._disk.pass_call("room", "full")
        super().xWrite(data, offset)
        self._disk.log.append(Write(self._name, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        self._disk.pass_call("truncate")
        super().xTruncate(size)
        self._disk.log.append(Truncate(self._name, size))

    def xSync(self, flags: int) -> None:
        """Nothing is synced for real: what the image has is decided by the log."""
        try:
            self._disk.pass_call("sync")
        except apsw.IOError:
            self._disk.log.append(Dropped(self._name))
            raise
        if self._disk.honest:
            self._disk.log.append(Sync(self._name))

    def xLock(self, level: int) -> None:
        self._disk.pass_call("lock")
        super().xLock(level)


class RecordingVFS(apsw.VFS):
    """Opens such files. One for each disk, registered under a name of its own until it is closed."""

    def __init__(self, disk: Disk) -> None:
        self.name = f"aura-{id(disk)}"
        self._disk = disk
        super().__init__(self.name, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        self._disk.pass_call("open")
        return RecordingFile(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._disk.pass_call("delete")
        super().xDelete(filename, syncdir)
        self._disk.log.append(Delete(Path(filename).name, syncdir))


Connect = Callable[[Path], Any]
