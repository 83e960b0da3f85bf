"""Which file systems are on other machines, or answered by other programs: what changes there rings no bell here.

Nor may anyone but a thread of its own ask for them, since they may hang.
"""

import os

#: Their types, and what the types of those that programs answer begin with (``fuse.sshfs``).
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "glusterfs", "lustre", "ncpfs", "virtiofs"})
_ANSWERED_BY_PROGRAMS = "fuse"
_TABLE = "/proc/self/mountinfo"


def remote_devices(table: str = _TABLE) -> frozenset[int]:
    """The device numbers of those that are mounted now; none where the system does not say (proc(5), mountinfo)."""
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as lines:
            return frozenset(_device(head) for head, _, tail in (one.partition(" - ") for one in lines) if _is(tail))
    except (OSError, ValueError, IndexError):
        return frozenset()


def _device(head: str) -> int:
    major, _, minor = head.split(" ")[2].partition(":")
    return os.makedev(int(major), int(minor))


def _is(tail: str) -> bool:
    kind = tail.split(" ")[0]
    return kind in _REMOTE or kind.startswith(_ANSWERED_BY_PROGRAMS)
