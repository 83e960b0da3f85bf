"""Where things were made: what Python's audit events tell of threads, processes, files and sockets, kept for a while.

It is told in whatever thread makes something, and asked on the loop's: what is gone through is a copy.

An event comes before the thing is there, so what it tells is matched with the thing later: a thread and a socket by the
object, a file by its path, a process by its command line. What code in C makes without telling has no origin here.

Bounds: the last ``MOST`` files, sockets and processes.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import Any
from weakref import WeakKeyDictionary, ref

from aura.testing.audit import listen
from aura.testing.plancode import Origin, origin

#: How many files, sockets and processes are remembered each.
MOST = 10_000
#: The events that a file or folder begins with, and which of their arguments is its path.
_FILES = {"open": 0, "os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "tempfile.mkdtemp": 0}
#: Those of processes, and which of their arguments is the command line; None where it is that of this process.
_PROCESSES = {"subprocess.Popen": 1, "os.posix_spawn": 1, "os.system": 0, "os.fork": None, "os.forkpty": None}


class Makings:
    """What was made from ``begin`` to ``close``, and by whom."""

    def __init__(self) -> None:
        self._files: dict[str, Origin] = {}
        self._sockets: deque[tuple[ref[socket], Origin]] = deque(maxlen=MOST)
        self._processes: deque[tuple[list[str] | None, Origin]] = deque(maxlen=MOST)
        self._threads: WeakKeyDictionary[threading.Thread, Origin] = WeakKeyDictionary()
        self._stop: Callable[[], object] = bool

    def begin(self) -> None:
        """Listen from now on."""
        self._stop = listen(self._note)

    def close(self) -> None:
        """Listen no more."""
        self._stop()

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FILES:
            self._note_file(arguments[_FILES[event]])
        elif event == "socket.__new__":
            self._sockets.append((ref(arguments[0]), origin()))
        elif event in _PROCESSES:
            place = _PROCESSES[event]
            self._processes.append((None if place is None else _words(arguments[place]), origin()))
        elif event.startswith("_thread.start_"):
            thread = getattr(arguments[0], "__self__", None)  # it is a method of the object
            if isinstance(thread, threading.Thread):
                self._threads[thread] = origin()

    def _note_file(self, path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):  # else it is the number of one that is open
            if len(self._files) >= MOST:
                with suppress(RuntimeError):  # another thread has just done so
                    self._files.pop(next(iter(self._files)), None)
            self._files[os.path.abspath(os.fsdecode(path))] = origin()

    # -- who made this

    def of_thread(self, thread: threading.Thread) -> Origin | None:
        return self._threads.get(thread)

    def of_file(self, path: str) -> Origin | None:
        """Who opened or made a file; of a folder, or something in it, the first."""
        known = list(self._files.items())
        return next((made for name, made in known if name == path or name.startswith(f"{path}/")), None)

    def of_socket(self, number: int) -> tuple[socket, Origin] | None:
        """The object of an open socket, and who made it."""
        for found, made in reversed(list(self._sockets)):
            one = found()
            if one is not None and one.fileno() == number:
                return one, made
        return None

    def of_process(self, command: Sequence[str]) -> Origin | None:
        """Who started a process with this command line: by the same one, or by one that a shell has gone on as."""
        words = list(command)
        text = " ".join(words)
        ours = _words_of_this_process()
        known = list(self._processes)[::-1]
        for said, made in known:
            if (ours if said is None else said) == words:
                return made
        for said, made in known:
            if said and text and text in " ".join(said):
                return made
        return None


def _words(said: Any) -> list[str]:
    if isinstance(said, str | bytes | os.PathLike):
        return [os.fsdecode(said)]
    return [os.fsdecode(word) for word in said]


def _words_of_this_process() -> list[str]:
    return command_of(os.getpid())


def command_of(pid: int) -> list[str]:
    """The command line of a process, as words; none if it is gone."""
    try:
        return [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
    except OSError:
        return []
