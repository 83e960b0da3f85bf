"""What there is left of this machine: its disk, its memory, its cores."""

import os
from pathlib import Path
from typing import TypedDict

from aura import action

MEMINFO = Path("/proc/meminfo")


class Disk(TypedDict):
    """Bytes of a file system, and how many of a hundred of them are free."""

    path: str
    total_bytes: int
    free_bytes: int
    free_percent: float


class Memory(TypedDict):
    """Bytes of memory, and how many of a hundred of them can be had."""

    total_bytes: int
    available_bytes: int
    available_percent: float


class Load(TypedDict):
    """How many processes ran, or waited to, on average over a minute; for each core as well."""

    load: float
    cores: int
    per_core: float


@action
def disk(path: str) -> Disk:
    """How much room there is where a path is."""
    found = os.statvfs(path)
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return Disk(path=path, total_bytes=total, free_bytes=free, free_percent=_percent(free, total))


@action
def memory() -> Memory:
    """How much memory can be had without swapping, as Linux says it."""
    sizes = read_meminfo(MEMINFO.read_text(encoding="ascii"))
    total, available = sizes["MemTotal"], sizes["MemAvailable"]
    return Memory(total_bytes=total, available_bytes=available, available_percent=_percent(available, total))


@action
def load() -> Load:
    """How busy the cores are that this process may use."""
    average, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return Load(load=round(average, 2), cores=cores, per_core=round(average / cores, 2))


@action
def write_all() -> None:
    """Have everything that was written brought to the disks."""
    os.sync()


def read_meminfo(text: str) -> dict[str, int]:
    """The sizes that ``/proc/meminfo`` names, in bytes."""
    words = [line.split() for line in text.splitlines()]
    return {name.rstrip(":"): int(size) * 1024 for name, size, *_ in words if size.isdigit()}


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0
