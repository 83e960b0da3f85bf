"""A server as a guest in another program's event loop: begun, asked, ended, and nothing left of it.

Theory of operation. The whole server is one asyncio task of its own (*the guest*) and no child of the host's: the
group of its runs waits for plan code that does not end, and a host must get out all the same. Everything else about it
is structured: ``open_server`` returns when the stop is over (``Server.gone``), which no cancel of the host's cuts
short, and which is bounded by the grace. Usually the guest has ended by then. If not, it goes on alone with what hangs,
its storage closed and its lock given back, and the host is told of it (``WorkLeft``).

If the guest ends by itself, by a lost storage or by an error of its own, the host's body is cancelled and gets that
error instead. Calls that are in flight at the end are answered from the record, or fail with ``ServerEnded``.

What it does not own: the server itself (``server``), threads (``portal``). What a crash does: that of the host; the
next start on the data folder settles it, as after a crash of ``aura serve``.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.abc
import msgspec

from aura import api
from aura.config import Settings, make_settings
from aura.duration import parse_duration
from aura.engine.engine import Engine
from aura.errors import AuraError, EmbedError, FieldError, RequestError, ServerEnded, WorkLeft
from aura.kernel.keys import key_of
from aura.lifecycle import FINAL
from aura.records.reading import RunFilter
from aura.run import Cause, Request, RunRecord, leaves_of
from aura.server import Server
from aura.store import StoreBackend
from aura.stores.memory import MemoryBackend
from aura.web import shapes
from aura.web.validate import convert

T = TypeVar("T")
Folder = str | os.PathLike[str]

#: Seconds that bodies which have been told to end get to do so, once everything else is over.
LEFT_PATIENCE = 0.1
#: Seconds in which calls in flight at the end are answered from the record.
CALL_PATIENCE = 2.0
#: The guests that had to be left behind: a loop holds its tasks weakly.
_left_behind: set["asyncio.Task[None]"] = set()


class Guest(anyio.abc.TaskStatus[str]):
    """One server on the running loop, made as ``Server`` is. ``body`` is the host's; an end by itself cancels it."""

    def __init__(self, settings: Settings, *, http: bool, backend: StoreBackend | None) -> None:
        self.server = Server(settings, http=http, backend=backend, guest=self._stopping)
        self.body = anyio.CancelScope()
        self._ready = anyio.Event()
        self._ended = anyio.Event()
        #: The calls in flight, each in a scope of its own.
        self._calls: set[anyio.CancelScope] = set()
        self._quiet = anyio.Event()
        self._asked = self._closed = False
        #: A cancellation that asyncio threw into the host while it waited for the end.
        self._cut: asyncio.CancelledError | None = None
        serve = self.server.serve(task_status=self)
        self._task = asyncio.get_running_loop().create_task(serve, name="aura server")
        self._task.add_done_callback(self._over)

    def started(self, value: str | None = None) -> None:  # noqa: ARG002 - the address, which the server has as well
        """The server has begun to serve (``Server.serve`` calls this)."""
        self._ready.set()

    def _stopping(self) -> None:
        if not self._asked:
            self.body.cancel("the embedded server ends")

    def _over(self, _: "asyncio.Task[None]") -> None:
        self._ended.set()
        self._ready.set()
        self.server.gone.set()

    async def wait_ready(self) -> None:
        """Return once it serves.

        Raises:
            Exception: why it could not start; nothing is left of it.
        """
        await self._ready.wait()
        if self._ended.is_set():
            raise self.problem() or ServerEnded("the server ended while it started")

    @property
    def engine(self) -> Engine:
        """What answers calls.

        Raises:
            EmbedError: it has ended; StoreError: it has lost its storage.
        """
        if self._closed:
            raise self.server.lost or ended()
        return self.server.engine

    async def call(self, work: Awaitable[T]) -> T:
        """Await an answer of the engine, however the server ends meanwhile."""
        # this call alone; cancelled when the server has ended and nothing can answer it any more
        with anyio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                return await work
            except Exception as error:
                if self.server.lost is not None:  # whatever came of it: what became of the change is unknown
                    raise self.server.lost from error
                raise
            finally:
                self._calls.discard(scope)
                if not self._calls:
                    self._quiet.set()
        raise self.server.lost or ended()

    # -- its end

    async def end(self) -> None:
        """Stop it and return when it is gone. A cancel of the host's waits for that; asyncio's own hurries it."""
        self._asked = True
        self.server.request_stop()
        # The shield keeps a host's cancel from leaving half a server. It cannot hang: the stop is a sequence in which
        # every wait has a bound, and so have those after it.
        with anyio.CancelScope(shield=True):
            await self._outlast(self.server.gone)
            # what hangs gets a moment more; if nothing does, the guest ends in the next turns of the loop
            with anyio.move_on_after(LEFT_PATIENCE if self.server.exit_code else None):
                await self._outlast(self._ended)
            await self._end_calls()
        self._settle()
        if self._cut is not None:
            raise self._cut

    def _settle(self) -> None:
        if self._ended.is_set():
            self._close_plans()
        else:
            _left_behind.add(self._task)
            self._task.add_done_callback(_forget)

    async def _outlast(self, event: anyio.Event) -> None:
        """Wait for an event. A cancellation that asyncio throws in, which no shield holds back, is kept for the end."""
        while not event.is_set():
            try:
                await event.wait()
            except asyncio.CancelledError as error:
                if anyio.current_effective_deadline() <= anyio.current_time():
                    raise  # the bound of this wait
                self._cut = error
                self.server.request_stop()  # the second one: it leaves less grace

    async def _end_calls(self) -> None:
        """Let calls in flight get their answers; then end what is left of them."""
        if self._calls:
            self._quiet = anyio.Event()
            with anyio.move_on_after(CALL_PATIENCE):
                await self._outlast(self._quiet)
        self._closed = True
        for scope in list(self._calls):
            scope.cancel("the embedded server has ended")

    def _close_plans(self) -> None:
        engine = getattr(self.server, "engine", None)
        if engine is not None:
            engine.generations.close()

    def problem(self) -> Exception | None:
        """What the host is to be told of this end; None if it was told to end and has."""
        if self.server.lost is not None:
            return self.server.lost
        if not self._ended.is_set():
            runs = [f"run {', '.join(self.server.left)}"] if self.server.left else []
            whose = ", ".join([*runs, *self.server.left_services])
            message = f"plan code of {whose} did not end within the grace and is still there"
            return WorkLeft(f"{message}; it goes on until it ends by itself, or this process does", self.server.left)
        if self._task.cancelled():
            return ServerEnded("the server was cancelled from outside")
        error = self._task.exception()
        return None if error is None else _own_error(error)


