"""Reads what the kernel writes in ``/proc``: text in, values out, no file is opened here. Sizes are in bytes."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

#: File systems that only look like some: nothing is stored in them, or they are only mounted when asked.
PSEUDO = frozenset(
    {"autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"}
    | {"fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "selinuxfs"}
    | {"squashfs", "sysfs", "tmpfs", "tracefs"}
)
#: File systems that somebody else answers for, who may be gone.
REMOTE = frozenset(
    {"9p", "afs", "ceph", "cifs", "davfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"}
)
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass
class Cores:
    """The processors. ``threads`` is what the system schedules on; ``usable`` is what this process may use."""

    model: str
    sockets: int
    cores: int
    threads: int
    usable: int = 0
    load: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass
class Memory:
    """The memory; ``available`` is what could be had without swapping."""

    total: int
    available: int
    swap_total: int
    swap_free: int


@dataclass
class Mount:
    """One mounted file system. ``remote`` says that reading it may take for ever."""

    path: str
    source: str
    kind: str
    read_only: bool
    remote: bool


@dataclass
class Stat:
    """One process: ``ticks`` of processor time, ``pages`` of memory that is its own at the moment."""

    pid: int
    name: str
    state: str
    ticks: int
    pages: int


def parse_cores(text: str) -> Cores:
    """Read ``/proc/cpuinfo``. Where it does not tell cores from threads (as on ARM), each thread counts as a core."""
    blocks = [dict(_pairs(block)) for block in text.split("\n\n")]
    threads = [block for block in blocks if "processor" in block]
    sockets = {block.get("physical id", "0") for block in threads}
    cores = {(block.get("physical id", "0"), block.get("core id", block["processor"])) for block in threads}
    named = (block[key] for key in ("model name", "Model", "Hardware") for block in blocks if block.get(key))
    return Cores(next(named, "unknown"), len(sockets), len(cores), len(threads))


def parse_memory(text: str) -> Memory:
    """Read ``/proc/meminfo``. Kernels before 3.14 do not say what is available: then it is what is free or cached."""
    found = {key: int(value.split()[0]) * 1024 for key, value in _pairs(text) if value[:1].isdigit()}
    cached = sum(found.get(key, 0) for key in ("MemFree", "Buffers", "Cached"))
    available = found.get("MemAvailable", cached)
    return Memory(found["MemTotal"], available, found.get("SwapTotal", 0), found.get("SwapFree", 0))


def parse_mounts(text: str) -> list[Mount]:
    """Read ``/proc/self/mountinfo``: each device once, at the shortest of its paths, in the order of the paths."""
    top: dict[str, tuple[str, Mount]] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        _, _, device, _, path, options = before.split()[:6]
        kind, source, of_device = after.split()[:3]
        flags = {*options.split(","), *of_device.split(",")}
        remote = kind in REMOTE or kind.startswith("fuse")
        path = _unescaped(path)
        top[path] = (
            device,
            Mount(path, _unescaped(source), kind, "ro" in flags, remote),
        )  # the latest hides the others
    shown: dict[str, Mount] = {}
    for device, mount in sorted(top.values(), key=lambda item: (len(item[1].path), item[1].path)):
        if mount.kind not in PSEUDO:
            shown.setdefault(device, mount)
    return sorted(shown.values(), key=lambda mount: mount.path)


def parse_stat(text: str) -> Stat:
    """Read ``/proc/PID/stat``; the name stands in brackets and may have anything in it, brackets too."""
    begin, _, rest = text.rpartition(")")
    pid, _, name = begin.partition("(")
    fields = rest.split()
    return Stat(int(pid), name, fields[0], int(fields[11]) + int(fields[12]), int(fields[21]))


def parse_uptime(text: str) -> float:
    """Read ``/proc/uptime``: seconds since the start."""
    return float(text.split()[0])


def parse_release(text: str) -> str:
    """Read ``/etc/os-release``: the system's name for people; empty if it says none."""
    for line in text.splitlines():
        if line.startswith("PRETTY_NAME="):
            return " ".join(shlex.split(line.partition("=")[2]))
    return ""


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            yield key.strip(), value.strip()


def _unescaped(path: str) -> str:
    """Undo how mountinfo writes spaces, tabs, line ends and backslashes."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), path)
