"""What the machine is: system, cores, memory, disks, network interfaces. Small files that the kernel answers at once.

``PROC``, ``SYS`` and ``ETC`` are where they are; in a container some may be missing, and then so is what they say.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aura import action

from .parsing import Cores, Memory, parse_cores, parse_memory, parse_release, parse_uptime

PROC, SYS, ETC = Path("/proc"), Path("/sys"), Path("/etc")
#: ``/sys/block/*/size`` counts in this, whatever the disk does.
SECTOR = 512


@dataclass
class System:
    """The machine's name, its kernel and how long it has been up, in seconds."""

    host: str
    kernel: str
    architecture: str
    name: str
    uptime_s: float


@dataclass
class Disk:
    """A block device; ``rotational`` is null where the kernel does not say."""

    name: str
    model: str
    bytes: int
    rotational: bool | None
    removable: bool


@dataclass
class Interface:
    """A network interface with what has passed it since it is there; ``speed_mbit`` is null where nothing is known."""

    name: str
    state: str
    address: str
    mtu: int
    speed_mbit: int | None
    received: int
    sent: int


@action
async def system() -> System:
    """Name the machine, its kernel and how long it has been up."""
    said = os.uname()
    release = parse_release(_text(ETC / "os-release"))
    return System(said.nodename, said.release, said.machine, release, parse_uptime((PROC / "uptime").read_text()))


@action
async def cores() -> Cores:
    """Count the processors and say how busy they are."""
    found = parse_cores((PROC / "cpuinfo").read_text())
    found.usable = len(os.sched_getaffinity(0))
    found.load = os.getloadavg()
    return found


@action
async def memory() -> Memory:
    """Say how much memory there is and how much is free."""
    return parse_memory((PROC / "meminfo").read_text())


@action
async def disks() -> list[Disk]:
    """List the disks; empty loop devices and the like are left out, and a container may have none."""
    return [disk for path in _entries(SYS / "block") if (disk := _disk(path)).bytes]


@action
async def interfaces() -> list[Interface]:
    """List the network interfaces."""
    return [_interface(path) for path in _entries(SYS / "class/net") if path.is_dir()]


def _disk(path: Path) -> Disk:
    vendor, model = (_text(path / "device" / part) for part in ("vendor", "model"))
    model = f"{vendor} {model}".strip() if model else ""  # of a virtual disk the vendor is only a number
    spins = {"0": False, "1": True}.get(_text(path / "queue/rotational"))
    return Disk(path.name, model, (_number(path / "size") or 0) * SECTOR, spins, _text(path / "removable") == "1")


def _interface(path: Path) -> Interface:
    speed = _number(path / "speed")
    received, sent = (_number(path / "statistics" / name) or 0 for name in ("rx_bytes", "tx_bytes"))
    state, address = _text(path / "operstate"), _text(path / "address")
    return Interface(path.name, state, address, _number(path / "mtu") or 0, speed, received, sent)


def _entries(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.iterdir()) if folder.is_dir() else [])


def _text(path: Path) -> str:
    """A file's text without what surrounds it; empty if it cannot be read (a link that is down has no speed)."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    """A file's number; None if it has none, or -1 for none."""
    text = _text(path)
    return int(text) if text.isdecimal() else None
