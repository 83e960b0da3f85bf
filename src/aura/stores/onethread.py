"""A thread of its own for work that is done one piece after the other, as an executor of asyncio's.

It does no more than that takes: one queue, no limits, no context. A hop there and back takes two turns of the loop less
than one to a worker thread of anyio's, and each hop of each run waits for a commit. It is a daemon, so that a disk that
hangs cannot keep the process from ending.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any

#: What has to be done, and what came of it; None ends the thread.
_Work = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]] | None


class OneThread(Executor):
    """Runs what is submitted in its thread, in order. The thread is there from the first submission to ``shutdown``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: SimpleQueue[_Work] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy = False

    def submit(self, function: Callable[..., Any], /, *args: Any, **keys: Any) -> "Future[Any]":
        """Have a function called with positional arguments.

        Raises:
            RuntimeError: there is no thread to be had.
        """
        assert not keys, "it takes none"
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            thread.start()  # ends by ``shutdown``, or with the process
            self._thread = thread
        future: Future[Any] = Future()
        self._queue.put((future, function, args))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread once it has done what was submitted; wait for that only if it has nothing to do."""
        assert not cancel_futures, "what was submitted is done"
        if self._thread is not None:
            self._queue.put(None)
            if wait and not self._busy:
                self._thread.join()

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            self._busy = True
            tell = _do(*work)
            self._busy = False  # before anybody hears of it: who then ends the thread finds it with nothing to do
            tell()
            del work, tell  # nothing is kept alive by a thread that waits


def _do(future: "Future[Any]", function: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[], object]:
    """Do a piece of work, and give what tells of it."""
    if not future.set_running_or_notify_cancel():
        return lambda: None
    try:
        result = function(*args)
    except BaseException as error:
        return partial(future.set_exception, error)
    return partial(future.set_result, result)
