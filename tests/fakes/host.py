"""What tests of embedded servers share: a plan that can hang or exit, and what a process looks like from inside."""

import gc
import linecache
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.plans import write_files

from aura.processes import leftovers

#: Seconds for what takes none on a quiet machine.
SOON = 30.0
#: What a plan of this module calls as ``tests.fakes.host``, in the same process. Replaced by ``gate``.
HOOKS: dict[str, Callable[[], object]] = {}

ACTIONS = """
import asyncio, logging, sys, threading, time
from aura import action
from tests.fakes.host import HOOKS

@action
async def calls(name: str) -> None:
    HOOKS[name]()

@action
def hangs() -> None:
    HOOKS["begun"]()
    HOOKS["wait"]()

@action
async def blocks() -> None:
    HOOKS["begun"]()
    HOOKS["wait"]()

@action
async def swallows() -> None:
    HOOKS["begun"]()
    while not HOOKS["free"]():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pass

@action
async def cleans(seconds: int) -> None:
    HOOKS["entered"]()
    try:
        await asyncio.sleep(3600)
    finally:
        HOOKS["begun"]()
        await asyncio.sleep(seconds)

@action
async def exits() -> None:
    sys.exit(3)

@action
def exits_in_a_thread() -> None:
    sys.exit(3)

@action
async def exits_in_a_child() -> None:
    async def child():
        sys.exit(3)
    await asyncio.create_task(child())

@action
async def interrupts_in_a_child() -> None:
    async def child():
        raise KeyboardInterrupt
    await asyncio.create_task(child())

@action
async def naps() -> None:
    await asyncio.sleep(600)

@action
async def logs(message: str) -> None:
    logging.getLogger("plan").warning(message)
"""


def _task(action: str, **params: Any) -> str:
    return f"steps:\n  - {{name: do, action: {action}, params: {params!r}}}\n"


FILES = {
    "lab/tasks/hello.yaml": (
        "inputs:\n  day: {type: string, default: today}\n"
        "steps:\n  - {name: say, action: log, params: {message: 'hello {{ inputs.day }}'}}\n"
        "returns: {day: '{{ inputs.day }}'}\n"
    ),
    "lab/tasks/nap.yaml": _task("naps"),
    "lab/tasks/cleans.yaml": f"cleanup_timeout: 60s\n{_task('cleans', seconds=60)}",
    "lab/tasks/logs.yaml": _task("logs", message="from a library"),
    "lab/tasks/spawns.yaml": _task("shell.run", shell="sleep 1000 >/dev/null 2>&1 & echo started"),
    **{f"lab/tasks/{name}.yaml": _task(name) for name in ("hangs", "blocks", "swallows")},
    **{f"lab/tasks/{name}.yaml": _task(name) for name in ("exits", "exits_in_a_thread", "exits_in_a_child")},
    "lab/tasks/interrupts_in_a_child.yaml": _task("interrupts_in_a_child"),
    "lab/actions.py": ACTIONS,
}


def write_lab(folder: Path) -> Path:
    """A plans folder with the plan ``lab`` below ``folder``; gives its path."""
    return write_files(folder / "plans", FILES)


class Gate:
    """Holds the plan's actions that hang until ``let_go``; ``begun`` is set when one of them has begun.

    Of ``cleans``, ``entered`` is set when it has begun, and ``begun`` when its clean-up has.
    """

    def __init__(self) -> None:
        self.begun, self.entered, self._free = threading.Event(), threading.Event(), threading.Event()
        HOOKS.update(begun=self.begun.set, wait=lambda: self._free.wait(SOON), free=self._free.is_set)
        HOOKS.update(entered=self.entered.set)

    def let_go(self) -> None:
        self._free.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is open at the end, when what it held has gone."""
    made = Gate()
    before = set(threading.enumerate())
    yield made
    made.let_go()
    for thread in set(threading.enumerate()) - before:
        thread.join(SOON)


def process_state() -> dict[str, Any]:
    """Whatever of a process a server might change and leave behind."""
    umask = os.umask(0)
    os.umask(umask)
    root = logging.getLogger()
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": _open_files(),
        "children": _children(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "umask": umask,
        "collector": (gc.isenabled(), gc.get_threshold()),
        "switch interval": sys.getswitchinterval(),
        "logging": (root.level, list(root.handlers), logging.lastResort),
        "subreaper": leftovers.is_subreaper(),
        "modules": sorted(name for name in sys.modules if name.startswith("_aura_plan_")),
        "lines": sorted(name for name in linecache.cache if "@" in name),
        "import": (list(sys.path), len(sys.meta_path)),
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "temporary": sorted(os.listdir(os.environ.get("TMPDIR", "/nowhere"))) if "TMPDIR" in os.environ else [],
    }


def _open_files() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the listing's own
            continue
    kinds = [name.partition(":")[0] if name.startswith(("socket:", "pipe:")) else name for name in found]
    return sorted(kinds)


def _children() -> list[str]:
    found: list[str] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError):  # a thread that has just ended has none
            found += file.read_text().split()
    return found


@contextmanager
def nothing_left(first: bool = False) -> Iterator[None]:
    """What is done inside leaves the process as it was. A thread, and what it has open, gets a moment to be gone.

    ``first``: it is done for the first time, when Python itself may open files that it keeps.
    """
    before = process_state()
    if first:
        del before["files"]
    yield
    end = time.monotonic() + SOON
    while (found := _changes(before)).keys() <= {"threads", "files"} and found and time.monotonic() < end:
        time.sleep(0.005)
    assert not found, found


#: Of these only what is there now and was not before counts: what an earlier test has let go of may be going still.
_GROWING = ("threads", "files", "children", "modules", "lines")


def _changes(before: dict[str, Any]) -> dict[str, Any]:
    """What is otherwise now, by name: before and after."""
    now = process_state()
    for name in _GROWING:
        if name in before and not Counter(now[name]) - Counter(before[name]):
            now[name] = before[name]
    return {name: (before[name], now[name]) for name in before if before[name] != now[name]}


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that nobody else uses."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder
