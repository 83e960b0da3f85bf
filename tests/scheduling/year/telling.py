"""Tells a story to real worlds in virtual time, and writes down what there was to see: the history.

Nothing in it knows what should have happened. What is on record is read where a span ends: a span is a time in which
the clock goes on steadily and nothing changes.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import anyio
import msgspec
from anyio.lowlevel import checkpoint
from tests.fakes.kernel import copy_of
from tests.scheduling.schedule_kit import Lab, lab_settings, open_lab, schedule, write_plan
from tests.scheduling.year.nominal import Item, Trigger
from tests.scheduling.year.story import Chapter, Story

from aura.config import Settings
from aura.scheduling.liveitem import says
from aura.stores.memory import MemoryBackend
from aura.testing.virtual_time import START, VirtualClock

LONG = "steps:\n  only: {action: sleep, params: {duration: 5h}}\n"
#: Seconds between two looks at a clock that does not jump; before it jumps it is looked at more often, for so long.
SELDOM, OFTEN, AT_ONCE = 1800.0, 5.0, 0.02
NOTICED = 0.2
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z")
#: What a line says that does not count all that it stands for.
MORE = "and more before"
Begin = Literal["boot", "reload", "jump", "pause", "start", "switch"]


class Run(msgspec.Struct, frozen=True):
    """A run that an item's slot has started. Times are Unix seconds."""

    seq: int
    item: str
    due: float
    accepted_at: float


class Line(msgspec.Struct, frozen=True):
    """A line of the ledger: it stands for ``count`` slots, from ``first`` to ``last``, None where it names none."""

    reason: str
    item: str
    count: int
    at: float
    detail: str
    first: float | None = None
    last: float | None = None

    def names(self, first: float, last: float, tolerance: float) -> bool:
        """Whether it is about these times; one that says that there were more before them names a later first one."""
        if self.first is None or self.last is None or abs(self.last - last) >= tolerance:
            return False
        return abs(self.first - first) < tolerance or (self.first > first and MORE in self.detail)


@dataclass
class Span:
    """From one moment to another, in wall time. ``on``: the engine is; ``enabled``: what the switches say.

    ``anchors``: by item and trigger, when that was first seen, as the server has it. ``turns`` as in the chapter.
    """

    begins: Begin
    begin: float
    end: float
    on: bool
    items: Mapping[str, Item]
    enabled: Mapping[str, bool]
    anchors: Mapping[tuple[str, Trigger], float] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    #: By the sequence of a run that has ended in it: when.
    ended: dict[int, float] = field(default_factory=dict)


@dataclass
class History:
    """All spans, and of each run by its sequence when it began; None if it has not."""

    spans: list[Span] = field(default_factory=list)
    begun: dict[int, float | None] = field(default_factory=dict)


class Switches:
    """What somebody has switched, and whether it still counts: until the file says something else."""

    def __init__(self) -> None:
        self._switched: dict[str, tuple[bool, bool]] = {}

    def set(self, item: Item, on: bool) -> None:
        self._switched[item.name] = (on, item.enabled)

    def load(self, items: Mapping[str, Item]) -> dict[str, bool]:
        """What counts of these once they are loaded."""
        for item in items.values():
            if item.name in self._switched and self._switched[item.name][1] != item.enabled:
                del self._switched[item.name]
        return {name: self._switched.get(name, (item.enabled, True))[0] for name, item in items.items()}


