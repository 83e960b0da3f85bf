"""The one audit hook of the process, and who listens to it.

Python tells its audit hooks of what leaves the interpreter: that a file is opened, a thread or a process is started, a
socket is made or connected. A hook can never be removed again. So there is one, added when somebody listens for the
first time, and it hands each event to those who listen now. With none it costs some 50 ns an event.

A listener is called in the thread in which the event happens, just before it does: with its name and its arguments,
which are those of CPython's audit event table. What it raises is raised there, in place of what was to happen. It must
be quick, and it hears of what it does itself too. It does not hear of code in C that asks the system directly.

Python 3.11 tells nothing of threads. There the function with which ``threading`` starts them is replaced, with the
hook, by one that tells of it as later versions do: ``_thread.start_new_thread``.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any, Final

Listener = Callable[[str, tuple[Any, ...]], object]


class _Hook:
    """Hands each event to whoever listens; a tuple, so that no thread meets one that changes."""

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self._is_added = False

    def add(self, listener: Listener) -> None:
        self.listeners = (*self.listeners, listener)
        if not self._is_added:
            self._is_added = True
            sys.addaudithook(self)
            if sys.version_info < (3, 12):
                _tell_of_threads()

    def remove(self, listener: Listener) -> None:
        self.listeners = tuple(one for one in self.listeners if one is not listener)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        for listener in self.listeners:
            listener(event, arguments)


def _tell_of_threads() -> None:
    start = threading._start_new_thread  # type: ignore[attr-defined]  # what ``Thread.start`` calls

    def told(function: Callable[..., object], arguments: tuple[Any, ...], *named: dict[str, Any]) -> int:
        sys.audit("_thread.start_new_thread", function, arguments, named[0] if named else None)
        number: int = start(function, arguments, *named)
        return number

    threading._start_new_thread = told  # type: ignore[attr-defined]


_HOOK: Final = _Hook()


def listen(listener: Listener) -> Callable[[], None]:
    """Have ``listener(event, arguments)`` called for every audit event, until what this gives is called."""

    def heard(event: str, arguments: tuple[Any, ...]) -> None:  # one of its own, though a listener listens twice
        listener(event, arguments)

    _HOOK.add(heard)
    return lambda: _HOOK.remove(heard)
