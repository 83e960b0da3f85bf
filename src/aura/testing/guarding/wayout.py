"""Ways out of the process: what Python's audit events tell of the network, of processes and of files that change.

The arguments are those of CPython's audit event table. It decides nothing: the guard does. What only reads is a way out
as well; who may is for the guard.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

#: What a test can allow as a whole.
KINDS: Final = ("network", "processes", "files")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class WayOut(NamedTuple):
    """What is about to happen, in words: ``does`` (a verb) and ``what``; of files the real ``paths``."""

    kind: str
    does: str
    what: str = ""
    paths: tuple[str, ...] = ()
    only_reads: bool = False


Look = Callable[[str, tuple[Any, ...]], WayOut | None]


def _told(kind: str, does: str, place: int | None) -> Look:
    """An event of which one argument says what it is about."""

    def look(_: str, arguments: tuple[Any, ...]) -> WayOut | None:
        if place is None:
            return WayOut(kind, does)
        what = arguments[place]
        return None if what is None else WayOut(kind, does, _shown(what))

    return look


def _shown(what: Any) -> str:
    if isinstance(what, tuple) and len(what) >= 2 and isinstance(what[0], str):
        return f"{what[0]}:{what[1]}"
    if isinstance(what, list | tuple):
        return _shown(what[0]) if what else "nothing"
    if isinstance(what, str | bytes | os.PathLike):
        return os.fsdecode(what)[:200]
    return f"{what!r:.200}"


def _signalled(_: str, arguments: tuple[Any, ...]) -> WayOut | None:
    number, signal = arguments
    return WayOut("processes", "send a signal to process", str(number)) if signal else None  # 0 only asks


# -- files


def only_reads(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an event is that of a file or folder that is read: much more frequent than all others."""
    if event == "open":
        return not _is_writing(arguments[1], arguments[2])
    return event in ("os.listdir", "os.scandir")


def _opened(_: str, arguments: tuple[Any, ...]) -> WayOut | None:
    path, mode, flags = arguments
    if not isinstance(path, str | bytes | os.PathLike):
        return None  # the number of one that is open
    writes = _is_writing(mode, flags)
    found = real(path, follow=not (writes and flags & os.O_EXCL))
    return WayOut("files", "write" if writes else "read", paths=(found,), only_reads=not writes)


def _is_writing(mode: Any, flags: int) -> bool:
    return bool(flags & _WRITES) or (isinstance(mode, str) and not set("wax+").isdisjoint(mode))


def _listed(_: str, arguments: tuple[Any, ...]) -> WayOut | None:
    path = arguments[0]
    if isinstance(path, int):
        return None
    return WayOut("files", "read", paths=(real("." if path is None else path),), only_reads=True)


def _connected(_: str, arguments: tuple[Any, ...]) -> WayOut | None:
    """A database of SQLite, which is made and written by code in C."""
    path = os.fsdecode(arguments[0])
    query = ""
    if path.startswith("file:"):
        path, _, query = path.removeprefix("file:").partition("?")
        path = path.removeprefix("//")
    if path in ("", ":memory:") or "mode=memory" in query:
        return None
    reads = "mode=ro" in query or "immutable=1" in query
    return WayOut("files", "read" if reads else "write", paths=(real(path),), only_reads=reads)


def _changed(
    does: str, places: tuple[tuple[int, int | None], ...], follow: bool, _: str, arguments: tuple[Any, ...]
) -> WayOut | None:
    """A change of a path. ``places`` are those of paths, each with that of what a relative one is relative to."""
    paths = tuple(
        real(arguments[place], None if base is None else arguments[base], follow=follow)
        for place, base in places
        if not isinstance(arguments[place], int)
    )
    return WayOut("files", does, paths=paths) if paths else None


def real(path: str | bytes | os.PathLike[Any], base: int | None = None, *, follow: bool = True) -> str:
    """The absolute path that is meant, links resolved; without ``follow`` a last part that is a link is kept."""
    text = os.fsdecode(path)
    if base is not None and base >= 0 and not os.path.isabs(text):
        text = os.path.join(os.path.realpath(f"/proc/self/fd/{base}"), text)
    folder, name = os.path.split(text.rstrip("/"))
    if follow or name in ("", ".", ".."):
        return os.path.realpath(text)
    return os.path.join(os.path.realpath(folder or "."), name)


def _file(does: str, *places: tuple[int, int | None], follow: bool = False) -> Look:
    return partial(_changed, does, places, follow)


#: What to look at, by the name of the event.
WAYS_OUT: Final[Mapping[str, Look]] = {
    "socket.connect": _told("network", "connect to", 1),
    "socket.bind": _told("network", "listen at", 1),
    "socket.sendto": _told("network", "send to", 1),
    "socket.sendmsg": _told("network", "send to", 1),  # None where it is connected
    "socket.getaddrinfo": _told("network", "look up", 0),
    "socket.gethostbyname": _told("network", "look up", 0),
    "socket.gethostbyaddr": _told("network", "look up", 0),
    "socket.getnameinfo": _told("network", "look up", 0),
    "subprocess.Popen": _told("processes", "start", 0),
    "os.posix_spawn": _told("processes", "start", 0),
    "os.exec": _told("processes", "go on as", 0),
    "os.system": _told("processes", "have a shell run", 0),
    "os.fork": _told("processes", "fork this process", None),
    "os.forkpty": _told("processes", "fork this process", None),
    "pty.spawn": _told("processes", "start", 0),
    "os.kill": _signalled,
    "os.killpg": _signalled,
    "open": _opened,
    "os.listdir": _listed,
    "os.scandir": _listed,
    "sqlite3.connect": _connected,
    "os.remove": _file("remove", (0, 1)),
    "os.rmdir": _file("remove", (0, 1)),
    "os.mkdir": _file("make", (0, 2)),
    "os.rename": _file("rename", (0, 2), (1, 3)),
    "os.link": _file("link", (0, 2), (1, 3)),
    "os.symlink": _file("link", (1, 2)),
    "os.chmod": _file("change the mode of", (0, 2), follow=True),
    "os.chown": _file("change the owner of", (0, 3), follow=True),
    "os.utime": _file("change the time of", (0, 3), follow=True),
    "os.truncate": _file("write", (0, None), follow=True),
    "os.setxattr": _file("change", (0, None), follow=True),
    "os.removexattr": _file("change", (0, None), follow=True),
}