def _forget(task: "asyncio.Task[None]") -> None:
    """A guest that was left behind has ended after all."""
    _left_behind.discard(task)
    if not task.cancelled():
        task.exception()  # nobody is left to be told


def _own_error(error: BaseException) -> Exception:
    """Of a group, the error of ours that is in it."""
    found = [leaf for leaf in leaves_of(error) if isinstance(leaf, AuraError)]
    if found:
        return found[0]
    return error if isinstance(error, Exception) else EmbedError(f"the server ended by {error!r}")


def ended() -> ServerEnded:
    return ServerEnded("the embedded server has ended; ask inside its `with` block")


class EmbeddedServer:
    """A server in this event loop. Made by ``open_server``; its methods are for that loop's thread alone.

    ``address`` and ``token`` say where its door is and who may enter; without one they are empty and None.

    Every method raises ``RequestError`` with a documented code if it is refused, ``ServerEnded`` after the end and a
    ``StoreError`` once the storage is lost.

    **Cancellation**: safe. What was accepted stays accepted.
    """

    def __init__(self, guest: Guest, token: str | None = None) -> None:
        self._guest = guest
        self.address = guest.server.address
        self.token = token

    @property
    def grace(self) -> float:
        """How long running work may take over its end, in seconds."""
        return self._guest.server.settings.server.grace

    def hurry(self) -> None:
        """Begin the end of the server, or leave one that is under way less grace. Does not wait."""
        self._guest.server.request_stop()

    async def submit(
        self,
        plan_name: str,
        task_name: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        priority: int | None = None,
        lane: str | None = None,
        delay: float | str = 0.0,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> api.Accepted:
        """Ask for a run; returns once it is on record. ``delay`` is in seconds, or a text such as ``5m``.

        The same request again under its ``idempotency_key`` gives the same run, for a day.
        """
        wishes: dict[str, Any] = {"priority": priority, "lane": lane, "delay_s": _seconds(delay)}
        wishes |= {"inputs": _plain(inputs or {}), "labels": dict(labels or {})}
        request = convert({"plan_name": plan_name, "task_name": task_name, **wishes}, Request)
        key = None if idempotency_key is None else key_of("run", idempotency_key, request)
        return shapes.accepted(await self._guest.call(self._guest.engine.submit(request, Cause("api"), key)))

    async def wait(self, cid: str, timeout: float | None = None) -> api.Run:
        """Give a run once its end is on record.

        Raises:
            TimeoutError: it has not come within ``timeout`` seconds; the run goes on.
            ServerEnded: the server has ended before it; on a data folder the next one goes on with it.
        """
        return await self._guest.call(self._wait(self._guest.engine, cid, timeout))

    async def _wait(self, engine: Engine, cid: str, timeout: float | None) -> api.Run:
        with anyio.fail_after(timeout):
            record = await engine.history.wait_run(cid)
        if record.state not in FINAL:
            raise ServerEnded(f"run {cid} has not ended: it is {record.state} on record")
        detail = await engine.history.get_run(cid)
        return shapes.run_whole(detail.record, detail.steps, detail.children, None, detail.stopped)

    async def cancel(self, cid: str, reason: str | None = None) -> api.RunAnswer:
        """Cancel a run wherever it is; returns once that is on record, with the state that the run is in then."""
        return shapes.run_answer(cid, await self._guest.call(self._guest.engine.cancel(cid, reason)))

    async def answer(
        self,
        cid: str,
        step: str,
        approved: bool = True,
        values: Mapping[str, Any] | None = None,
        *,
        index: int | None = None,
        by: str = "host",
    ) -> api.RunAnswer:
        """Answer a step that waits for it, or the item ``index`` of one; returns once that is on record.

        ``by`` is who answers, as the step's output has it.
        """
        engine = self._guest.engine
        answered = engine.answer(cid, step, index, approved, _plain(values or {}), by)
        return shapes.run_answer(cid, await self._guest.call(answered))

    async def emit(self, name: str, payload: Any = None) -> api.EmittedEvent:
        """Emit an event; returns once it is on record, with what it starts or wakes."""
        receipt = await self._guest.call(self._guest.engine.emit(name, payload))
        return shapes.emitted(receipt)

    async def fire(self, plan_name: str, rule: str, payload: Any = None) -> api.EmittedEvent:
        """Fire an interrupt rule by hand, whether or not it is switched on; returns once that is on record."""
        receipt = await self._guest.call(self._guest.engine.fire(plan_name, rule, payload))
        return shapes.emitted(receipt)

    async def status(self) -> api.ServerStatus:
        """What the server is and how it fares."""
        return shapes.status(self._guest.engine.status())

    async def runs(self, /, *, limit: int = 100, **filters: Any) -> list[api.RunShort]:
        """The newest runs first. ``filters``: ``state plan_name task_name lane labels cids``, as of the HTTP door,
        and ``since`` and ``until``, in Unix seconds of acceptance.
        """
        wanted = convert({name: value for name, value in filters.items() if value is not None}, RunFilter)
        history = self._guest.engine.history
        found: list[RunRecord] = await self._guest.call(history.list_runs(wanted, limit))
        return [shapes.run_short(run, history.progress_of(run.cid)) for run in found]


def _seconds(delay: float | str) -> float:
    try:
        return parse_duration(delay) if isinstance(delay, str) else delay
    except ValueError as error:
        raise RequestError("invalid", str(error), errors=[FieldError("/delay_s", str(error))]) from None


def _plain(inputs: Mapping[str, Any]) -> Any:
    """The inputs as they would come over the wire: plain JSON data, and the server's own."""
    try:
        return msgspec.json.decode(msgspec.json.encode(inputs))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise RequestError("inputs_invalid", f"the inputs are not JSON: {error}") from None


@asynccontextmanager
async def open_server(
    plans: Folder,
    *,
    data: Folder | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    http: bool = False,
) -> AsyncIterator[EmbeddedServer]:
    """Run a server in this event loop (asyncio's) until the block ends; begins it once everything is ready.

    ``data``: its data folder; None keeps everything in memory and the runs' files in a temporary folder. ``settings``:
    keys of ``aura.toml`` as a mapping, or ``Settings``, whose ``plans`` and ``data`` do not count. ``http``: serve its
    door as well, as the settings say.

    Raises:
        EmbedError: this is no asyncio loop. ConfigError, StoreError: it could not start; nothing is left behind.
        WorkLeft: it has stopped, and plan code that does not end is still there.
        StoreError: its storage was lost; the block was cancelled.

    **Cancellation**: stops it; returns when the stop is over, within the grace and a few seconds.
    """
    _check_loop()
    with _data_folder(data) as folder:
        made = _settings(settings, Path(plans), folder)
        backend = MemoryBackend() if data is None else None
        try:
            guest = Guest(made, http=http, backend=backend)
            async with _guest_of_host(guest):
                yield EmbeddedServer(guest, _token(made) if http else None)
        finally:
            if backend is not None:
                backend.connection.close()


@asynccontextmanager
async def _guest_of_host(guest: Guest) -> AsyncIterator[None]:
    try:
        await guest.wait_ready()
        with guest.body:  # the host's body; cancelled if the server ends by itself
            yield
    except BaseException as error:
        await guest.end()
        problem = guest.problem()
        if problem is None or problem is error:
            raise
        if isinstance(error, asyncio.CancelledError):  # who cancels the host is told as well
            raise problem from error
        error.add_note(f"the embedded server: {problem}")
        raise
    await guest.end()
    if (problem := guest.problem()) is not None:
        raise problem


def _check_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise EmbedError("a server needs asyncio's event loop; under trio run it by aura.embed.start instead") from None


@contextmanager
def _data_folder(data: Folder | None) -> Any:
    if data is not None:
        yield Path(data)
        return
    with tempfile.TemporaryDirectory(prefix="aura-embed-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _settings(given: Settings | Mapping[str, Any] | None, plans: Path, data: Path) -> Settings:
    if isinstance(given, Settings):
        return msgspec.structs.replace(given, plans=plans.absolute(), data=data.absolute())
    return make_settings(given or {}, plans, data)


def _token(settings: Settings) -> str | None:
    from aura.web.auth import ensure_token  # imported here: only a server with a door has a token

    return None if settings.no_auth else ensure_token(settings.data)