class Teller:
    """Tells one story in a folder."""

    def __init__(self, folder: Path, story: Story) -> None:
        self._folder = folder
        self._story = story
        self._settings = _kept_for_ever(lab_settings(folder))
        self.history = History()
        self._items = {item.name: item for item in story.items}
        self._switches = Switches()
        self._seen = 0
        #: By the id of each line: how many it stood for when it was last read.
        self._counted: dict[int, int] = {}
        self._ended: set[int] = set()
        self._backend: MemoryBackend | None = None
        self._wall = story.begin
        self._left = iter((*story.chapters, None))

    async def tell(self) -> History:
        """Tell it to its end."""
        while await self._live():
            pass
        return self.history

    # -- one life of the server

    async def _live(self) -> bool:
        """Until the server goes down; False at the end of the story."""
        self._write()
        async with self._open() as world:
            self._begin("boot", world)
            for chapter in self._left:
                if chapter is None:
                    await self._wait(world, self._story.rest)
                    await self._end(world)
                    self.history.begun = dict(world.backend.execute("SELECT seq, started_at FROM run").fetchall())
                    return False
                await self._wait(world, chapter.wait, chapter)
                if await self._happens(world, chapter):
                    break
            else:
                raise AssertionError("a story ends with None")
        if self._backend is None:  # it was closed in good order
            self._backend = copy_of(_memory(world))
        return True

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Lab]:
        offset = self._wall - (anyio.current_time() - START)
        clock = VirtualClock(offset, SELDOM)
        backend, self._backend = self._backend, None
        async with open_lab(self._folder, write=False, backend=backend, settings=self._settings, clock=clock) as world:
            yield world

    def _write(self) -> None:
        items = schedule(**{item.name: item.text for item in self._items.values()})
        write_plan(self._folder, items=items, long=LONG)

    # -- chapters

    async def _wait(self, world: Lab, seconds: float, chapter: Chapter | None = None) -> None:
        clock = _clock(world)
        if chapter is not None and chapter.kind == "jump":
            await anyio.sleep(seconds - SELDOM - 2 * OFTEN)
            clock.recheck = OFTEN
            await anyio.sleep(SELDOM + OFTEN)
            clock.recheck = AT_ONCE
            await anyio.sleep(OFTEN)
        else:
            await anyio.sleep(seconds)

    async def _happens(self, world: Lab, chapter: Chapter) -> bool:
        """Say whether the server is down then."""
        if chapter.items is not None:
            self._items = {item.name: item for item in chapter.items}
        match chapter.kind:
            case "close" | "crash":
                await self._go_down(world, chapter)
                return True
            case "pause":
                await self._pause(world, chapter.seconds)
            case "reload":
                await self._end(world)
                self._write()
                await world.engine.reload()
                self._begin("reload", world)
            case "jump":
                await self._jump(world, chapter.seconds)
            case "switch":
                await self._switch(world, chapter)
        return False

    async def _go_down(self, world: Lab, chapter: Chapter) -> None:
        if chapter.kind == "close" or chapter.turns is None:
            await world.loop.wait_quiet()
        else:
            for _ in range(chapter.turns):
                await checkpoint()
        self._wall = world.now + chapter.seconds
        if chapter.kind == "crash":
            self._backend = copy_of(_memory(world))
            self._close_span(world, self._backend)
        else:
            self._close_span(world, _memory(world))

    async def _pause(self, world: Lab, seconds: float) -> None:
        await self._end(world)
        await world.engine.stop("cancel", 1.0)
        self._begin("pause", world, on=False)
        await anyio.sleep(seconds)
        await self._end(world)
        await world.engine.start()
        self._begin("start", world)

    async def _jump(self, world: Lab, seconds: float) -> None:
        await self._end(world)
        world.jump(seconds)
        self._begin("jump", world)
        await anyio.sleep(NOTICED)
        _clock(world).recheck = SELDOM

    async def _switch(self, world: Lab, chapter: Chapter) -> None:
        await self._end(world)
        live = world.item(chapter.item)
        await world.engine.items.switch(live, chapter.on, "story").wait()
        self._switches.set(self._items[chapter.item], chapter.on)
        self._begin("switch", world)

    # -- writing down

    def _begin(self, begins: Begin, world: Lab, on: bool = True) -> None:
        items = dict(self._items)
        enabled = self._switches.load(items)
        self.history.spans.append(Span(begins, world.now, world.now, on, items, enabled))

    async def _end(self, world: Lab) -> None:
        await world.loop.wait_quiet()
        self._close_span(world, _memory(world))

    def _close_span(self, world: Lab, backend: MemoryBackend) -> None:
        span = self.history.spans[-1]
        span.end = world.now
        last_seq = self._seen
        for seq, item, due, at in backend.execute(_RUNS, (last_seq,)).fetchall():
            span.runs.append(Run(seq, item, due, at))
            last_seq = seq
        for id, *values in backend.execute(_LINES).fetchall():
            line = _line(*values)
            span.lines += _since(line, self._counted.get(id, 0))
            self._counted[id] = line.count
        self._seen = last_seq
        ended = dict(backend.execute("SELECT seq, finished_at FROM run WHERE finished_at IS NOT NULL").fetchall())
        span.ended = {seq: at for seq, at in ended.items() if seq not in self._ended}
        self._ended = set(ended)
        span.anchors = dict(_anchors(world, span.items))


_RUNS = """SELECT seq, json_extract(cause, '$.item'), due, accepted_at FROM run
 WHERE seq > ? AND json_extract(cause, '$.kind') = 'schedule' ORDER BY seq"""
_LINES = "SELECT id, reason, item, count, at, detail FROM why ORDER BY id"
#: What a line says of slots that were refused one by one; in a story no more than two of an item are so near.
ALIKE = "2 slots, due from"


def _line(reason: str, item: str, count: int, at: float, detail: str) -> Line:
    named = [datetime.fromisoformat(text).timestamp() for text in _TIME.findall(detail)]
    return Line(reason, item, count, at, detail, *((named[0], named[-1]) if named else ()))


def _since(line: Line, count: int) -> list[Line]:
    """A line as it is told of its slots that it did not stand for when it stood for ``count``."""
    if ALIKE not in line.detail:
        return [line] if count == 0 else []
    one = msgspec.structs.replace(line, count=1)
    each = [msgspec.structs.replace(one, first=time, last=time) for time in (line.first, line.last)]
    return each[count:]


def _anchors(world: Lab, items: Mapping[str, Item]) -> Iterator[tuple[tuple[str, Trigger], float]]:
    for name, item in items.items():
        live = world.item(name)
        for trigger, its in zip(item.triggers, live.timed(), strict=True):
            yield (name, trigger), live.row.anchors[says(its)]


def _clock(world: Lab) -> VirtualClock:
    clock = world.engine.clock
    assert isinstance(clock, VirtualClock)
    return clock


def _memory(world: Lab) -> MemoryBackend:
    assert isinstance(world.backend, MemoryBackend)
    return world.backend


def _kept_for_ever(settings: Settings) -> Settings:
    """Nothing is pruned: all is read again at the end."""
    retention = msgspec.structs.replace(settings.store.retention, days=100_000, runs=10**9)
    return msgspec.structs.replace(settings, store=msgspec.structs.replace(settings.store, retention=retention))
