"""Long work in worker threads that can be stopped at once: a generator, run for a twentieth of a second at a time."""

import time
from collections.abc import Callable, Generator

from anyio import to_thread

SLICE = 0.05


async def in_slices(work: Generator[None, None, None], after: Callable[[], object]) -> None:
    """Run a generator to its end, in threads, and call ``after`` on the event loop after each slice.

    A stop is heard between two slices. Whatever happens, the generator is closed, so that its clean-up runs.
    """
    try:
        while await to_thread.run_sync(_run_slice, work):
            after()
        after()
    finally:
        work.close()


def _run_slice(work: Generator[None, None, None]) -> bool:
    """Go on until the time is up (true) or the work is done (false)."""
    end = time.monotonic() + SLICE
    return any(time.monotonic() >= end for _ in work)
