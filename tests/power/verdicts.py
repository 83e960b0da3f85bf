"""What is made of one image of the disk: opened by the real store, and held against what was known at that moment."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

from tests.power.connection import Committed, digest
from tests.power.disk import Disk, Mark, Sync
from tests.power.images import Platter
from tests.power.story import Fact, missing

from aura.errors import StoreError
from aura.stores.sqlite import SqliteBackend

#: ``sound``: all that was known is there and it is exactly what some commit had left; ``lost``: what an older commit
#: had left; ``wrong``: neither; ``refused``: the store does not open it.
Word = Literal["sound", "lost", "wrong", "refused"]


class Verdict(NamedTuple):
    """What became of an image, made behind this many entries of the log."""

    position: int
    word: Word
    why: str = ""


class Moment(NamedTuple):
    """What was known when the power failed: the last commit, the one on its way, all that anybody was told."""

    position: int
    before: Sequence[str]
    now: Sequence[str]
    facts: list[Fact]


def moments(disk: Disk, chosen: Sequence[int]) -> Iterator[tuple[Moment, Platter]]:
    """Play the log, and stop behind each of the chosen entries."""
    wanted = frozenset(chosen)
    commits = [entry.fact.digest for entry in disk.log if isinstance(entry, Mark) and _is_commit(entry.fact)]
    platter = Platter()
    done = 0
    facts: list[Fact] = []
    for position, entry in enumerate(disk.log, 1):
        platter.play(entry)
        if isinstance(entry, Mark):
            if _is_commit(entry.fact):
                done += 1
            else:
                facts.append(entry.fact)
        if position in wanted:
            yield Moment(position, commits[: max(0, done - 1)], commits[max(0, done - 1) : done + 1], facts), platter


def _is_commit(fact: Any) -> bool:
    return isinstance(fact, Committed)


def choose(disk: Disk, random: Random, count: int) -> list[int]:
    """Moments to fail at: just before and behind the syncs, and any; none before the schema is there."""
    first = next(n for n, entry in enumerate(disk.log, 1) if isinstance(entry, Mark))
    syncs = [n for n, entry in enumerate(disk.log) if isinstance(entry, Sync) and n > first]
    places = [n + random.choice((0, 1)) for n in syncs] or [len(disk.log)]
    near = [random.choice(places) for _ in range(count // 2)]
    return near + [random.randint(first, len(disk.log)) for _ in range(count - len(near))]


def judge(moment: Moment, file: Path) -> Verdict:
    """Open an image with the real store, and say what it is."""
    try:
        backend = SqliteBackend(file)
    except StoreError as error:
        return Verdict(moment.position, "refused", str(error))
    with closing(backend):
        found = digest(backend.execute)
        lost = list(missing(backend.execute, moment.facts))
    if found in moment.now and not lost:
        return Verdict(moment.position, "sound")
    word: Word = "lost" if found in moment.before else "wrong"
    return Verdict(moment.position, word, f"{len(lost)} facts missing, such as {lost[:1]}")


def verdicts(disk: Disk, random: Random, images: int, folder: Path) -> Iterator[Verdict]:
    """Make so many images and judge each."""
    chosen = choose(disk, random, images)
    times = Counter(chosen)
    for moment, platter in moments(disk, chosen):
        for _ in range(times[moment.position]):
            for old in folder.iterdir():
                old.unlink()
            platter.cut(random, folder)
            yield judge(moment, folder / "aura.db")
