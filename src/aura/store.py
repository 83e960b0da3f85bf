"""The store's seam: units, tickets, and the one child that writes what has gathered in one commit.

Theory of operation. A *unit* is a closure over a connection's ``execute`` and nothing else, so that it can run twice.
``put`` hands one over without awaiting and gives a *ticket*; the flusher (``serve``) lets two turns of the event loop
pass, takes what has gathered and commits all of it at once (group commit). Turns, never time: what this turn made
ready joins, and nobody waits for a clock. A loop in virtual time knows when nobody is left who could add anything
(``is_alone``): no turn is waited for then.

A batch runs without savepoints. If one unit fails, the batch is rolled back and replayed with a savepoint each, so that
the bad unit fails alone (``commit_batch``). After a commit each unit's synchronous side effect runs (``after``), in the
order of handing over, and then whoever waits is woken.

The ties. A waiter that is cancelled aborts nothing: its unit stays in its batch. A unit that failed and has neither a
waiter nor a ``failed`` is a fault of the engine and is reported, never silence. When the storage cannot be written for
now (full, or locked by another process for ``BUSY_PATIENCE``) the units that may be refused are refused, with what
their owner has handed over behind them; all others are kept and tried again: the bound acts on starts, never on
outcomes.

The end. ``close`` gives a deadline. Until then what cannot be written for now is tried again, in slices short enough
for it; then it is given up, said aloud, and the next start settles the runs that it belongs to by the boot table.

What a crash does: a commit is there as a whole or not at all, and nobody was told of one that is not. A disk that
fails (EIO) or a damaged database resolves nobody and ends the process (``on_fatal``). Where the process is not ours to
end, all that waits fails (``fail_all``), with the error that says that its fate is unknown.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

import anyio

from aura.errors import (
    Lost,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreIOError,
    StoreLocked,
    StoreReadOnly,
)
from aura.eventloop import is_alone
from aura.failpoints import Site
from aura.histogram import SHORT, SIZES, Histogram

T = TypeVar("T")
Execute = Callable[..., sqlite3.Cursor]
Unit = Callable[[Execute], None]

#: How many turns of the loop the flusher lets pass before it takes what has gathered.
GATHER_TURNS = 2
#: How many tickets of a commit are resolved in one turn of the loop.
RESOLVED_AT_ONCE = 100
#: Seconds between two tries while the storage cannot be written.
RETRY_EVERY = 0.5
#: The same while it may be a matter of moments: just locked by another process, or the store is being closed.
RETRY_SOON = 0.02
#: How long another process may hold the lock before requests are refused for it, in seconds.
BUSY_PATIENCE = 5.0
#: What is said of a disk without any room.
FULL = "the disk is full; make room, and Aura goes on by itself"


class Owner(Protocol):
    """Whose a unit is. Once it is ``refused``, its acceptance was, and all its units fail with that one."""

    @property
    def refused(self) -> bool: ...


class Ticket:
    """The promise that a unit will be written, or has failed.

    Invariant: ``done`` is set once, by the flusher, after the commit; ``error`` is set before it or never.
    """

    __slots__ = ("_waiters", "after", "certain", "done", "error", "failed", "owner", "refusable", "site", "unit")

    def __init__(
        self,
        unit: Unit,
        after: Callable[[], object] | None,
        failed: Callable[[Exception], object] | None,
        refusable: bool,
        site: Site | None = None,
        owner: Owner | None = None,
        certain: bool = False,
    ) -> None:
        self.unit = unit
        self.owner = owner
        self.after = after
        self.failed = failed
        self.refusable = refusable
        self.site = site
        #: Whether only a fault of Aura's own could make the unit fail: nobody takes that for an answer.
        self.certain = certain
        self.done = False
        self.error: Exception | None = None
        #: Whoever waits, or has waited in vain; None if nobody has.
        self._waiters: list[asyncio.Future[None]] | None = None

    async def wait(self) -> None:
        """Return once the unit is committed.

        Raises:
            Exception: what the unit raised; it was rolled back alone.

        **Cancellation**: safe; the unit stays in its batch.
        """
        if not self.done:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters = self._waiters or []
            self._waiters.append(waiter)
            await waiter
        if self.error:
            raise self.error

    def resolve(self) -> Exception | None:
        """Run the side effects and wake the waiters. Gives the error that nobody took, if there is one."""
        self.done = True
        unheard: Exception | None = None
        try:
            if self.error is None:
                if self.after:
                    self.after()
            elif self.failed:
                self.failed(self.error)
            elif self._waiters is None:
                unheard = self.error
        except Exception as error:
            unheard = error
        self.after = self.failed = self.owner = None  # a run may keep its ticket: the collector would have to find both
        for waiter in self._waiters or ():
            if not waiter.done():  # else it was cancelled
                waiter.set_result(None)
        return unheard


class Backend(Protocol):
    """A place where units are kept: ``stores.sqlite`` on a disk, ``stores.memory`` for tests."""

    async def commit(self, batch: Sequence[Ticket]) -> None:
        """Commit all units that do not fail by themselves; put each failure on its ticket.

        Raises:
            StoreReadOnly: nothing was written, for now. Any other ``StoreError``: the storage is lost.
        """
        ...

    async def read(self, query: Callable[[Execute], T]) -> T:
        """Run a query that writes nothing, on a connection that is not the writing one."""
        ...

    def close(self) -> None: ...


class StoreBackend(Backend, Protocol):
    """A backend with its writing connection, for what happens before the flusher runs (the boot)."""

    @property
    def execute(self) -> Execute: ...


class Store:
    """Gathers units and writes them through a backend. Used from the loop's thread only."""

    def __init__(
        self,
        backend: Backend,
        *,
        on_fault: Callable[[Exception], object],
        on_fatal: Callable[[StoreError], object],
        on_full: Callable[[], bool] = bool,
    ) -> None:
        """``on_full`` is called when the disk is full, and says whether it has made room."""
        self._backend = backend
        self._on_full = on_full
        self._on_fault = on_fault
        self._on_fatal = on_fatal
        self._pending: list[Ticket] = []
        #: What is being written now.
        self._writing: Sequence[Ticket] = ()
        #: What the flusher awaits while there is nothing to write; None while it does not.
        self._idle: asyncio.Future[None] | None = None
        self._closed = asyncio.Event()
        self._lost = False
        #: Loop time at which a store that is closed and cannot be written gives up.
        self._deadline = 0.0
        #: Loop time since which nothing could be written; None while all is well.
        self._blocked_since: float | None = None
        self.ended = anyio.Event()
        self.commits = 0
        #: Loop time at which the last commit ended.
        self.written_at = 0.0
        #: How long each commit took, in seconds, and how many units it had.
        self.commit_times = Histogram(SHORT)
        self.batch_sizes = Histogram(SIZES)
        #: Why nothing can be written at present; None while all is well.
        self.unavailable: StoreError | None = None

    def put(
        self,
        unit: Unit,
        after: Callable[[], object] | None = None,
        failed: Callable[[Exception], object] | None = None,
        *,
        refusable: bool = False,
        site: Site | None = None,
        owner: Owner | None = None,
        certain: bool = False,
    ) -> Ticket:
        """Hand over a unit. It is written with the next batch, in the order of handing over.

        ``after`` runs once it is committed, before any waiter; ``failed`` if it was rolled back. ``refusable`` units
        fail while the storage cannot be written, and with them those of an ``owner`` that is refused by it; all others
        wait until it can. ``site`` says what it commits; None is for units that nobody would miss
        (``tests/unit/test_failpoints.py``). ``certain``: the unit finds nothing out, and only a fault of Aura's own
        could make it fail.
        """
        ticket = Ticket(unit, after, failed, refusable, site, owner, certain)
        if self._closed.is_set():
            ticket.error = StoreClosed("the store's intake is closed")
            ticket.resolve()
            return ticket
        self._pending.append(ticket)
        self._wake()
        return ticket

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    @property
    def pending(self) -> int:
        """How many units wait to be written."""
        return len(self._pending)

    @property
    def blocked(self) -> bool:
        """Whether the last try to write something failed for a reason that may pass."""
        return self._blocked_since is not None

    async def read(self, query: Callable[[Execute], T]) -> T:
        """Run a query that writes nothing and give its result. It sees what is committed."""
        return await self._backend.read(query)

    async def written(self) -> None:
        """Return once everything that has been handed over so far is committed."""
        await self.put(_nothing).wait()

    async def serve(self) -> None:
        """Write batches until the intake is closed and nothing is pending.

        The shield cannot hang: it ends by ``close`` and its deadline, each commit is bounded by SQLite's own busy
        time-out, and the server's watchdog ends the process if the disk itself hangs. It is there so that no stop loses
        what was decided.
        """
        with anyio.CancelScope(shield=True):
            try:
                await self._write_all()
            except asyncio.CancelledError:  # by no scope of ours: whether the last commit took place is unknown
                self._lost = True
                self._on_fatal(StoreIOError("plan code has cancelled the child that writes to the database"))
                raise
            finally:
                self._backend.close()
                self.ended.set()

    async def _write_all(self) -> None:
        while not self._lost and (self._pending or not self._closed.is_set()):
            if self._pending:
                await self._write_batch()
            else:
                self._idle = asyncio.get_running_loop().create_future()
                await self._idle
                self._idle = None

    def close(self, deadline: float = 0.0) -> None:
        """End the intake; ``serve`` writes what is pending and returns (``ended``).

        While the storage cannot be written for now it is tried until ``deadline`` (loop time), at least once more; then
        what is left is given up and ``on_fatal`` told of it.
        """
        self._deadline = deadline
        self._closed.set()
        self._wake()

    def fail_all(self, error: StoreError) -> None:
        """End the intake and fail what waits: for ``on_fatal`` of a server that may not end its process."""
        self.close()
        waiting = [ticket for ticket in dict.fromkeys([*self._writing, *self._pending]) if not ticket.done]
        self._writing, self._pending = (), []
        for ticket in waiting:
            ticket.error = error
        self._resolve(waiting)

    def hurry(self, deadline: float) -> None:
        """Bring the deadline of a ``close`` that is under way nearer."""
        self._deadline = min(self._deadline, deadline)

    async def _write_batch(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(GATHER_TURNS):
            if is_alone(loop):
                break
            await asyncio.sleep(0)  # anyio's looks for its backend first; the scope of ``serve`` is a shield anyway
        batch, self._pending = self._pending, []
        self._writing = batch
        time = loop.time
        began = time()
        try:
            await self._backend.commit(batch)
        except StoreReadOnly as error:
            await self._hold_back(batch, error)
        except Exception as error:
            self._lost = True
            self._on_fatal(error if isinstance(error, StoreError) else StoreIOError(f"the store failed: {error!r}"))
        else:
            self._writing = ()
            self.unavailable = self._blocked_since = None
            self.commits += 1
            self.written_at = time()
            self.commit_times.add(self.written_at - began)
            self.batch_sizes.add(len(batch))
            if len(batch) <= RESOLVED_AT_ONCE:
                self._resolve(batch)
            else:
                await self._resolve_in_turns(batch)

    async def _resolve_in_turns(self, batch: Sequence[Ticket]) -> None:
        """Resolve what is committed, so many in a turn: what their owners do then would block the loop otherwise."""
        for first in range(0, len(batch), RESOLVED_AT_ONCE):
            if first:
                await asyncio.sleep(0)
            self._resolve(batch[first : first + RESOLVED_AT_ONCE])

    def _resolve(self, batch: Sequence[Ticket]) -> None:
        for ticket in batch:
            unheard = ticket.resolve()
            if unheard is not None:
                self._on_fault(unheard)

    async def _hold_back(self, batch: list[Ticket], error: StoreReadOnly) -> None:
        """Keep what was not written, in its order; refuse what may be refused, unless it may be a matter of moments."""
        for ticket in batch:  # a unit may have failed by itself in a batch that was then rolled back as a whole
            ticket.error = None
        self._pending = [*batch, *self._pending]  # what came while it was tried as well: it waits for the next try
        now = anyio.current_time()
        self._blocked_since = now if self._blocked_since is None else self._blocked_since
        made_room = isinstance(error, StoreFull) and self._on_full()
        if self._closed.is_set():
            if now >= self._deadline:
                self._give_up(error)
            await anyio.sleep(RETRY_SOON)
        elif isinstance(error, StoreLocked) and now - self._blocked_since < BUSY_PATIENCE:
            await anyio.sleep(RETRY_SOON)
        else:
            self._refuse(error)
            if made_room:  # for what may not be refused: it is tried at once
                return
            with anyio.move_on_after(RETRY_EVERY):  # the pause: bounded by itself, ended by ``close``
                await self._closed.wait()

    def _refuse(self, error: StoreReadOnly) -> None:
        """Say that nothing can be written, and fail what may fail for it."""
        self.unavailable = error
        self._fail([t for t in self._pending if t.refusable], error)
        self._fail([t for t in self._pending if t.owner is not None and t.owner.refused], error)
        if not self._pending:  # a probe: somebody has to find out that it can be written again
            self._pending.append(Ticket(_probe, None, None, False))

    def _fail(self, refused: list[Ticket], error: StoreReadOnly) -> None:
        for ticket in refused:
            ticket.error = error
        self._pending = [t for t in self._pending if t.error is None]
        self._resolve(refused)

    def _give_up(self, error: StoreReadOnly) -> None:
        self._lost = True
        count = len(self._pending)
        said = f"the server ended with {count} change{'s' * (count > 1)} unwritten: {error}. No accepted run is lost"
        self._on_fatal(StoreReadOnly(f"{said}: the next start settles those that had not ended"))


def _nothing(execute: Execute) -> None:
    """The unit that changes nothing."""


def _probe(execute: Execute) -> None:
    """The unit that writes and changes nothing: a full disk would take one that writes nothing."""
    execute("INSERT INTO meta VALUES ('probe', '')")
    execute("DELETE FROM meta WHERE key = 'probe'")


def commit_batch(execute: Execute, batch: Sequence[Ticket]) -> None:
    """Run a batch in one transaction; a unit that fails by itself is rolled back alone and its error put on its ticket.

    Raises:
        StoreError: nothing of the batch was committed (see ``Backend.commit``).
    """
    try:
        execute("BEGIN IMMEDIATE")
        try:
            for ticket in batch:
                ticket.unit(execute)
        except Exception as error:
            raise_if_lost(error)
            execute("ROLLBACK")
            execute("BEGIN IMMEDIATE")
            _replay(execute, batch)
        execute("COMMIT")
    except Exception as error:
        _roll_back(execute)
        raise_if_lost(error)
        if isinstance(error, StoreError):
            raise
        raise StoreIOError(f"the database could not be written: {error}") from error


def _replay(execute: Execute, batch: Sequence[Ticket]) -> None:
    for ticket in batch:
        execute("SAVEPOINT unit")
        try:
            ticket.unit(execute)
        except Exception as error:
            raise_if_lost(error)
            execute("ROLLBACK TO unit")
            ticket.error = error
        execute("RELEASE unit")


def _roll_back(execute: Execute) -> None:
    with suppress(sqlite3.Error):  # SQLite has already rolled back by itself, or the connection is beyond that
        execute("ROLLBACK")


_PRIMARY = 0xFF  # the low byte of an extended result code is the primary one (sqlite.org/rescode.html)


def raise_if_lost(error: Exception) -> None:
    """Turn an error of the storage itself into a ``StoreError``; an error of one unit is let through.

    Raises:
        StoreError: full or locked (``StoreReadOnly``), damaged (``StoreCorrupt``), a failing disk (``StoreIOError``).
    """
    if isinstance(error, Lost) or not isinstance(error, sqlite3.Error):
        return
    match getattr(error, "sqlite_errorcode", 0) & _PRIMARY:
        case sqlite3.SQLITE_FULL:
            raise StoreFull(FULL) from error
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            raise StoreLocked("another process holds a lock on the database; end it, and Aura goes on") from error
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
            raise StoreReadOnly(f"the database cannot be written: {error}") from error
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            raise StoreCorrupt(f"the database is damaged: {error}") from error
        case sqlite3.SQLITE_IOERR:
            raise StoreIOError(f"the disk failed: {error}") from error
        case _:
            return
