"""Files that a run has left: in the system's folder for temporary ones, and open.

While it is watched, that folder is a private one (``tempfile.tempdir``, and ``TMPDIR`` for child processes). Whatever
is left in it is a leak; a run's own workdir is not in it.

What is open is seen in ``/proc/self/fd``: a number that was not there before, or that stands for something else now. Of
files and sockets it is known who opened them; of pipes it is not, so those are no leaks while a service is open that
may have made them, and those to a process that Aura looks after are Aura's.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from socket import socket

from aura.processes import leftovers
from aura.testing.detectors.detector import Leak
from aura.testing.detectors.makings import Makings
from aura.testing.plancode import Origin


class TemporaryFiles:
    """Detects temporary files."""

    def __init__(self, makings: Makings) -> None:
        self._makings = makings
        self._former: tuple[str | None, str | None] | None = None
        self._folder = Path()

    def begin(self) -> None:
        if self._former is None:  # else it is there already
            folder = tempfile.mkdtemp(prefix="aura-watched-")
            self._former = tempfile.tempdir, os.environ.get("TMPDIR")
            self._folder = Path(folder)
            tempfile.tempdir = os.environ["TMPDIR"] = folder

    def left(self) -> list[Leak]:
        with os.scandir(self._folder) as entries:
            return [leak for entry in entries if (leak := self._leak(entry))]

    def close(self) -> None:
        if self._former is None:
            return
        tempfile.tempdir, variable = self._former
        if variable is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = variable
        try:
            self._folder.rmdir()
        except OSError:  # there is something in it
            shutil.rmtree(self._folder, ignore_errors=True)
        self._former = None

    def _leak(self, entry: os.DirEntry[str]) -> Leak | None:
        made = self._makings.of_file(entry.path)
        if made is not None and made.by_service:
            return None
        try:
            what = f"{entry.name} ({_size(entry)})"
        except FileNotFoundError:  # it has just gone
            return None
        return Leak("temporary file", what, made.where if made else None)


def _size(entry: os.DirEntry[str]) -> str:
    if not entry.is_dir(follow_symlinks=False):
        return f"{entry.stat(follow_symlinks=False).st_size} bytes"
    inside = [Path(folder, name) for folder, _, names in os.walk(entry.path) for name in names]
    return f"a folder, {len(inside)} files in it, {sum(file.lstat().st_size for file in inside)} bytes"


class OpenFiles:
    """Detects what is open. ``data`` is the data folder; ``has_services`` says whether any service may be open."""

    def __init__(self, makings: Makings, data: Path, has_services: Callable[[], bool]) -> None:
        self._makings = makings
        self._has_services = has_services
        self._data, self._work = (os.path.join(folder, "") for folder in (data, data / "work"))
        self._known: dict[int, str] = {}

    def begin(self) -> None:
        self._known = _open_files()

    def left(self) -> list[Leak]:
        new = [(number, target) for number, target in _open_files().items() if self._known.get(number) != target]
        if not new:
            return []
        awaited = {target for pid in leftovers.awaited for target in _open_files(pid).values()}
        return [leak for number, target in new if target not in awaited and (leak := self._leak(number, target))]

    def close(self) -> None:
        pass

    def _leak(self, number: int, target: str) -> Leak | None:
        shown, made = target, self._makings.of_file(target.removesuffix(" (deleted)"))
        if target.startswith("socket:"):
            found = self._makings.of_socket(number)
            shown, made = (_shown_socket(found[0]), found[1]) if found else (target, None)
        if self._is_kept(target, made):
            return None
        return Leak("open file", f"{shown} (number {number})", made.where if made else None)

    def _is_kept(self, target: str, made: Origin | None) -> bool:
        """Whether it is Aura's own, or a service's."""
        if target.startswith(self._data) and not target.startswith(self._work):
            return True
        return (made.by_service or made.by_aura) if made is not None else self._has_services()


def _open_files(pid: int | str = "self") -> dict[int, str]:
    folder = f"/proc/{pid}/fd"
    found = {}
    try:
        names = os.listdir(folder)
    except OSError:  # the process is gone
        return {}
    for name in names:
        try:
            found[int(name)] = os.readlink(f"{folder}/{name}")
        except OSError:  # closed by now, as is the one of the listing itself
            continue
    return found


def _shown_socket(one: socket) -> str:
    try:
        return f"socket to {_address(one.getpeername())}"
    except OSError:
        return f"socket at {_address(one.getsockname())}"


def _address(said: object) -> str:
    return ":".join(map(str, said[:2])) if isinstance(said, tuple) else str(said) or "a path without a name"
