"""Helpers for tests that start real processes: what is running with a mark, and how to wait until it is."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from aura.processes import leftovers


def running_of(cid: str) -> list[leftovers.Seen]:
    """Give the living processes of a run; the truth as the kernel has it, whoever started them."""
    return [seen for seen in leftovers.look_at_all() if not seen.zombie and seen.marks.get(leftovers.CID) == cid]


def running_in(folder: Path) -> list[int]:
    """Give the living processes that work in a folder: those too that have thrown their marks away."""
    seen = [seen.pid for seen in leftovers.look_at_all() if not seen.zombie]
    return [pid for pid in seen if pid != os.getpid() and _works_in(pid, folder)]


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(folder)
    except OSError:
        return False


def dead_children() -> list[leftovers.Seen]:
    """Give the children of this process that have ended and that nobody has reaped."""
    return [seen for seen in leftovers.look_at_all() if seen.zombie and seen.parent == os.getpid()]


def has_ended(pid: int) -> bool:
    """Say whether a process is over, reaped or not."""
    seen = leftovers.look_at(pid)
    return seen is None or seen.zombie


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Look until something is so; fails when it does not become so in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        await anyio.sleep(0.01)


async def until_file(path: Path) -> str:
    """Wait until a process has written a file that ends with a line end, and give its text."""
    await until(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text()
