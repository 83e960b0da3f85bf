"""The child's end of the socket: what it says, what it asks, and that it ends with the server.

A thread of its own reads, so that a stop and the server's end are heard whatever the job does; whoever says something
writes it at once. The signal that stops a job is raised in the main thread, but never in the middle of a message.
"""

import asyncio
import builtins
import errno
import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import msgspec

from aura import errors
from aura.actions import plain_json
from aura.errors import ContextClosed, RaisedElsewhere, RunError, TaskFailed
from aura.isolation.messages import (
    MAX_FRAME,
    Asked,
    Begin,
    Frames,
    FromParent,
    Progressed,
    Reply,
    Stop,
    Withdrawn,
    frame_of,
    from_parent,
)
from aura.run import Failure

CHUNK = 64 * 1024
#: What is read has no bound but what the server sends: the sources of a plan.
NO_LIMIT = 2**32
#: Seconds between two messages of progress; the last one is always sent.
PROGRESS_EVERY = 0.1
#: How long a TERM waits for the message that says why, in seconds.
WHY = 0.2


class Link:
    """Made in the main thread. ``stop`` is there once the server has told of one."""

    def __init__(self, handle: int) -> None:
        self._socket = socket.socket(fileno=handle)
        self._socket.set_inheritable(False)
        self._frames = Frames(NO_LIMIT)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._replies: dict[int, Future[Any]] = {}
        self._paced = _Paced(self)
        #: The job's own code has closed the socket.
        self._is_closed = False
        self.over = False
        self.stop: Stop | None = None
        self._told = threading.Event()
        self._stopping: BaseException | None = None
        #: How deep the main thread is in what must not be broken off, and whether a stop came meanwhile.
        self._writing = 0
        self._due = False

    @property
    def usable(self) -> bool:
        """Whether this is the process that was given the job, and the job is not over."""
        return not self.over and os.getpid() == self._pid

    # -- reading

    def receive(self) -> Iterator[FromParent]:
        """Every message, as it comes. Ends with the server."""
        while True:
            try:
                chunk = self._socket.recv(CHUNK)
            except OSError as error:
                self._is_closed = error.errno in (errno.EBADF, errno.ENOTSOCK)
                return
            if not chunk:
                return
            for body in self._frames.feed(chunk):
                yield from_parent.decode(body)

    def first(self) -> Begin | None:
        """Wait for the job; None if there will be none."""
        message = next(self.receive(), None)
        return message if isinstance(message, Begin) else None

    def start(self) -> None:
        """Read from now on, in a thread of its own."""
        threading.Thread(target=self._serve, name="aura link", daemon=True).start()

    def _serve(self) -> None:
        for message in self.receive():
            match message:
                case Stop():
                    self.stop = message
                    self._told.set()
                case Reply():
                    self._settle(message)
        if not self._is_closed:
            end_group()

    def _settle(self, reply: Reply) -> None:
        future = self._replies.pop(reply.number, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if reply.failure is not None:
            future.set_exception(error_of(reply.failure))
        else:
            future.set_result(reply.value)

    # -- saying

    def send(self, message: msgspec.Struct) -> None:
        """Say something; waits while the server is behind.

        Raises:
            ContextClosed: the job is over, or this is a process that it has forked. ValueError: it is too large.
        """
        if not self.usable:
            raise ContextClosed("ctx was used after its job was over, or in a process that the action has forked")
        frame = frame_of(message)
        if len(frame) > MAX_FRAME:
            raise ValueError(f"{len(frame)} bytes are too much for one message; at most {MAX_FRAME} are taken")
        with self._unbroken(), self._lock:
            self._socket.sendall(frame)

    def progress(self, message: Progressed) -> None:
        """Say how far the job is, a few times a second at most."""
        if self.usable:
            self._paced.send(message)
        else:
            self.send(message)  # which refuses

    def end(self, message: msgspec.Struct) -> None:
        """Say what the job has come to: the last word."""
        self._paced.flush()
        self.send(message)
        self.over = True

    # -- asking

    def ask(self, call: str, *args: Any) -> "Future[Any]":
        """Ask the server for something; the future has the answer, or what it failed with."""
        number = next(self._numbers)
        future: Future[Any] = Future()
        self._replies[number] = future
        try:
            self.send(Asked(number, call, [plain_json(arg) for arg in args]))
        except BaseException:
            self._replies.pop(number, None)
            raise
        future.add_done_callback(lambda done: self._withdraw(number) if done.cancelled() else None)
        return future

    async def request(self, call: str, *args: Any) -> Any:
        """Ask, and wait for the answer. **Cancellation**: the server gives the request up as well."""
        return await asyncio.wrap_future(self.ask(call, *args))

    def _withdraw(self, number: int) -> None:
        if self._replies.pop(number, None) is not None and self.usable:
            self.send(Withdrawn(number))

    # -- being stopped

    def on_term(self, _number: int, _frame: FrameType | None) -> None:
        """Handle TERM in the main thread: break the job off, once."""
        if self._stopping is not None:
            return
        self._stopping = SystemExit(128 + signal.SIGTERM)
        self._told.wait(WHY)
        if self._writing:
            self._due = True
        else:
            raise self._stopping

    def cancel_once(self, task: "asyncio.Task[Any]") -> None:
        """Handle TERM in an event loop: cancel the job, once."""
        if self._stopping is None:
            self._told.wait(WHY)
            self._stopping = asyncio.CancelledError()
            task.cancel()

    def is_stop(self, error: BaseException) -> bool:
        """Whether a job ended by nothing but the stop."""
        cancelled = isinstance(error, asyncio.CancelledError) and isinstance(self._stopping, asyncio.CancelledError)
        return cancelled or (error is self._stopping and error is not None)

    @contextmanager
    def _unbroken(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1
            if self._due and not self._writing:
                self._due = False
                assert self._stopping is not None
                raise self._stopping


class _Paced:
    """Sends the newest of many messages, the first at once and the last in the end."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._newest: Progressed | None = None
        self._timer: threading.Timer | None = None

    def send(self, message: Progressed) -> None:
        self._newest = message
        if self._timer is None:
            self._send_on()

    def flush(self) -> None:
        """Send what has not been sent."""
        newest, self._newest = self._newest, None
        if newest is not None and self._link.usable:
            self._link.send(newest)

    def _send_on(self) -> None:
        self._timer = timer = threading.Timer(PROGRESS_EVERY, self._due)
        timer.daemon = True
        timer.start()
        self.flush()

    def _due(self) -> None:
        self._timer = None
        if self._newest is not None and self._link.usable:
            self._send_on()


def end_group() -> NoReturn:
    """End this process, and what it started and is still in its group: there is no server any more."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


#: The errors that Aura names and that are made of a message alone, by that name: what is raised there is raised here.
_NAMED = {
    kind.type: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RunError) and kind.__init__ is Exception.__init__
}


def error_of(failure: Failure) -> Exception:
    """Make the error again that answers a request."""
    if failure.type == TaskFailed.type:
        return TaskFailed(failure.message, dict(failure.cause or {}))
    if (named := _NAMED.get(failure.type)) is not None:
        return named(failure.message)
    builtin = getattr(builtins, failure.type, None)
    if isinstance(builtin, type) and issubclass(builtin, Exception):
        return builtin(failure.message)
    return RaisedElsewhere(failure)
