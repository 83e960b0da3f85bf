"""The data folder: made private, locked by one process, told apart from all others.

Only the lock counts (``flock`` on ``aura.lock``, closed on exec, so that no surviving child can hold it); what is
written in the file only says who holds it. A folder on a network file system is refused: neither such a lock nor the
database's shared memory can be trusted there.
"""

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from aura.errors import StoreCannotCreate, StoreError, StoreInUse, StoreIOError, StoreNotPermitted

LOCK_NAME = "aura.lock"
DATABASE_NAME = "aura.db"
#: Where Linux says what is mounted (proc(5)); elsewhere it is not there, and no folder is refused.
MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "fuse.sshfs", "davfs", "fuse.davfs"})


#: What to do about an error of the system, where that is known better than where it happened.
_ADVICE = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room on its disk",
    errno.EROFS: "make its file system writable, or choose another with --data",
    errno.EMFILE: "let the process open more files: ulimit -n, or LimitNOFILE= of its unit",
    errno.ENFILE: "too many files are open on this machine: end what opens them",
    errno.EACCES: "run the server as its owner, or choose another with --data",
    errno.EPERM: "run the server as its owner, or choose another with --data",
    errno.EIO: "its disk fails; the system's log (dmesg) may say more",
}


#: What an error of the system is, if not that something cannot be made.
_KINDS: dict[int, type[StoreError]] = {
    errno.EACCES: StoreNotPermitted,
    errno.EPERM: StoreNotPermitted,
    errno.EIO: StoreIOError,
}


def cannot_use(what: str, error: OSError, advice: str) -> StoreError:
    """The error that ends a start for an error of the system; ``advice`` is what to do if nothing better is known."""
    kind = _KINDS.get(error.errno or 0, StoreCannotCreate)
    return kind(f"{what}: {error.strerror or error}; {_ADVICE.get(error.errno or 0, advice)}")


def is_known(error: OSError) -> bool:
    """Whether it is of this machine rather than a fault of Aura's: it is known what to do about it."""
    return error.errno in _ADVICE


class DataFolder:
    """A data folder that this process owns from ``open`` to ``release``."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    @classmethod
    def open(cls, path: Path) -> "DataFolder":
        """Make the folder (0700) if it is missing, and lock it.

        Raises:
            StoreCannotCreate: the folder or its lock file cannot be made, or it is on a network file system.
            StoreNotPermitted: it is another user's.
            StoreInUse: another process owns it; the message names it.
        """
        lock = -1
        try:
            _make(path)
            os.chmod(path, 0o700)
            _check_local(path)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(path / LOCK_NAME, flags, 0o600)
        except OSError as error:
            raise cannot_use(f"the data folder {path} cannot be used", error, "choose another with --data") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(lock, 1000).decode(errors="replace")
            os.close(lock)
            raise StoreInUse(f"the data folder {path} is in use by {_name(holder)}; stop it first") from error
        _sign(lock)
        return cls(path, lock)

    @property
    def database(self) -> Path:
        return self.path / DATABASE_NAME

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would let two processes lock two files."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # a child that is just being forked still shares the descriptor
            os.close(self._lock)
            self._lock = None


def sync_folder(path: Path) -> None:
    """Bring a folder's list of files to the disk: without it a power cut may take a file that has just been made."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(path: Path) -> None:
    """Make the folder and those above it that are missing, so that they stay."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def _check_local(path: Path) -> None:
    kind = file_system(path)
    if kind in NETWORK:
        message = f"the data folder {path} is on a network file system ({kind}), where no database is safe"
        raise StoreCannotCreate(f"{message}; choose a folder on a local disk with --data")


def file_system(path: Path) -> str:
    """The kind of file system that a folder is on, such as ``ext4``; empty if nothing says so."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in MOUNTS.read_text(errors="replace").splitlines():
            mount, _, source = line.partition(" - ")
            if mount.split()[2] == number:
                return source.split()[0]
    return ""


def _sign(lock: int) -> None:
    who = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    with suppress(OSError):  # a full disk has no room for it, and the lock holds without
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(who).encode(), 0)


def _name(holder: str) -> str:
    try:
        who = json.loads(holder)
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
