"""A property of file triggers: each state in which a file settles is told once, whatever happens meanwhile.

In a round every file changes once at most: it is written, replaced by a rename, or removed. Meanwhile the server looks,
crashes, is stopped and started, and cannot write. At the end of the round each change has been told exactly once, as
what it was, and each event has one run.
"""

import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from tests.fakes.kernel import FaultyBackend
from tests.scheduling.schedule_kit import Lab, crashed, open_lab, schedule

from aura.errors import StoreReadOnly

pytestmark = pytest.mark.anyio

ITEMS = schedule(
    files='triggers: [{file: {path: "{{ plan.dir }}/../../inbox", changes: [added, modified, deleted], pattern: "**"}}]'
)
#: How many histories are played.
HISTORIES = int(os.environ.get("FILE_HISTORIES", "2"))
NAMES = ("a", "b", "sub/c", "sub/d", "sub/deep/e")


class Writer:
    """Somebody who changes files, each time to a time of modification of its own; ``done`` is what is to be told."""

    def __init__(self, folder: Path, random: Random) -> None:
        self._folder = folder
        self._random = random
        self._clock = 0
        self.done: Counter[tuple[str, str]] = Counter()
        (folder / "sub/deep").mkdir(parents=True)

    def change(self, name: str) -> None:
        file = self._folder / name
        was_there = file.exists()
        if was_there and self._random.random() < 0.3:
            file.unlink()
            self.done["deleted", name] += 1
            return
        target = file.with_name(f".{file.name}.tmp") if self._random.random() < 0.5 else file
        target.write_text("x" * self._random.randrange(1, 3))
        self._clock += 1
        os.utime(target, (self._clock, self._clock))
        target.replace(file)
        self.done["modified" if was_there else "added", name] += 1


def told(world: Lab, folder: Path) -> Counter[tuple[str, str]]:
    files = [one for payload in world.payloads("file.changed") for one in payload["files"]]
    return Counter((one["change"], str(Path(one["path"]).relative_to(folder))) for one in files)


async def play(world: Lab, writer: Writer, names: list[str], random: Random) -> None:
    """Let things happen; a crash may follow at any moment."""
    backend = world.backend
    assert isinstance(backend, FaultyBackend)
    while names:
        match random.randrange(6):
            case 0:
                backend.error, backend.failing = StoreReadOnly("no"), random.randrange(3)
            case 1:
                world.engine.request_stop("cancel", 0.1)
                await world.advance(1)
                await world.engine.start()
            case _:
                writer.change(names.pop())
        world.engine.file_triggers.look()
        await world.advance(random.choice((0, 0.1, 0.3, 0.6)))
    await world.advance(random.choice((0, 0.1, 0.3, 0.501, 0.6)))


@pytest.mark.parametrize("seed", range(HISTORIES))
async def test_each_state_in_which_a_file_settles_is_told_once(tmp_path: Path, seed: int) -> None:
    random, folder = Random(seed), tmp_path / "inbox"
    folder.mkdir()
    writer, left = Writer(folder, random), FaultyBackend()
    for round in range(4):
        for step in range(2):
            async with open_lab(tmp_path, write=not (round or step), items=ITEMS, backend=left) as world:
                if not (round or step):
                    await world.advance(1)  # it is seen for the first time
                await play(world, writer, random.sample(NAMES[step::2], 2), random)
                left = FaultyBackend(crashed(world).connection)
        async with open_lab(tmp_path, write=False, backend=left) as world:
            await world.advance(60)
            assert told(world, folder) == writer.done
            assert len(world.runs()) == len(world.payloads("file.changed"))
            left = FaultyBackend(crashed(world).connection)
