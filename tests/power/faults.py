"""A disk that fails at its first call, its second, ...: what becomes of a server and of its data (``make faults``).

The story is told on a disk of which one call fails, once or from then on. A disk that is full, or locked by another
process, is well again after a while. Then it is held against what is promised: the server says in its exit code what
happened, or goes on; what is left, as files and after a power cut, has everything that anybody was told and nothing
that was refused; and a start on it, with the disk well, settles every run.
"""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import anyio
from tests.engine.kit import Opened, opened, until
from tests.power.connection import PowerBackend
from tests.power.disk import Disk, Mark
from tests.power.images import Platter
from tests.power.story import Asked, Began, Fact, Told, missing, tasks, tell

from aura.errors import AuraError, ExitCode, StoreError, StoreReadOnly
from aura.run import leaves_of
from aura.store import Ticket
from aura.stores.sqlite import SqliteBackend
from aura.testing.virtual_time import VirtualLoop

RUNS = 6
SEED = 3
#: Virtual seconds for which a disk that is full or locked for ever is so, longer than any patience; and of a story.
UNWELL = 20.0
LIMIT = 600.0
#: What may pass by itself; all else is a disk that fails.
PASSING = ("full", "lock")
#: What a server that cannot start ends with, and what one that has started; nothing: it may not end.
AT_START = {"open": ExitCode.CANNOT_CREATE, "full": ExitCode.CANNOT_CREATE, "lock": ExitCode.CANNOT_CREATE}
OPS = ("write", "sync", "truncate", "read", "delete", "open", "lock", "full")

#: ``ended``: with its exit code; ``refused``: it went on, and refused something meanwhile; ``went on``: as if nothing
#: had been; ``not reached``: the disk was not asked that often.
Word = Literal["ended", "refused", "went on", "not reached", "wrong"]


class Fault(NamedTuple):
    """The call that fails: of this kind, this number, alone or with all behind it."""

    op: str
    number: int
    for_ever: bool


class Outcome(NamedTuple):
    """What became of it."""

    fault: Fault
    word: Word
    why: str = ""


class MortalBackend(PowerBackend):
    """One whose process ends when its storage is lost: nothing more is written then. What may pass does, in time."""

    def __init__(self, path: Path, disk: Disk) -> None:
        super().__init__(path, disk)
        self._disk = disk

    async def commit(self, batch: Sequence[Ticket]) -> None:
        try:
            await super().commit(batch)
        except StoreReadOnly:
            now = anyio.current_time()
            self._disk.unwell_since = min(self._disk.unwell_since, now)
            if now - self._disk.unwell_since > UNWELL:
                self._disk.fault = None
            raise
        except StoreError:
            self._disk.dead = True
            raise


async def suffer(folder: Path, fault: Fault, backend: type[MortalBackend] = MortalBackend) -> Outcome:
    """Tell the story with one fault, and judge what comes of it."""
    disk = Disk()
    disk.fault, disk.digests = fault, False
    (folder / "disk").mkdir()
    try:
        with anyio.fail_after(LIMIT):
            told = await _tell(folder, disk, backend)
        wrong = [*_check_end(fault, disk, told), *_check_image(folder, disk)]
        wrong += await _check_start(folder, disk)
    except Exception as error:
        wrong = [repr(leaf) for leaf in leaves_of(error)] if isinstance(error, ExceptionGroup) else [repr(error)]
        told = Told([], [], 0.0)
    if wrong:
        return Outcome(fault, "wrong", "; ".join(wrong))
    if not disk.failed:
        return Outcome(fault, "not reached")
    return Outcome(fault, "ended" if told.codes else "refused" if told.refused else "went on")


async def _tell(folder: Path, disk: Disk, backend: type[MortalBackend]) -> Told:
    """Tell the story; a start that is refused is an exit code too."""
    try:
        return await tell(folder, backend(folder / "disk/aura.db", disk), disk.mark, Random(SEED), RUNS)
    except* StoreError as group:
        codes = [error.exit_code for error in leaves_of(group) if isinstance(error, StoreError)]
    return Told(codes, [], anyio.current_time())


# -- what is promised -------------------------------------------------------------------------------------------------


def _facts(disk: Disk) -> list[Fact]:
    return [entry.fact for entry in disk.log if isinstance(entry, Mark)]


