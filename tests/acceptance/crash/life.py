"""One life of a real server: how it is started, and how it is killed."""

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Timer
from typing import NamedTuple

from tests.acceptance.crash import mix
from tests.acceptance.crash.door import Where
from tests.fakes.forked import Forked
from tests.fakes.served import AURA, READY, environment, start

from aura.failpoints import VARIABLE, Site

#: Seconds after which a life that has not ended as planned is ended anyway, and counts as missed.
PATIENCE = 10.0
#: Seconds within which a start is over, on the most loaded of machines.
START_TIME = 60.0
#: Seconds that a boot takes, about, without the imports.
BOOT = 0.15
#: Settings of all lives: a short grace, and enough places that many runs are killed at once.
SETTINGS = {"AURA_GRACE": "1s", "AURA_LANES__MAIN__LIMIT": "12", "AURA_SECRET_HOOK": mix.SECRET}

_IN_BOOT = frozenset({Site.SCHEMA, Site.BOOT_COUNT, Site.BOOT_SETTLE})
_IN_STOP = frozenset({Site.COME_BACK, Site.BOOT_END, Site.CHECKPOINT})
_FAVOURED = {Site.COME_BACK: "again", Site.STUCK: "stubborn", Site.STOPPING: "slow", Site.EVENT: "hear"} | {
    Site.FIRING: "hit",
}
#: Sites that many runs pass: there the kill may wait for a later one.
_BUSY = frozenset({Site.ACCEPT, Site.START, Site.HOP, Site.OUTCOME})


class Death(NamedTuple):
    """How a life is to end: at a failpoint; or ``delay`` seconds after it was started, or was ready."""

    failpoint: str = ""
    delay: float = 0.0
    in_boot: bool = False
    #: Seconds from ready to a SIGTERM: there are failpoints that are passed only by a server that is being stopped.
    stop_after: float | None = None
    favoured: str | None = None
    #: Whether there is something in the data folder that is no longer kept.
    with_past: bool = False

    def __str__(self) -> str:
        return self.failpoint or f"{self.delay * 1000:.0f} ms after {'its start' if self.in_boot else 'ready'}"


def at_failpoint(name: str, random: Random) -> Death:
    """Die at a failpoint, whatever it needs for that."""
    site = Site(name.partition(".")[0])
    count = random.randint(1, 5) if site in _BUSY else 1
    stop_after = random.uniform(0.15, 0.3) if site in _IN_STOP else None
    favoured, with_past = _FAVOURED.get(site), site is Site.PRUNE
    return Death(f"{name}:kill@{count}", 0.0, site in _IN_BOOT, stop_after, favoured, with_past)


def at_random(random: Random, longest: float) -> Death:
    """Die at any moment; one in five of a boot. Half of the others have one task asked for more often."""
    if random.random() < 0.2:
        return Death(delay=random.uniform(0.01, BOOT), in_boot=True)
    favoured = random.choice([*mix.WEIGHTS]) if random.random() < 0.5 else None
    return Death(delay=random.uniform(0.005, longest), favoured=favoured)


class Server:
    """A server that was started. ``ready_s``: how long it took until it said that it is ready."""

    def __init__(self, folder: Path, process: "subprocess.Popen[str] | Forked", begun: float) -> None:
        self._folder = folder
        self._begun = begun
        self.process = process
        self.ready_s: float | None = None

    def wait_ready(self) -> Where | None:
        """Where it answers; None if it died before. Whoever calls has bounded it with ``killed_after``."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line.startswith(READY):
            return None
        self.ready_s = time.monotonic() - self._begun
        token = (self._folder / "data" / "token").read_text(encoding="ascii").strip()
        return Where(line.removeprefix(READY).strip(), token)

    @contextmanager
    def killed_after(self, seconds: float) -> Iterator[None]:
        """Kill it if this takes longer."""
        timer = Timer(max(0.0, seconds), self.process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def wait_end(self, seconds: float = PATIENCE) -> int:
        """Wait for its end, killed after so many seconds; give the exit code, negative for a signal."""
        with self.killed_after(seconds):
            return self.process.wait()


@contextmanager
def open_server(
    folder: Path, death: Death | None = None, more: Mapping[str, str] | None = None, fresh: bool = False
) -> Iterator[Server]:
    """Start a server on the folder's data, with ``more`` settings; it is dead at the end.

    ``fresh``: in an interpreter of its own, so that the time until it is ready has all of a start in it.
    """
    command = [AURA, "serve", "--data", "data", "--port", "0", "--no-reload"]
    settings = SETTINGS | ({VARIABLE: death.failpoint} if death else {}) | dict(more or {})
    begun = time.monotonic()
    with (
        open(folder / "server.log", "a", encoding="utf-8") as log,
        start(command, folder, environment(settings), log, fresh) as process,
    ):
        try:
            yield Server(folder, process, begun)
        finally:
            process.kill()
