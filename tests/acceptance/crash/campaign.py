"""A campaign: life after life of a server on the same data, each killed, under four clients; then one life in peace."""

import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import count, cycle
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

from tests.acceptance.crash import mix, past
from tests.acceptance.crash.clients import Client
from tests.acceptance.crash.door import Where, ask
from tests.acceptance.crash.life import PATIENCE, START_TIME, Death, Server, at_failpoint, at_random, open_server
from tests.acceptance.crash.sometimes import Sometimes
from tests.fakes.served import write_plans

from aura.failpoints import NAMES, Site

CLIENTS = 4
#: How many lives may be tried for one death: a failpoint is not always passed in time.
TRIES = 3
#: Seconds within which everything that is left has run once nobody kills any more.
PEACE = 60.0
_HIT = re.compile(r"^aura: failpoint ([a-z_.]+):kill@", re.MULTILINE)


class Report:
    """What a campaign has seen. Times are in seconds."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.kills = 0
        self.acknowledged = 0
        self.unanswered = 0  # kills that cut off a request
        self.repeated = 0  # requests that were asked again of the next server
        self.missed: list[str] = []  # deaths that did not come as planned
        self.wrong: list[str] = []
        self.ready: list[float] = []
        self.hits: Counter[str] = Counter()
        self.sometimes = Sometimes()
        self.end_code: int | None = None

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.acknowledged} runs acknowledged, {len(self.hits)} of {len(NAMES)} failpoints "
            f"hit, {self.unanswered} times a request cut off, {self.repeated} requests asked again, "
            f"start p50 {self.ready_p50:.2f} s, slowest {self.slowest:.2f} s"
        )

    @property
    def ready_p50(self) -> float:
        return statistics.median(self.ready or [0.0])

    @property
    def slowest(self) -> float:
        return max(self.ready, default=0.0)


def deaths(random: Random, names: Sequence[str], longest: float, every: int) -> Iterator[Death]:
    """Without end: one failpoint after another, again and again, and each ``every``-th time at a random moment.

    Those of the schema come first, without others between them, and once: it is made in one life alone.
    """
    schema = sorted((name for name in names if name.startswith(Site.SCHEMA)), key=NAMES.index)
    yield from (at_failpoint(name, random) for name in schema)
    others = cycle(name for name in names if name not in schema)
    for number in count(1):
        yield at_random(random, longest) if number % every == 0 else at_failpoint(next(others), random)


class Campaign:
    """Kills a server in ``folder`` and keeps count. ``progress`` is told of each kill."""

    def __init__(self, folder: Path, seed: int, progress: Callable[[Report], object] = lambda _: None) -> None:
        self._folder = folder
        self._progress = progress
        self.report = Report(seed)
        write_plans(folder, mix.plan_files(folder))

    def run(self, planned: Iterable[Death], older: bool = False) -> Report:
        """Live each life to its planned death, then one more until nothing is open, and stop it in good order.

        ``older``: the first finds the database of an older Aura.
        """
        if older:
            past.make_older(self._folder)
        with ExitStack() as stack:
            seed = self.report.seed
            clients = [stack.enter_context(closing(Client(n, self._folder, seed))) for n in range(CLIENTS)]
            for death in planned:
                if not any(self._live(death, clients) for _ in range(TRIES)):
                    self.report.missed.append(str(death))
                self._progress(self.report)
            self._live_in_peace(clients)
        self.report.sometimes.ended(self._folder)
        for client in clients:
            self.report.wrong += client.wrong
        return self.report

    def _live(self, death: Death, clients: Sequence[Client]) -> bool:
        """One life; say whether it ended as planned."""
        if death.with_past:
            past.add_ended_runs(self._folder)
        with open_server(self._folder, death) as server:
            with server.killed_after(death.delay if death.in_boot and not death.failpoint else START_TIME):
                where = server.wait_ready()
            if server.ready_s is not None:
                self.report.ready.append(server.ready_s)
            if where is not None:
                self._serve(server, where, death, clients)
            return self._count(server, death, clients)

    def _serve(self, server: Server, where: Where, death: Death, clients: Sequence[Client]) -> None:
        """Let the clients at it until it is dead."""
        over = Event()
        threads = [client.start(where, over, death.favoured) for client in clients]
        if death.stop_after is not None:
            over.wait(death.stop_after)
            server.process.terminate()
        server.wait_end(PATIENCE if death.failpoint else death.delay)
        over.set()
        for thread in threads:
            thread.join()

    def _count(self, server: Server, death: Death, clients: Sequence[Client]) -> bool:
        report, killed = self.report, server.wait_end() == -signal.SIGKILL
        in_flight = [client.in_flight for client in clients if client.in_flight]
        report.kills += killed
        report.unanswered += killed and bool(in_flight)
        report.acknowledged = sum(client.acknowledged for client in clients)
        report.repeated = sum(client.repeated for client in clients)
        for client in clients:
            client.in_flight = None
        former, report.hits = report.hits, self._hits()
        if killed:
            report.sometimes.killed(self._folder, in_flight, report.hits - former, server.ready_s is not None)
        return killed and (not death.failpoint or report.hits != former)

    def _hits(self) -> Counter[str]:
        return Counter(_HIT.findall((self._folder / "server.log").read_text(encoding="utf-8")))

    def _live_in_peace(self, clients: Sequence[Client]) -> None:
        with open_server(self._folder) as server:
            with server.killed_after(START_TIME):
                where = server.wait_ready()
            assert where, f"the last start failed: {(self._folder / 'server.log').read_text(encoding='utf-8')[-2000:]}"
            assert server.ready_s is not None
            self.report.ready.append(server.ready_s)
            for item in ("tick", "beat"):
                ask(where, "POST", f"/api/schedule/{mix.PLAN}/{item}/disable")
            for task in mix.CANCELLED:
                ask(where, "POST", "/api/tasks/cancel", {"task_name": task})
            for client in clients:
                client.credentials.check(where)
                client.ask_again(where)
            finish(where, clients, len([*mix.inbox(self._folder).iterdir()]))
            server.process.terminate()
            self.report.end_code = server.wait_end()


def finish(where: Where, clients: Sequence[Client], files: int) -> None:
    """Resume what is paused and wake what waits for its client, until no run is open and these files were taken."""
    end = time.monotonic() + PEACE
    while not (_is_over(where, clients) and len(_list(where, f"task_name={mix.TAKES}")) >= files):
        assert time.monotonic() < end, f"runs are still open {PEACE:.0f} s after the last start"
        time.sleep(0.1)


def _is_over(where: Where, clients: Sequence[Client]) -> bool:
    woken = sum(client.wake_all(where) for client in clients) == len(clients)
    rests = _resume_all(where) + len(ask(where, "GET", "/api/runs?state=waiting&limit=1")["items"])
    return woken and not rests and not _is_busy(ask(where, "GET", "/api/system/status")["lanes"])


def _resume_all(where: Where) -> int:
    """Resume what is paused; what waits for its place by now refuses, which is as well. Says how many these were."""
    found = _list(where, "state=preempted")
    for run in found:
        ask(where, "POST", f"/api/tasks/{run['cid']}/resume")
    return len(found)


def _list(where: Where, which: str) -> list[dict[str, Any]]:
    """All runs that are meant."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = ask(where, "GET", f"/api/runs?{which}" + (f"&cursor={cursor}" if cursor else ""))
        found += answer["items"]
        cursor = answer["next_cursor"]
    return found


def _is_busy(lanes: dict[str, Any]) -> bool:
    return any(lane["running"] or lane["queued"] or lane["stuck"] for lane in lanes.values())