def _check_end(fault: Fault, disk: Disk, told: Told) -> Iterator[str]:
    """What the server said of itself."""
    allowed = {ExitCode.IO}
    if fault.op in AT_START and not _facts(disk):
        allowed = {AT_START[fault.op]}
    elif fault.op in AT_START and disk.unwell_since < told.ended_at:  # while it ran, what may pass never ends it
        allowed = set()
    if not set(told.codes) <= allowed:
        yield f"exit codes {told.codes} instead of {allowed}"
    yield from (f"a client got {error!r}" for error in told.refused if not isinstance(error, AuraError))


def _check_image(folder: Path, disk: Disk) -> Iterator[str]:
    """What a power cut would leave now, at worst and by chance."""
    platter = Platter()
    for entry in disk.log:
        platter.play(entry)
    for chance in (0.0, None):
        with TemporaryDirectory(dir=folder) as name:
            platter.cut(Random(SEED), Path(name), chance)
            yield from _check_facts(Path(name), disk, "after a power cut")


def _check_facts(folder: Path, disk: Disk, when: str) -> Iterator[str]:
    with closing(SqliteBackend(folder / "aura.db")) as backend:
        found = backend.execute("PRAGMA integrity_check").fetchone()[0]
        lost = list(missing(backend.execute, _facts(disk)))
    if found != "ok" or lost:
        yield f"{when}: {found}, not as it was told: {lost}"


def _only_waits(kit: Opened) -> bool:
    return all(run.state == "waiting" for run in kit.engine.runtime.open.values())


async def _check_start(folder: Path, disk: Disk) -> list[str]:
    """What was told is in the files as they were left, and still when a server has settled every run of them."""
    left = folder / "left"
    shutil.copytree(folder / "disk", left)
    wrong = list(_check_facts(left, disk, "as it was left"))
    backend = SqliteBackend(left / "aura.db")
    begun: list[Fact] = []
    async with opened(left, *tasks(begun.append), backend=backend, lanes={"main": 4}) as kit:
        await until(partial(_only_waits, kit))
        state = (await kit.run("chain", labels={"n": "again"})).state
        lasting = [fact for fact in _facts(disk) if not isinstance(fact, Began)]
        lost = list(missing(backend.execute, [*lasting, Asked("again")]))
    if state != "succeeded" or lost or kit.left:
        wrong.append(f"started again: a run {state}, exit codes {kit.left}, not as it was told: {lost}")
    return wrong


# -- one call after another -------------------------------------------------------------------------------------------


async def count_calls(folder: Path) -> dict[str, int]:
    """How often the disk is asked for each kind of thing if it is well."""
    disk = Disk()
    disk.digests = False
    (folder / "disk").mkdir()
    await _tell(folder, disk, MortalBackend)
    return disk.calls | {"full": disk.calls["room"]}


def faults(calls: dict[str, int], every: int, first: int) -> Iterator[Fault]:
    """Every so many calls of each kind, from the given one on, each once and for ever."""
    for op in OPS:
        for number in range(1 + first % min(every, calls[op]), calls[op] + 1, every):
            yield Fault(op, number, for_ever=False)
            yield Fault(op, number, for_ever=True)


async def _in_folder_of_its_own(fault: Fault | None) -> Outcome | dict[str, int]:
    with TemporaryDirectory(prefix="aura-faults-") as name:
        return await (suffer(Path(name), fault) if fault else count_calls(Path(name)))


def _play(fault: Fault | None) -> Outcome | dict[str, int]:
    return anyio.run(_in_folder_of_its_own, fault, backend_options={"loop_factory": VirtualLoop})


def table(found: Iterable[Outcome]) -> str:
    """The figures as rows: of each kind of call, what became of its faults."""
    counted = Counter((one.fault.op, one.word) for one in found)
    words: tuple[Word, ...] = ("ended", "refused", "went on", "not reached", "wrong")
    rows = [["call", *words], *([op, *(str(counted[op, word]) for word in words)] for op in OPS)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(every: int, seed: int) -> int:
    """Have every so many calls fail, say what came of it, and give the exit code: 1 if anything is wrong."""
    began = time.monotonic()
    calls = _play(None)
    assert isinstance(calls, dict)
    print(f"every {every}. call of {calls}, SEED={seed}", flush=True)
    found: list[Outcome] = []
    for fault in faults(calls, every, seed):
        outcome = _play(fault)
        assert isinstance(outcome, Outcome)
        found.append(outcome)
        if outcome.word == "wrong":
            print(outcome, flush=True)
    print(table(found), f"{time.monotonic() - began:.0f} s", sep="\n")
    return any(one.word == "wrong" for one in found)


if __name__ == "__main__":
    given = [*sys.argv[1:], "", ""]
    sys.exit(main(int(given[0] or 1), int(given[1] or time.time())))
