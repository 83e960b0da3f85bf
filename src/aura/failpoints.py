"""Failpoints: named moments around each commit at which a test may kill the server, or make the commit fail.

``AURA_FAILPOINT=outcome.after:kill@3`` kills the process with SIGKILL the third time that it has committed outcomes and
told nobody of them; several are separated by commas. A name is a *site*, which commits something, and a *moment* of it.

This module owns the names, reads them and acts. The sites that go through the store are passed by the backend that
``stores/failpoints.py`` puts round the real one, and only if there is something to wait for: without the variable the
store knows nothing of it. The others (the schema, the boot), which happen once in a server's life, call ``passed``.
"""

import os
import re
import signal
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

import msgspec

from aura.errors import ConfigError, StoreReadOnly

VARIABLE = "AURA_FAILPOINT"


class Site(StrEnum):
    """What commits. Each unit that goes to the store says whose it is."""

    #: A request becomes a run.
    ACCEPT = "accept"
    #: A run gets to ``running``, with the starts of its first steps.
    START = "start"
    #: Any other change of a run without a move: finishes of steps, and the starts of the next ones.
    HOP = "hop"
    #: A run is told to stop by a cancel or a time-out.
    STOPPING = "stopping"
    #: A run is given up as stuck.
    STUCK = "stuck"
    #: A run ends.
    OUTCOME = "outcome"
    #: A run gives its place back and will start again.
    COME_BACK = "come_back"
    #: An event that tells of no run and no step.
    EVENT = "event"
    #: Such an event that fires an interrupt rule: with it the firing, what it stops, and its handler.
    FIRING = "firing"
    #: A slot of a schedule, or another trigger of an item, starts a run.
    SLOT = "slot"
    #: What is known of an item or a plan changes without a start: slots were missed, a trigger was first seen, the
    #: tests of a plan with a gate have passed.
    ITEM = "item"
    #: Why something did not start.
    WHY = "why"
    #: An interrupt rule is switched on or off, or its file's word counts again.
    SWITCH = "switch"
    #: A token is made or revoked.
    TOKEN = "token"  # noqa: S105 - a site's name
    #: A browser's session is opened or ended.
    SESSION = "session"
    #: Log lines.
    LOGS = "logs"
    #: Retention removes a few rows.
    PRUNE = "prune"
    #: The boot is over, in good order.
    BOOT_END = "boot_end"
    #: The schema, made or brought up to date.
    SCHEMA = "schema"
    #: The boot is counted.
    BOOT_COUNT = "boot_count"
    #: The boot moves what an older one left.
    BOOT_SETTLE = "boot_settle"
    #: The write-ahead log is folded into the database, at the end.
    CHECKPOINT = "checkpoint"


class Moment(StrEnum):
    """When, as seen from the commit."""

    #: It has not begun.
    BEFORE = "before"
    #: The statements have run, COMMIT has not.
    INSIDE = "inside"
    #: It is committed and nobody knows.
    AFTER = "after"
    #: Whoever waited for it has gone on for one turn of the loop: the first line of a step, an answer on its way.
    TOLD = "told"


_COMMIT = (Moment.BEFORE, Moment.INSIDE, Moment.AFTER)
#: The sites for whose commits somebody waits: a client, or a run before its next step.
_WAITED_FOR = frozenset(
    {Site.ACCEPT, Site.START, Site.HOP, Site.STOPPING, Site.OUTCOME, Site.FIRING, Site.SWITCH, Site.TOKEN, Site.SESSION}
)


def _moments(site: Site) -> tuple[Moment, ...]:
    if site is Site.CHECKPOINT:
        return (Moment.BEFORE, Moment.AFTER)
    return (*_COMMIT, Moment.TOLD) if site in _WAITED_FOR else _COMMIT


#: All failpoints there are: each site with its moments.
SITES: Mapping[Site, tuple[Moment, ...]] = {site: _moments(site) for site in Site}
#: Their names, as they are written in the variable.
NAMES = tuple(f"{site}.{moment}" for site, moments in SITES.items() for moment in moments)
#: What is committed stays: here an error would be a lie about it.
_ONLY_KILL = frozenset({Moment.AFTER, Moment.TOLD})
_SYNTAX = re.compile(r"(?P<name>[a-z_.]+):(?P<act>kill|raise)@(?P<count>[1-9][0-9]*)")


class Failpoint(msgspec.Struct, frozen=True):
    """What is to happen the ``count``-th time that the server passes ``name``."""

    name: str
    act: Literal["kill", "raise"]
    count: int

    def __str__(self) -> str:
        return f"{self.name}:{self.act}@{self.count}"


class Failpoints:
    """Counts how often each name was passed, and acts where one is due.

    Invariant: a name is passed by one thread at a time, since there is one writer, for which the loop waits.
    """

    def __init__(self, due: tuple[Failpoint, ...]) -> None:
        self.due = {(one.name, one.count): one for one in due}
        #: How often each name was passed, in the order of the first times.
        self.counts: Counter[str] = Counter()

    def passed(self, site: Site, moment: Moment) -> None:
        """Note that the server is there.

        Raises:
            StoreReadOnly: by ``raise``: the storage cannot be written, for now.
        """
        name = f"{site}.{moment}"
        self.counts[name] += 1
        one = self.due.get((name, self.counts[name]))
        if one is not None:
            _act(one)


_armed = Failpoints(())


def arm(text: str) -> Failpoints:
    """Wait for what the variable says; an empty text waits for nothing.

    Raises:
        ConfigError: it names what there is not, or cannot be read.
    """
    global _armed
    _armed = Failpoints(parse(text))
    return _armed


def is_armed() -> bool:
    """Say whether there is anything to wait for."""
    return bool(_armed.due)


def passed(site: Site, moment: Moment) -> None:
    """Note that the server is at this moment of this site; does nothing unless it was named.

    Raises:
        StoreReadOnly: by ``raise``.
    """
    if _armed.due:
        _armed.passed(site, moment)


def parse(text: str) -> tuple[Failpoint, ...]:
    """Read ``name:kill@k``, or several of them with commas.

    Raises:
        ConfigError: it names what there is not, or cannot be read.
    """
    return tuple(_parse_one(part.strip()) for part in text.split(",") if part.strip())


def _parse_one(text: str) -> Failpoint:
    read = _SYNTAX.fullmatch(text)
    if read is None:
        raise ConfigError(f"{VARIABLE}: {text!r} cannot be read; say name:kill@k or name:raise@k, k from 1; {_known()}")
    name, act, count = read["name"], read["act"], int(read["count"])
    if name not in NAMES:
        raise ConfigError(f"{VARIABLE}: there is no failpoint {name!r}; {_known()}")
    if act == "raise":
        if Moment(name.partition(".")[2]) in _ONLY_KILL or name.startswith(Site.CHECKPOINT):
            raise ConfigError(f"{VARIABLE}: {text!r}: at {name} no error can come up; say {name}:kill@{count}")
        return Failpoint(name, "raise", count)
    return Failpoint(name, "kill", count)


def _known() -> str:
    return "there are: " + " ".join(NAMES)


def _act(one: Failpoint) -> None:
    os.write(2, f"aura: failpoint {one}\n".encode())  # unbuffered: nothing is flushed after a kill
    if one.act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise StoreReadOnly(f"failpoint {one}")
