"""What a detector gives and what it is asked: the nouns of ``aura.testing.leaks``."""

from typing import Protocol

import msgspec

from aura.runs.attempt import Attempt
from aura.runs.runtime import Runtime


class Leak(msgspec.Struct, frozen=True, order=True):
    """Something that a run has left behind.

    ``kind`` is one of ``process``, ``thread``, ``child``, ``lock``, ``resource``, ``place``, ``open file``,
    ``temporary file``; ``where`` the line of the plan at which it was made, as ``lab/actions.py:12``, if that is known.
    """

    kind: str
    what: str
    where: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.what}" + (f", {_SAID.get(self.kind, 'at')} {self.where}" if self.where else "")


#: What is said of the line.
_SAID = {
    **dict.fromkeys(("process", "thread", "child"), "started at"),
    "open file": "opened at",
    "temporary file": "made at",
    "lock": "see",
}


class Detector(Protocol):
    """Looks for one kind of leak."""

    def begin(self) -> None:
        """Take what is there now for what was there before."""
        ...

    def left(self) -> list[Leak]:
        """What is there now and was not before."""
        ...

    def close(self) -> None:
        """Put back what it has changed, and end what it has found, as far as that can be done."""
        ...


def has_ended(runtime: Runtime, attempt: Attempt) -> bool:
    """Whether an attempt, and the run that it was part of, is over."""
    return attempt.over and attempt.run.cid not in runtime.open
