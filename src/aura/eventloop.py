"""The event loop that the server runs on: asyncio's, which no exit of a child leaves.

When a child raises ``SystemExit`` or ``KeyboardInterrupt``, asyncio gives it to whoever awaits the child *and* raises
it out of the loop, whosever child it is: a ``sys.exit()`` in one that a plan's action has started would end the server
as a crash does. Here it is logged, the loop goes on, and the error is the one's who awaits it, like any other.
"""

import asyncio
import logging
import signal
import threading
from contextvars import ContextVar
from signal import default_int_handler
from typing import Any

log = logging.getLogger(__name__)

#: Set in the context of whatever goes on by itself for as long as the server runs, whether anybody waits for it or not,
#: and so of its timers: a test's virtual time does not take them for a sign that somebody can go on.
IN_BACKGROUND: ContextVar[bool] = ContextVar("aura_in_background", default=False)


def is_alone(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether nobody but who asks, in a turn of this loop, would come up in its next turns, before time passes.

    Only a loop in virtual time can say so of itself: any other may have input in its next turn.
    """
    return getattr(loop, "is_alone", False)


class StayingLoop(asyncio.SelectorEventLoop):
    """An event loop that ends when it is told to, and not by what a child raises. Give it as ``loop_factory``."""

    _main: "asyncio.Future[Any] | None" = None

    def run_until_complete(self, future: Any) -> Any:
        """Run until ``future``, or a coroutine that is made one, is done; give its result or raise its error."""
        self._main = main = asyncio.ensure_future(future, loop=self)
        try:
            return super().run_until_complete(main)
        finally:
            self._main = None
            if main.done() and not main.cancelled():
                main.exception()  # it is being raised: nobody has to be told that it was not looked at

    def run_forever(self) -> None:
        """Run until ``stop``."""
        while True:
            try:
                super().run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                if self._main is None or self._main.done():  # its own: nothing is left to go on with
                    raise
                if isinstance(error, KeyboardInterrupt) and _may_be_a_signal():
                    raise
                self.call_soon(_tell, error)  # when it goes on: what takes the line asks the running loop for the time
            else:
                return


def _may_be_a_signal() -> bool:
    """Whether a KeyboardInterrupt may be Ctrl-C itself. A server has a handler of its own for that."""
    main = threading.current_thread() is threading.main_thread()  # signals are handled there alone
    return main and signal.getsignal(signal.SIGINT) is default_int_handler


def _tell(error: BaseException) -> None:
    log.error("a child wanted to leave the event loop with %r; the loop goes on", error, exc_info=error)
