"""The services that are open: opened at first use, shared by all steps, closed when their generation is done with.

Theory of operation. A service (``servicedef``) belongs to one generation of a plan. The first step that needs it opens
it; those that come meanwhile wait for the same opening; while it is open all share the one object. It lives in one
child of a group of the server's own (``group``), which enters it, hands the object over, waits to be told to close, and
leaves it. So a scope that it opens is left by the child that entered it, and no stop of a step can reach it. Whatever
it raises is a value there (``edge``): nothing of it ends the group.

Its life is ``OPENING → OPEN → CLOSING → ENDED`` (``openservice``), and who moves it on:
- It opens for those who wait. A step that is stopped leaves the others waiting; when nobody waits any more the opening
  is broken off. So it is when it takes longer than the service's ``open_timeout``: who waits fails with a
  ``TimeoutError``. What it raises fails all who wait, as what it is, with a note of the service's name. It has nothing
  handed over then, and is opened anew at the next use.
- An open one that ends by itself, or whose user fails with what it names in ``broken_by``, is *broken*. What needs it
  is broken with it. It is closed at once: steps that use it see their own errors. The next use opens it anew.
- It is closed once all that need it have been, the last opened first. The next use waits for the end of its closing: a
  thing that can be held once is given back before it is taken again. That holds within a generation. Two generations
  know nothing of each other: while runs of an old one go on, its services stay open beside those of the new one, and a
  port that can be held once fails to open in the new one until they have ended (a ``retry`` deals with that).

When a generation is done with: it is not served any more, no run holds it, and no step of another plan uses a service
of it. A child for each one that is served no longer but has services open (``_close_when_done``) waits for that. Of the
one that is served they stay open. With the server all are closed after its last run has ended, before the store.

The bounds. Closing, and the clean-up of an opening that was broken off, may take ``CLOSE_TIMEOUT``; at the server's end
what is left of its deadline, of which each of a chain of needs gets an equal part. Then it gets an edge, a pulse, and
is *stuck*: left behind in its child, named in the log and in the status (``reasons``) until it ends after all. So every
child here ends by itself in a bounded time or is counted as stuck; with stuck ones the server does not leave the group
but the process (``server``), as with stuck runs.

What a crash does: nothing of a service is on record. The next start opens it at its first use. Processes that it
started with ``ctx.process_environment`` are found and ended by that start.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from aura.errors import RequestError, ServiceFailed
from aura.loading.generation import Generation
from aura.loading.generations import Generations
from aura.logs import Logs
from aura.run import leaves_of
from aura.runs.interceptor import Interceptor
from aura.runs.liverun import LiveRun
from aura.runs.openservice import OpenService, Stage
from aura.secrets import Secrets
from aura.servicedef import Service, ServiceContext, ServiceHost


class _Shared:
    """What is open of one generation, by name, and how many steps use something of it."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.open: dict[str, OpenService] = {}
        self.users = 0
        #: Set when nobody uses anything of it; there while somebody waits for that.
        self.unused: anyio.Event | None = None
        #: Of the child that closes it when it is done with; there while that lives.
        self.closing: anyio.CancelScope | None = None


