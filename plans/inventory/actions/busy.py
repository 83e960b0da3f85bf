"""Which processes take most of the memory and have taken most of the processor time."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from aura import action

from .parsing import Stat, parse_stat

PROC = Path("/proc")


@dataclass
class Process:
    """One process, by its short name: whole command lines may have secrets in them."""

    pid: int
    name: str
    state: str
    memory: int
    cpu_s: float


@dataclass
class Processes:
    """All processes counted, the greediest named."""

    count: int
    by_memory: list[Process]
    by_cpu: list[Process]


@action
async def processes(top: int = 10) -> Processes:
    """Count the processes and name those with most memory and most processor time."""
    return rank(await to_thread.run_sync(lambda: list(_stats(PROC))), top)


def rank(stats: Iterable[Stat], top: int) -> Processes:
    """Sort by both measures; among equals the older process, by its number, comes first."""
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    made = [Process(s.pid, s.name, s.state, max(s.pages, 0) * page, round(s.ticks / ticks, 2)) for s in stats]
    by_memory = sorted(made, key=lambda process: (-process.memory, process.pid))
    by_cpu = sorted(made, key=lambda process: (-process.cpu_s, process.pid))
    return Processes(len(made), by_memory[:top], by_cpu[:top])


def _stats(proc: Path) -> Iterator[Stat]:
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            try:
                yield parse_stat((entry / "stat").read_text(errors="replace"))
            except OSError:
                continue  # it has ended meanwhile
