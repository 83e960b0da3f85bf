"""Loads plans again when their files have changed: the bell rings, a look shows what, and what has settled is loaded.

Theory of operation. One child, round after round: it looks at the plans for which the bell rang, without reading them
(``Look``), in a thread that may hang with its drive; at all of them if something has changed in the plans folder
itself, or nothing has been heard for long. ``settling`` says which are ripe; those alone are read, checked and
imported, by the same ``reload`` and under the same lock as one that somebody asked for. The reading itself looks once
more before and after it reads: what has changed since it was found ripe, or while it was read, stays as it is and
settles anew. So each version that is served was there, as a whole, for as long as ``settling`` says.

What imports slowly is put off like what cannot be served yet (``PATIENCE`` in ``generations``): it is ripe at once, so
that round follows round and loads what else is ripe, until its import has ended or was given up.

Then it waits for the bell (``folders``), or until the next plan is ripe. A plans folder that is not there, that
somebody else may write to, or that is another one and empty (a drive that is not mounted leaves such a folder) changes
nothing: that is said once, and it is looked for again soon.

A crash loses nothing: a server loads what it finds when it starts, and the first look finds what came after that.
"""

import os
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from aura.errors import ConfigError
from aura.loading.generations import Found, Reading
from aura.loading.importing import ImportTimeout, call_abandonable
from aura.loading.snapshot import Look, look_at_plan, plan_names
from aura.runs.runtime import Runtime
from aura.watching.folders import Folders, Identity, Watch, identity_of
from aura.watching.settling import Settling, is_same

#: Stands for the plans folder itself; no plan can be called so.
ROOT = ""
#: Seconds that a look may take; only a dead network drive takes so long.
LOOK_TIMEOUT = 30.0
#: Seconds between two looks for a plans folder that is not there, or not safe.
MISSING = 0.5
#: Seconds between two looks at least, however often the bell rings.
LEAST = 0.02


