"""What works for a loop beside it, and whose answer comes before any timer: threads, executors, child processes.

Not in flight are threads that wait for the loop (``from_thread.run``), that stand at a ``ThreadGate`` or listen for
changes of folders, and what a frozen life has started: they answer nobody.
"""

import asyncio
import threading
from collections.abc import Collection, Iterator, Sized
from contextlib import contextmanager
from contextvars import Context
from functools import cached_property
from typing import Any, Protocol

from anyio._backends import _asyncio as _anyio

from aura.loading import importing
from aura.processes import leftovers
from aura.runs.edge import suspended_in
from aura.testing.lives import LIFE, Life
from aura.watching import folders


class Gate(Protocol):
    """Where threads wait that are not in flight; ``waiting`` says how many."""

    waiting: int


class InFlight:
    """What is in flight for one loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, frozen: Collection[Life], abandoned: Collection[threading.Thread]
    ) -> None:
        """``frozen`` are the lives for which nothing goes on, ``abandoned`` the threads that were given up."""
        self._loop = loop
        self._frozen = frozen
        self._abandoned = abandoned
        self.gates: list[Gate] = []
        #: How often a worker thread has answered.
        self._answers = 0
        #: What an executor computes, and for which life.
        self._executing: dict[object, Life | None] = {}
        #: The processes that run, and of which life.
        self._processes: list[tuple[asyncio.SubprocessTransport, Life | None]] = []
        #: The processes that an earlier loop has left: nobody here waits for their end.
        self._others = frozenset(leftovers.awaited)

    # -- being told

    def note_answer(self) -> None:
        """A worker thread has answered; what is in flight after that is other work."""
        self._answers += 1

    def note_computing(self, future: "asyncio.Future[Any]") -> None:
        """An executor computes for the present life until that is done."""
        self._executing[future] = LIFE.get()
        future.add_done_callback(self._executing.pop, context=Context())  # also of a life that is frozen by then

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While inside, a thread waits for an executor's threads to end."""
        wait = object()
        self._executing[wait] = None
        try:
            yield
        finally:
            del self._executing[wait]

    def note_process(self, transport: asyncio.SubprocessTransport) -> None:
        """A child process of the present life runs until it has ended."""
        self._processes = [one for one in self._processes if one[0].get_returncode() is None]
        self._processes.append((transport, LIFE.get()))

    # -- being asked

    def is_any(self) -> bool:
        """Whether anything is in flight."""
        return bool(
            (self._executing and any(_is_going(life) for life in self._executing.values()))
            or (leftovers.awaited and self._awaited_processes())
            or (self._processes and self._processes_go())
            or importing.is_awaited_on(self._loop)
            or (threading.active_count() > 1 and self._busy_threads() > 0)
        )

    def work(self) -> object:
        """What is another thing once any of the work in flight has ended."""
        running = tuple(transport.get_pid() for transport, _ in self._processes if transport.get_returncode() is None)
        return self._answers, frozenset(self._executing), frozenset(leftovers.awaited), running

    @property
    def workers(self) -> Collection[Any]:
        """Anyio's worker threads for the loop."""
        return self._workers[0]

    @cached_property
    def _kept_workers(self) -> tuple[Collection[Any], Sized]:
        """Anyio's worker threads for the loop, and those that are idle: the same two from the first one on."""
        return _anyio._threadpool_workers.get(), _anyio._threadpool_idle_workers.get()

    @property
    def _workers(self) -> tuple[Collection[Any], Sized]:
        try:
            return self._kept_workers
        except LookupError:  # there was none yet
            return (), ()

    def _processes_go(self) -> bool:
        return any(transport.get_returncode() is None and _is_going(life) for transport, life in self._processes)

    def _awaited_processes(self) -> set[int]:
        return leftovers.awaited.difference(self._others, *(life.processes for life in self._frozen))

    def _busy_threads(self) -> int:
        """Anyio's busy worker threads, less those that wait for the loop."""
        workers, idle = self._workers
        busy = len(workers) - len(idle) + self._told_to_end(workers)
        if not busy:
            return 0
        frozen = {child for life in self._frozen for child in life.children}
        calling = sum(_calls_from_a_thread(task) for task in asyncio.all_tasks(self._loop) - frozen)
        silent = {task for task in folders.hearing() if task.get_loop() is self._loop}  # whose threads hold nothing
        silent |= {child for child in frozen if _awaits_a_thread(child)}
        return busy - calling - len(silent) - sum(gate.waiting for gate in self.gates)

    def _told_to_end(self, workers: Collection[Any]) -> int:
        """Worker threads that anyio does not count any more, since the child that it had them from has ended.

        In a test runner that may be one life's server, while the thread works for another's.
        """
        if threading.active_count() == 1 + len(workers):
            return 0
        others = (thread for thread in threading.enumerate() if isinstance(thread, _anyio.WorkerThread))
        left = self._abandoned
        return sum(thread.loop is self._loop and thread not in workers and thread not in left for thread in others)


def _is_going(life: Life | None) -> bool:
    return life is None or not life.frozen


def _calls_from_a_thread(task: "asyncio.Task[Any]") -> bool:
    """Whether a child runs what a worker thread asked for with ``from_thread.run``, and waits for."""
    return "run_async_from_thread" in getattr(task.get_coro(), "__qualname__", "")


def _awaits_a_thread(task: "asyncio.Task[Any]") -> bool:
    """Whether one of anyio's worker threads works for a child; not if it has answered and the child is held."""
    frames = suspended_in(task.get_coro())
    if not frames or frames[-1].f_code.co_name != "run_sync_in_worker_thread":
        return False
    answer = frames[-1].f_locals.get("future")  # a sweep may have it wait for something else by now
    return answer is not None and not answer.done()