class Services:
    """The open services of all plans. ``group`` is set by whoever opens it (``server``)."""

    def __init__(
        self,
        logs: Logs,
        generations: Generations,
        secrets: Secrets,
        runs: Mapping[str, LiveRun],
        boot_tag: str,
        interceptor: Interceptor | None = None,
    ) -> None:
        """``runs`` are all runs in memory."""
        #: Where services live, each in a child; and the children that wait until an old generation is done with.
        self.group: TaskGroup
        #: Those that did not close and were left behind.
        self.stuck: list[OpenService] = []
        self._logs = logs
        self._generations = generations
        self._secrets = secrets
        self._runs = runs
        self._boot_tag = boot_tag
        self._interceptor = interceptor
        self._shared: dict[Generation, _Shared] = {}
        self._closed = False

    # -- who uses them

    @asynccontextmanager
    async def lent(self, home: Generation, names: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
        """Give these services of a generation by name, opened if they are not.

        An error with which the block is left may be one that says that they are broken.

        Raises:
            BaseException: what one could not be opened with. ServiceFailed: it was closed, or the server stops.

        **Cancellation**: an opening that nobody else waits for is broken off.
        """
        shared = self._shared_of(home)
        shared.users += 1
        try:
            taken = [await self._take(shared, name) for name in names]
            try:
                yield {one.service.name: one.value for one in taken}
            except BaseException as error:
                for one in taken:
                    self._look_at(one, error)
                raise
        finally:
            shared.users -= 1
            if not shared.users and shared.unused is not None:
                shared.unused.set()

    def opened(self) -> Iterator[tuple[str, Any]]:
        """What is open, by its full name."""
        for shared in self._shared.values():
            for one in shared.open.values():
                if one.stage is Stage.OPEN:
                    yield one.service.full_name, one.value

    def _shared_of(self, generation: Generation) -> _Shared:
        shared = self._shared.get(generation)
        if shared is None:
            shared = self._shared[generation] = _Shared(generation)
        self._close_later(shared)
        return shared

    async def _take(self, shared: _Shared, name: str) -> OpenService:
        while (found := shared.open.get(name)) is not None and found.stage is Stage.CLOSING:
            await found.ended.wait()
        if found is None:
            if self._closed:
                raise ServiceFailed(f"the service {name} is not opened: the server is being stopped")
            found = shared.open[name] = self._make(shared, name)
            # in ``group``: ends when it was told to close, or by itself; or is left behind as stuck
            self.group.start_soon(found.live, name=str(found.service))
        await found.wait_open()
        return found

    def _make(self, shared: _Shared, name: str) -> OpenService:
        generation, service = shared.generation, shared.generation.services[name]
        if self._interceptor is not None:
            service = self._interceptor.service(service)
        host = ServiceHost(service.plan_name, self._log_of(service), {"AURA_BOOT": self._boot_tag})
        context = ServiceContext(host, generation.plan.vars, self._secrets.of(generation.plan))
        take, on_end = partial(self._take, shared), partial(self._note_end, shared)
        return OpenService(service, context, generation.code_prefixes, take, on_end)

    def _look_at(self, one: OpenService, error: BaseException) -> None:
        """Close one that is broken, if an error of its user's says so."""
        kinds = one.service.broken_by
        if kinds and one.stage is Stage.OPEN and any(isinstance(leaf, kinds) for leaf in leaves_of(error)):
            one.request_close()
            self._log_of(one.service).warning(f"{one.service} is broken and is closed", exc_info=error)

    def _log_of(self, service: Service) -> Any:
        return self._logs.logger_for(None, service.plan_name).bind(service=service.name)

    def _note_end(self, shared: _Shared, one: OpenService, before: Stage, error: BaseException | None) -> None:
        if shared.open.get(one.service.name) is one:
            del shared.open[one.service.name]
        log = self._log_of(one.service)
        if one.stuck:
            self.stuck.append(one)
            log.error(_says_stuck(one))
        elif before is Stage.ENDED:
            self.stuck.remove(one)
            log.info(f"{one.service} has ended after all")
        elif one.broken:
            log.error(f"{one.service} is broken: it ended by itself", exc_info=error)
        elif before is Stage.CLOSING and error is not None and not isinstance(error, asyncio.CancelledError):
            log.error(f"{one.service} failed as it was closed", exc_info=error)

    # -- generations

    def reload(self) -> None:
        """Let what is open of generations that are served no longer be closed when they are done with."""
        for shared in list(self._shared.values()):
            self._close_later(shared)

    def _close_later(self, shared: _Shared) -> None:
        if shared.closing is None and not self._is_served(shared.generation):
            # in ``group``: ends when the generation is done with and closed, or is cancelled by ``close``
            shared.closing = anyio.CancelScope()
            name = f"closing services of {shared.generation.plan.name}"
            self.group.start_soon(self._close_when_done, shared, shared.closing, name=name)

    def _is_served(self, generation: Generation) -> bool:
        try:
            return self._generations.current(generation.plan.name) is generation
        except RequestError:
            return False

    async def _close_when_done(self, shared: _Shared, scope: anyio.CancelScope) -> None:
        # its only child: this one; cancelled by ``close``, which closes all itself
        with scope:
            while True:
                if run := self._run_on(shared.generation):
                    await run.wait_release()
                elif shared.users:
                    shared.unused = anyio.Event()
                    await shared.unused.wait()
                    shared.unused = None
                elif shared.open:
                    await _close(list(shared.open.values()))
                else:
                    break
            del self._shared[shared.generation]

    def _run_on(self, generation: Generation) -> LiveRun | None:
        return next((run for run in self._runs.values() if run.holds is generation), None)

    # -- the end of the server

    async def close(self, until: float) -> None:
        """Open nothing more, close all, and return when they have been, or are stuck. ``until`` is in loop time."""
        self._closed = True
        for shared in self._shared.values():
            if shared.closing is not None:
                shared.closing.cancel("the server has ended")
        await _close([one for shared in self._shared.values() for one in shared.open.values()], until)

    def hurry(self, until: float) -> None:
        """Bring the end of a ``close`` that is under way nearer."""
        for shared in self._shared.values() if self._closed else ():
            for one in shared.open.values():
                one.request_close(until)

    # -- looking

    def is_open(self, generation: Generation, name: str) -> bool:
        """Whether a service of a generation is open."""
        shared = self._shared.get(generation)
        found = shared.open.get(name) if shared is not None else None
        return found is not None and found.stage is Stage.OPEN

    def status(self) -> dict[str, int]:
        """How many are open, of all generations, and how many were left behind."""
        stages = [one.stage for shared in self._shared.values() for one in shared.open.values()]
        return {"open": stages.count(Stage.OPEN), "stuck": len(self.stuck)}

    @property
    def reasons(self) -> list[str]:
        """Why the server is degraded: those that were left behind."""
        return [_says_stuck(one) for one in self.stuck]


async def _close(wanted: Sequence[OpenService], until: float = float("inf")) -> None:
    for one in wanted:
        one.request_close(until)
    for one in wanted:  # each has a bound
        await one.ended.wait()


def _says_stuck(one: OpenService) -> str:
    return f"{one.service} does not close and was left behind; it hangs at {one.hangs_at()}"
