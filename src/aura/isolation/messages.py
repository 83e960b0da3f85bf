"""What a server and an isolated process say to each other: frames of JSON, four bytes of length first."""

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from aura.run import Failure

#: The largest frame from a child, in bytes. A result has 1 MiB at most; a request may have more in its arguments.
MAX_FRAME = 8 * 1024 * 1024
#: The marks of a process that has not said yet that it is ready, and of one that is: as long as the id of a run, which
#: is written over them.
NOT_READY = "-" * 36
UNMARKED = "=" * 36
_LENGTH = struct.Struct(">I")


# -- to the child -----------------------------------------------------------------------------------------------------


class RunCode(msgspec.Struct, frozen=True, tag="code"):
    """A script: its text, the name of its file in tracebacks, and the folder that its imports may come from."""

    source: str
    file: str
    folder: str | None
    inputs: dict[str, Any]


class RunAction(msgspec.Struct, frozen=True, tag="action"):
    """An action of a generation: where it is in that, and the sources of that. ``module`` is below the package."""

    plan_name: str
    directory: str
    generation: str
    sources: dict[str, bytes]
    module: str
    action: str
    params: dict[str, Any]


class About(msgspec.Struct, frozen=True):
    """What ``ctx`` knows by itself. ``time_left`` is in seconds, None if nothing times it out."""

    plan_name: str
    cid: str
    step: str
    attempt: int
    workdir: str
    time_left: float | None
    variables: dict[str, Any]
    secrets: list[str]
    checkpointed: Any


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """The job. ``marks`` are the variables by which the process is found, ``path`` is ``sys.path``."""

    work: RunCode | RunAction
    about: About
    marks: dict[str, str]
    path: list[str]


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    """What came of a request of the child's."""

    number: int
    value: Any = None
    failure: Failure | None = None


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """It is being stopped. ``grace`` is in seconds, None if nobody has said how long."""

    because: str | None
    grace: float | None


# -- from the child ---------------------------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """It waits for its job. ``may_be_marked``: it can change what ``/proc`` shows of its environment."""

    may_be_marked: bool


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """It has its job; from now on code of a plan may have run."""


class Said(msgspec.Struct, frozen=True, tag="said"):
    """A line of ``ctx.log``."""

    level: str
    text: str
    fields: dict[str, Any]


class Progressed(msgspec.Struct, frozen=True, tag="progressed"):
    """``ctx.progress``."""

    done: float
    total: float | None
    text: str


class Asked(msgspec.Struct, frozen=True, tag="asked"):
    """A request, such as ``state.get``; a ``Reply`` with its number answers it."""

    number: int
    call: str
    args: list[Any]


class Withdrawn(msgspec.Struct, frozen=True, tag="withdrawn"):
    """Nobody waits for the reply to a request any more: it is to be cancelled."""

    number: int


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """What the job came to. ``stopped``: by nothing but the stop."""

    value: Any = None
    failure: Failure | None = None
    stopped: bool = False


FromParent = Begin | Reply | Stop
FromChild = Ready | Begun | Said | Progressed | Asked | Withdrawn | Ended

from_parent = msgspec.json.Decoder(FromParent)
from_child = msgspec.json.Decoder(FromChild)


def frame_of(message: msgspec.Struct) -> bytes:
    """Encode a message.

    Raises:
        TypeError, OverflowError, UnicodeEncodeError: something in it has no JSON form.
    """
    body = msgspec.json.encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts what arrives into the bodies of frames; memory is bounded by ``limit`` and one chunk."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take what comes next and give every body that is whole.

        Raises:
            ValueError: a frame is larger than the limit.
        """
        self._held += chunk
        while len(self._held) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._held)
            if size > self._limit:
                raise ValueError(f"a message of {size} bytes; at most {self._limit} are taken")
            end = _LENGTH.size + size
            if len(self._held) < end:
                return
            body = bytes(self._held[_LENGTH.size : end])
            del self._held[:end]
            yield body
