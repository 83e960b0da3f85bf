"""A server for a synchronous program: on an event loop in a thread of its own, asked from any thread.

A call is handed to the loop and its answer waited for; anyio's own portal is not used, since it makes a caller wait for
the loop before there is anything that could end the wait, for ever if the loop has gone. Every call that was handed
over is known here, and what the loop has not answered when it ends is answered by who ends it: no call hangs.

The thread ends with the server. If plan code keeps its loop from ending, the thread, a daemon, is left behind: the
program goes on, is told so, and can end.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
from anyio.abc import TaskGroup

from aura.config import Settings
from aura.embed.hosted import EmbeddedServer, Folder, ended, open_server
from aura.errors import EmbedError, ServerEnded, StoreError, WorkLeft
from aura.eventloop import StayingLoop

#: Seconds beyond the grace within which a server has ended, or hangs.
END_SLACK = 8.0
#: The same for one that is still starting, and may be importing plans.
START_PATIENCE = 30.0
#: Seconds that the loop of a server which has ended gets to close.
CLOSE_PATIENCE = 1.0
Opens = Callable[[], AbstractAsyncContextManager[EmbeddedServer]]


P = ParamSpec("P")
T = TypeVar("T")


def _asked(
    method: Callable[Concatenate[EmbeddedServer, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["BlockingServer", P], T]:
    """The same method, asked from any other thread."""

    @wraps(method)
    def call(self: "BlockingServer", /, *args: P.args, **kwargs: P.kwargs) -> T:
        answer: T = self._host.ask(method, self._server, *args, **kwargs)
        return answer

    return call


class BlockingServer:
    """A server in a thread of its own. Made by ``start``; its methods are for any other thread, at any time.

    They are those of ``EmbeddedServer``, and raise the same.
    """

    def __init__(self, host: "ThreadHost", server: EmbeddedServer) -> None:
        self._host = host
        self._server = server
        self.address = server.address
        self.token = server.token

    submit = _asked(EmbeddedServer.submit)
    wait = _asked(EmbeddedServer.wait)
    cancel = _asked(EmbeddedServer.cancel)
    answer = _asked(EmbeddedServer.answer)
    emit = _asked(EmbeddedServer.emit)
    fire = _asked(EmbeddedServer.fire)
    status = _asked(EmbeddedServer.status)
    runs = _asked(EmbeddedServer.runs)

    def hurry(self) -> None:
        """Begin the end of the server, or leave one that is under way less grace. Does not wait."""
        self._host.hurry()


class ThreadHost:
    """The thread that one server runs in: its loop, the calls that were handed to it, its end."""

    def __init__(self, opens: Opens) -> None:
        self._opens = opens
        self._ready: Future[EmbeddedServer] = Future()
        #: Guards ``_loop``, ``_calls`` and ``_closed``, for a few instructions each: no call begins after the end.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[Future[Any]] = set()
        self._closed = False
        self._group: TaskGroup
        self._server: EmbeddedServer | None = None
        #: What the server's end brought up; None if it was told to end and has.
        self.problem: Exception | None = None
        #: How the server is told to end: by a cancel while it starts, else by the event.
        self._starting: anyio.CancelScope
        self._told: anyio.Event
        self._done = threading.Event()  # the server has ended
        self._over = threading.Event()  # its loop has been closed as well
        self._until = 0.0  # when its end takes too long; 0 while nobody has asked for it
        self._thread = threading.Thread(target=self._run, name="aura server", daemon=True)
        self._thread.start()

    # -- in the thread

    def _run(self) -> None:
        try:
            anyio.run(self._serve, backend_options={"loop_factory": StayingLoop})
        except BaseException as error:
            self.problem = self.problem or EmbedError(f"the server's event loop ended by {error!r}")
        finally:
            self._finish()
            self._over.set()

    async def _serve(self) -> None:
        self._starting, self._told = anyio.CancelScope(), anyio.Event()
        # calls: those of other threads, each ended by its answer, at the server's end at the latest
        async with anyio.create_task_group() as self._group:
            with self._lock:
                self._loop = asyncio.get_running_loop()
            try:
                with self._starting:  # the server
                    await self._serve_until_told()
            except Exception as error:
                self.problem = error
        self._finish()

    async def _serve_until_told(self) -> None:
        async with self._opens() as self._server:
            self._ready.set_result(self._server)
            await self._told.wait()

    def _finish(self) -> None:
        """No call begins any more, and none is left without an answer."""
        with self._lock:
            self._closed = True
            calls, self._calls = self._calls, set()
        for call in calls:
            _resolve(call, error=self._error())
        _resolve(self._ready, error=self.problem or self._error())
        self._done.set()

    def _begin(self, ask: Callable[[], Any], call: "Future[Any]") -> None:
        try:
            self._group.start_soon(_answer, ask, call, name="call")
        except RuntimeError:  # the group has ended in the turn before
            _resolve(call, error=self._error())

    def _error(self) -> Exception:
        return self.problem if isinstance(self.problem, StoreError) else ended()

    # -- from other threads

    def wait_ready(self) -> EmbeddedServer:
        """Return once it serves.

        Raises:
            Exception: why it could not start.
        """
        return self._ready.result()

    def ask(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Have the loop await ``method(…)`` and give what it returns or raises."""
        if threading.current_thread() is self._thread:
            raise EmbedError("this is the server's own thread, which would wait for itself: ask from another one")
        call: Future[Any] = Future()
        with self._lock:
            if self._closed or self._loop is None:
                raise self._error()
            self._calls.add(call)
            self._loop.call_soon_threadsafe(self._begin, partial(method, *args, **kwargs), call)
        try:
            return call.result()
        finally:
            with self._lock:
                self._calls.discard(call)

    def end(self) -> None:
        """Stop the server and return when it is gone, or hangs; ``problem`` says what there is to say.

        Ctrl-C hurries it, and is raised when it is gone.
        """
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                self._end()
                break
            except KeyboardInterrupt as error:
                interrupted = error
                self.hurry()
        if interrupted is not None:
            raise interrupted

    def _end(self) -> None:
        self._tell_end()
        self._until = self._until or time.monotonic() + self._grace() + END_SLACK
        if not self._done.wait(max(0.0, self._until - time.monotonic())):
            self.problem = WorkLeft("the server did not end within its grace: plan code blocks its event loop")
            self._finish()
        elif self._over.wait(CLOSE_PATIENCE):
            self._thread.join(CLOSE_PATIENCE)
        elif self.problem is None:
            self.problem = WorkLeft("plan code keeps the event loop of the server from ending; its thread is left")

    def _tell_end(self) -> None:
        while not self._in_loop(self._tell) and self._thread.is_alive():
            self._done.wait(0.001)  # the thread has only just begun: it has no loop yet

    def _tell(self) -> None:
        self._told.set()
        if self._server is None:
            self._starting.cancel("told to end")

    def hurry(self) -> None:
        """Begin the end, or bring it nearer. Does not wait."""
        if self._server is not None:
            self._in_loop(self._server.hurry)

    def _grace(self) -> float:
        return START_PATIENCE if self._server is None else self._server.grace

    def _in_loop(self, function: Callable[[], object]) -> bool:
        """Call something on the loop, soon; say whether there is one."""
        with self._lock:
            loop = self._loop
        with suppress(RuntimeError):  # it has been closed
            if loop is not None:
                loop.call_soon_threadsafe(function)
        return loop is not None