class Reloader:
    """Watches the plans of one folder while it serves."""

    def __init__(self, runtime: Runtime, folders: Folders, reload: Callable[[Reading], Awaitable[object]]) -> None:
        """``reload`` is what loads plans, and tells everyone of them, with a reading of ours."""
        self._root = runtime.settings.plans
        self._generations = runtime.generations
        self._clock = runtime.clock
        self._log = runtime.log
        self._folders = folders
        self._reload = reload
        self._settling = Settling()
        self._watches: dict[str, Watch] = {}
        #: The plans folder itself, when it was last looked at.
        self._home: Mapping[Identity, str] = {}
        self._rung = anyio.Event()
        #: The plans that it rang for; ``ROOT`` stands for all.
        self._rung_for: set[str] = {ROOT}
        #: Ends what serves; replaced by each ``begin``.
        self._end: Callable[[], object] = bool
        #: What was last said to be wrong with the folder itself.
        self._said = ""

    def begin(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """Give what serves until the next ``request_stop``, however soon that comes."""
        ended = anyio.Event()
        self._end = ended.set
        return partial(self._serve, ended)

    async def _serve(self, ended: anyio.Event) -> None:
        """Load what changes, until told that it is to end.

        **Cancellation**: ends at once, and so does a load that is under way: nothing of it is served then.
        """
        self._ring(ROOT)
        try:
            # two children: the rounds, and what ends the group when it is told; neither shields anything, and the
            # threads of looks and loads are abandoned
            async with anyio.create_task_group() as group:
                group.start_soon(self._go_round, name="rounds of the plan watcher")
                await ended.wait()
                group.cancel_scope.cancel("the engine is being stopped")
        finally:
            self._generations.give_up()
            for name in list(self._watches):
                self._watches.pop(name).close()

    def changing(self) -> frozenset[str]:
        """The plans that are not as they were loaded: they may still be being written."""
        return self._settling.changing()

    def _ring(self, name: str) -> None:
        self._rung_for.add(name)
        self._rung.set()

    def _cover(self, name: str, folders: Mapping[Identity, str]) -> None:
        if name not in self._watches:
            self._watches[name] = self._folders.watch(partial(self._ring, name))
        self._watches[name].cover(folders)

    async def _go_round(self) -> None:
        while True:
            await self._wait(await self._round())

    def request_stop(self) -> None:
        """Load nothing more; what serves ends in the next turns of the loop."""
        self._end()

    async def _wait(self, seconds: float) -> None:
        await anyio.sleep(LEAST)
        with anyio.move_on_after(seconds):  # its only child: this wait
            await self._rung.wait()

    async def _round(self) -> float:
        """Look, and load what is ripe; give the seconds until there is something to do without a bell."""
        self._rung = anyio.Event()
        rung_for, self._rung_for = self._rung_for, set()
        try:
            if rung_for:
                await self._look(None if ROOT in rung_for else rung_for)
            if ripe := self._settling.ripe(self._clock.monotonic()):
                await self._load(ripe)
        except ConfigError as error:
            self._say(f"the plans stay as they are: {error}")
            self._rung_for.add(ROOT)
            return MISSING
        self._say("")
        return self._settling.next_at() - self._clock.monotonic()

    def _say(self, what: str) -> None:
        if what and what != self._said:
            self._log.error(what)
        self._said = what

    async def _look(self, names: Collection[str] | None) -> None:
        """Look at these plans, or at all, and cover the folders that they lie in."""
        for status in self._generations.statuses():
            self._settling.know(status.name)
        look = partial(look_at_plans, self._root, names, self._settling.known(), self._home)
        outcome = await call_abandonable(look, LOOK_TIMEOUT, "aura check of changes", cut=False)
        if isinstance(outcome.error, ImportTimeout):
            raise ConfigError(f"the plans folder {self._root} cannot be looked at: {outcome.error}")
        if outcome.value is None:
            raise outcome.error or AssertionError
        self._home, looks = outcome.value
        self._settling.see(looks, self._clock.monotonic(), self._clock.wall())
        self._cover(ROOT, self._home)
        for name, one in looks.items():
            if one is not None:
                self._cover(name, one.folders)
            elif name in self._watches:
                self._watches.pop(name).close()

    async def _load(self, ripe: Mapping[str, tuple[Look | None, bool]]) -> None:
        read: dict[str, Look | None] = {}
        await self._reload(partial(self._read, ripe, self._settling.changing(), read))
        self._rung_for |= ripe.keys() - read.keys()  # they have changed since they were looked at
        for name, look in read.items():
            if name in self._generations.put_off:
                self._settling.put_off(name, look)
            else:
                self._settling.loaded(name, look)

    def _read(
        self, ripe: Mapping[str, tuple[Look | None, bool]], changing: frozenset[str], read: dict[str, Look | None]
    ) -> Iterator[Found]:
        """Read what is ripe, in a thread, and note it in ``read``; everything else stays as it is.

        What did not fit others is read again too: that may have been due to a plan that is ripe now.
        """
        shown, unfit = {status.name for status in self._generations.statuses()}, self._generations.unfit - changing
        present = frozenset(plan_names(self._root))
        for name in sorted(shown | ripe.keys()):
            if name not in ripe and name not in unfit:
                yield Found(name)
                continue
            now = look_at_plan(self._root, name) if name in present else None
            look, tentative = ripe.get(name, (now, False))
            found = self._found(name, look, tentative, name in ripe) if is_same(look, now) else Found(name)
            if found is None or found.snapshot is not None:
                read[name] = look
            if found is not None and (found.snapshot is not None or name in shown):
                yield found

    def _found(self, name: str, look: Look | None, tentative: bool, hurried: bool) -> Found | None:
        """What there is of a plan that looked like this just now; None if there is none of it."""
        if look is None:
            return None
        snapshot = self._generations.read(name)
        whole = is_same(look_at_plan(self._root, name), look)
        return Found(name, snapshot if whole else None, tentative, hurried)


def look_at_plans(
    root: Path,
    names: Collection[str] | None = None,
    known: Collection[str] = (),
    home: Collection[Identity] = (),
) -> tuple[dict[Identity, str], dict[str, Look | None]]:
    """Look at these plans of a folder, or at all; give the folder itself, and what was seen of each plan.

    Of those that are ``known`` it is seen in any case that one is gone: None.

    Raises:
        ConfigError: the plans folder itself is not there or cannot be read, or it is not ``home``, and has no plans.
    """
    present = plan_names(root)
    with suppress(FileNotFoundError):  # the next look says so
        if home and known and not present and identity_of(os.stat(root)) not in home:
            raise ConfigError(f"the plans folder {root} is another one than before, and empty: is a drive not mounted?")
    looks: dict[str, Look | None] = dict.fromkeys(set(known) - set(present))
    looks |= {name: look_at_plan(root, name) for name in present if names is None or name in names or name not in known}
    with suppress(FileNotFoundError):  # it has gone since: the next look says so
        return {identity_of(os.stat(root)): os.path.abspath(root)}, looks
    return {}, looks
