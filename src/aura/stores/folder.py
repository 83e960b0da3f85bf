"""The data folder: made private, locked by one process, told apart from all others.

Only the lock counts (``flock`` on ``aura.lock``, closed on exec, so that no surviving child can hold it); what is
written in the file only says who holds it. A folder on a network file system is refused: neither such a lock nor the
database's shared memory can be trusted there.
"""

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from aura.errors import StoreCannotCreate, StoreInUse

LOCK_NAME = "aura.lock"
DATABASE_NAME = "aura.db"
#: Where Linux says what is mounted (proc(5)); elsewhere it is not there, and no folder is refused.
MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "fuse.sshfs", "davfs", "fuse.davfs"})


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
            StoreInUse: another process owns it; the message names it.
        """
        lock = -1
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(path, 0o700)
            _check_local(path)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(path / LOCK_NAME, flags, 0o600)
        except OSError as error:
            message = f"the data folder {path} cannot be used: {error.strerror}; choose another with --data"
            raise StoreCannotCreate(message) from error
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
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(who).encode(), 0)


def _name(holder: str) -> str:
    try:
        who = json.loads(holder)
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