async def _answer(ask: Callable[[], Any], call: "Future[Any]") -> None:
    """Resolve one call. Never raises but a cancellation: it is a child beside others."""
    try:
        result = await ask()
    except BaseException as error:
        _resolve(call, error=ServerEnded("the call was cancelled") if _is_cancellation(error) else error)
        if not isinstance(error, Exception):
            raise
    else:
        _resolve(call, result)


def _is_cancellation(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError)


def _resolve(call: "Future[Any]", result: Any = None, error: BaseException | None = None) -> None:
    with suppress(InvalidStateError):  # it has been answered
        if error is None:
            call.set_result(result)
        else:
            call.set_exception(error)


@contextmanager
def start(
    plans: Folder,
    *,
    data: Folder | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    http: bool = False,
) -> Iterator[BlockingServer]:
    """Run a server in a thread until the block ends; begins it once everything is ready.

    The arguments and the errors are those of ``open_server``. A block cannot be broken off from outside: if the storage
    is lost, its calls raise that, and so does its end.

    Raises:
        ConfigError, StoreError: it could not start; nothing is left behind.
        WorkLeft: it has stopped, and plan code that does not end is still there.
    """
    host = ThreadHost(partial(open_server, plans, data=data, settings=settings, http=http))
    try:
        yield BlockingServer(host, host.wait_ready())
    except BaseException as error:
        host.end()
        if host.problem is not None and host.problem is not error:
            error.add_note(f"the embedded server: {host.problem}")
        raise
    host.end()
    if host.problem is not None:
        raise host.problem
