"""``Client``: the client for programs that block. Its methods are those of ``AsyncClient``, made of them one by one.

The async client lives on an event loop in a thread of its own, which starts with the first request and ends with
``close``. A call hands its work to that loop and waits for the outcome; whatever ends the waiting, Ctrl-C too, ends
the work. So a client may be used from several threads at once.
"""

import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from aura.client.pages import Pages
from aura.client.routes import AsyncClient
from aura.client.source import Source
from aura.client.target import Target

P = ParamSpec("P")
T = TypeVar("T")


def _answering(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    """The same method, which waits for the answer."""

    @wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.wait(partial(method, self._remote, *args, **kwargs))

    return call


def _listing(
    method: Callable[Concatenate[AsyncClient, P], Pages[T]],
) -> Callable[Concatenate["Client", P], Iterator[T]]:
    """The same list, to be iterated over in the ordinary way."""

    @wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        pages = method(self._remote, *args, **kwargs)
        cursor = None
        while True:
            page = self._loop.wait(partial(pages.page, cursor))
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    return call


def _streaming(
    method: Callable[Concatenate[AsyncClient, P], Source[T]],
) -> Callable[Concatenate["Client", P], "BlockingStream[T]"]:
    """The same stream, to be iterated over in the ordinary way."""

    @wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> "BlockingStream[T]":
        return BlockingStream(self._loop, method(self._remote, *args, **kwargs))

    return call


class Client:
    """A client of one server, for programs that block; close it, or use it as a context manager."""

    def __init__(self, target: Target | None = None, agent: str = "aura-client") -> None:
        """As of ``AsyncClient``."""
        self._remote = AsyncClient(target, agent)
        self._loop = _Loop(self._remote)

    @property
    def target(self) -> Target:
        """The server that is asked."""
        return self._remote.target

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End what is still being asked, streams too, close the connections and end the thread."""
        self._loop.close()

    status = _answering(AsyncClient.status)
    ready = _answering(AsyncClient.ready)
    start = _answering(AsyncClient.start)
    stop = _answering(AsyncClient.stop)
    reload = _answering(AsyncClient.reload)
    metrics = _answering(AsyncClient.metrics)
    openapi = _answering(AsyncClient.openapi)

    plans = _listing(AsyncClient.plans)
    tasks = _listing(AsyncClient.tasks)
    task = _answering(AsyncClient.task)
    actions = _listing(AsyncClient.actions)

    run_task = _answering(AsyncClient.run_task)
    batch = _answering(AsyncClient.batch)
    cancel = _answering(AsyncClient.cancel)
    cancel_where = _answering(AsyncClient.cancel_where)
    pause = _answering(AsyncClient.pause)
    resume = _answering(AsyncClient.resume)
    answer = _answering(AsyncClient.answer)
    set_priority = _answering(AsyncClient.set_priority)
    rerun = _answering(AsyncClient.rerun)

    emit = _answering(AsyncClient.emit)

    interrupts = _listing(AsyncClient.interrupts)
    fire = _answering(AsyncClient.fire)
    dry_run = _answering(AsyncClient.dry_run)
    enable_rule = _answering(AsyncClient.enable_rule)
    disable_rule = _answering(AsyncClient.disable_rule)

    schedule = _listing(AsyncClient.schedule)
    item = _answering(AsyncClient.item)
    preview = _answering(AsyncClient.preview)
    run_item = _answering(AsyncClient.run_item)
    enable_item = _answering(AsyncClient.enable_item)
    disable_item = _answering(AsyncClient.disable_item)

    why = _listing(AsyncClient.why)

    get_run = _answering(AsyncClient.get_run)
    runs = _listing(AsyncClient.runs)
    active_runs = _listing(AsyncClient.active_runs)
    logs = _listing(AsyncClient.logs)
    files = _listing(AsyncClient.files)
    download = _streaming(AsyncClient.download)
    wait_run = _answering(AsyncClient.wait_run)

    queue = _listing(AsyncClient.queue)
    queue_overview = _answering(AsyncClient.queue_overview)

    tokens = _listing(AsyncClient.tokens)
    new_token = _answering(AsyncClient.new_token)
    revoke_token = _answering(AsyncClient.revoke_token)
    login_code = _answering(AsyncClient.login_code)

    follow_run = _streaming(AsyncClient.follow_run)
    follow_logs = _streaming(AsyncClient.follow_logs)
    events = _streaming(AsyncClient.events)


class BlockingStream(Iterator[T]):
    """What comes piece by piece. Use it as a context manager, or ``close`` it, to leave it before its end."""

    def __init__(self, loop: "_Loop", source: Source[T]) -> None:
        self._loop = loop
        self._source = source

    def __next__(self) -> T:
        item = self._loop.wait(self._source.next)
        if item is None:
            raise StopIteration
        return item

    def close(self) -> None:
        """Hang up; a client that is closed has done so."""
        with suppress(RuntimeError):
            self._loop.wait(self._source.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Loop:
    """The thread with the event loop on which an async client lives."""

    def __init__(self, remote: AsyncClient) -> None:
        self._remote = remote
        #: Guards the others, and that nothing is handed to a loop that is ending.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None
        self._is_closed = False

    def wait(self, work: Callable[[], Awaitable[T]]) -> T:
        """Have the loop do the work, and wait for its outcome.

        Raises:
            RuntimeError: the client is closed.
        """
        with self._lock:
            future = self._open().start_task_soon(work)
        try:
            return future.result()
        except BaseException as error:
            future.cancel()  # Ctrl-C: nobody waits for it any more; of what has ended this changes nothing
            if self._is_closed and isinstance(error, CancelledError):
                raise _closed() from error
            raise

    def close(self) -> None:
        with self._lock:
            portal, self._portal, self._is_closed = self._portal, None, True
        if portal is not None and self._thread is not None:
            portal.call(portal.stop, True)
            self._thread.join()

    def _open(self) -> BlockingPortal:
        if self._is_closed:
            raise _closed()
        if self._portal is None:
            begun: Future[BlockingPortal] = Future()
            # A daemon: a client that nobody closes keeps no program from ending.
            self._thread = threading.Thread(target=self._run, args=(begun,), name="aura-client", daemon=True)
            self._thread.start()
            self._portal = begun.result()
        return self._portal

    def _run(self, begun: "Future[BlockingPortal]") -> None:
        try:
            anyio.run(self._live, begun)
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)

    async def _live(self, begun: "Future[BlockingPortal]") -> None:
        # In the portal: a child for each call that is waited for. ``close`` ends it, and cancels what is left of them.
        async with self._remote, BlockingPortal() as portal:
            begun.set_result(portal)
            await portal.sleep_until_stopped()


def _closed() -> RuntimeError:
    return RuntimeError("this client is closed; make another")
