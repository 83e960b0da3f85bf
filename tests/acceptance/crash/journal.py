"""A client's journal: what it could prove in court. What it has sent, and what was answered, synced line by line."""

import os
from pathlib import Path

import msgspec


class Note(msgspec.Struct, frozen=True):
    """One line of a journal.

    ``sent``: ``key`` is asked for now, together with all whose ``batch`` is the same. ``told``: so it was answered;
    ``status`` 0 means that no answer came. ``seen``, ``cancel``, ``pause`` and ``resume``: what was answered about
    ``cid``, with its ``state``. ``emit``: the event ``key`` is emitted now for the run ``cid``; ``emitted``: so it was
    answered, ``state`` is the event's id. ``answer``: the run's question is answered ``yes`` or ``no`` (``state``) now;
    ``answered``: so that was answered. ``call``: the webhook is called now, the delivery is ``key``; ``called``: so it
    was answered, ``cid`` is the run that it has started.
    """

    kind: str
    key: str = ""
    task: str = ""
    status: int = 0
    cid: str = ""
    state: str = ""
    batch: str = ""


class Journal:
    """The file of one client, which nobody else writes."""

    def __init__(self, file: Path) -> None:
        self._out = open(file, "ab")  # noqa: SIM115 - closed by ``close``

    def close(self) -> None:
        self._out.close()

    def note(self, note: Note) -> None:
        """Write a line down; it is on the disk when this returns."""
        self._out.write(msgspec.json.encode(note) + b"\n")
        self._out.flush()
        os.fsync(self._out.fileno())


def read_journals(folder: Path) -> list[Note]:
    """What all clients have written down, each in its order."""
    lines = [line for file in sorted(folder.glob("journal.*")) for line in file.read_bytes().splitlines()]
    return [msgspec.json.decode(line, type=Note) for line in lines]
