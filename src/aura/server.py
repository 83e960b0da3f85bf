"""The whole server as one tree of scopes, and the sequence by which it stops.

Theory of operation. The root group's body hears a host's cancel and turns it into a stop; everything below it stands in
one shield and ends by the sequence alone, so that nothing is cancelled out of order:

    store ─ plan services ─ runs ─ services (log writer, console, reaper) ─ engine ─ http, signals

1. admission answers 503   2. the engine stops: runs get their stop, and the grace   3. what plans have opened and
share (``services``) is closed   4. logs are written   5. streams and connections end   6. runs that hang get their
record   7. the store's intake is closed and its end awaited, before the groups of runs and of what plans share are
left (they would wait for a hanging body for ever)   8. the lock goes back.

All of it has one deadline, of which every wait inside is a part; a watchdog thread ends the process if the loop itself
hangs. If runs or services still hang at the end, the process leaves hard, with an exit code that says so (70). So it
does if the storage cannot be written and what is left could not be written before the deadline (74): the next start
settles it.

A *guest* is a server inside another program (``embed``): it neither ends the process nor changes anything of it. What
hangs stays behind in its group when the store has ended and the lock is given back (``gone``); a lost storage
fails all that waits for it and begins the stop (``lost``); there is no watchdog.
"""

import os
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TextIO

import anyio
from anyio import CancelScope, Event, create_task_group
from anyio.abc import TaskGroup, TaskStatus

import aura
from aura.builtin import shipped
from aura.clock import Clock, SystemClock
from aura.config import Settings
from aura.engine.boot import in_one_transaction, settle_orphans
from aura.engine.engine import Engine
from aura.engine.supervisor import Supervisor
from aura.errors import ExitCode, StoreError, StoreFull
from aura.events import LogEntry
from aura.failpoints import Site
from aura.isolation.warm import Warm
from aura.journal import Journal
from aura.loading.generations import Generations
from aura.loading.snapshot import check_folder_safe
from aura.logs import Console, Logs, LogWriter
from aura.notify import STOPPING, Notifier
from aura.processes.leftovers import adopting, end_boot_leftovers, end_leftovers, reap_adopted
from aura.records.boots import begin_boot, end_boot, last_accepted
from aura.records.debounced import read_debounced
from aura.records.expected import read_expected
from aura.records.firings import read_last_fired, read_open_firings
from aura.records.gate import read_passed
from aura.records.items import read_items
from aura.records.logs import insert_logs, log_row
from aura.records.state import read_states
from aura.records.switches import read_switches
from aura.records.why import last_why
from aura.redaction import Redactor
from aura.runs.interceptor import Interceptor
from aura.runs.measures import serve_loop_lag
from aura.runs.runtime import Runtime
from aura.secrets import Provider, Secrets, default_providers, secret_warnings
from aura.store import Store, StoreBackend
from aura.stores.disk import Disk, FolderDisk
from aura.stores.failpoints import with_failpoints
from aura.stores.folder import DATABASE_NAME, DataFolder
from aura.stores.inspection import sound_records
from aura.stores.space import Space
from aura.stores.sqlite import SqliteBackend
from aura.watching.gate import Runner
from aura.watching.trial import PytestRunner

#: Seconds beyond the grace within which a stop is over, whatever hangs.
STOP_SLACK = 1.8
#: The part of it in which what is left is still tried to be written, if the storage cannot be written for now.
WRITE_SLACK = 1.0
#: How long the services of plans may take to close at least, though runs have used up the grace, in seconds.
LEAST_CLOSE = 0.2
#: How long open connections may take to end, in seconds.
CONNECTION_GRACE = 0.3
#: How long the last log lines may take to be stored, in seconds.
FLUSH_TIMEOUT = 0.3
#: The grace that a second signal leaves, in seconds.
HURRIED_GRACE = 0.5
#: How often adopted children that have ended are looked for, in seconds.
REAP_EVERY = 5.0


class Server:
    """One server, from its start to its end. ``serve`` runs it; ``request_stop`` ends it."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        leave: Callable[[int], None] | None = None,
        console: bool = False,
        http: bool = True,
        backend: StoreBackend | None = None,
        generations: Generations | None = None,
        supervisor: Supervisor | None = None,
        guest: Callable[[], object] | None = None,
        providers: Sequence[Provider] | None = None,
        disk: Disk | None = None,
        notifier: Notifier | None = None,
        interceptor: Interceptor | None = None,
        runner: Runner | None = None,
    ) -> None:
        """``backend`` given: nothing is locked and the data folder holds workdirs alone.

        ``providers``: where secrets of plans are looked for, instead of the places of this machine. ``disk``: what says
        how much room there is, instead of the data folder's own.

        ``runner``: what runs the tests of plans with a gate, instead of pytest.

        ``interceptor``: in a test, what stands between the engine and the code of plans.

        ``guest`` makes it one, and is called once it has begun to stop, whoever asked for that.
        """
        self.settings = settings
        self._guest = guest
        self._http = http
        self._backend = backend
        self._disk = disk
        self._interceptor = interceptor
        self._runner = runner
        self._space = Space(disk, settings.store.min_free)
        self.providers = default_providers(os.environ) if providers is None else providers
        self._generations = generations or Generations(
            settings.plans,
            shipped(),
            settings.vars,
            timezone=settings.server.timezone,
            resources=settings.resources,
            look=lambda plan: secret_warnings(self.providers, plan),
            guarded=backend is None or guest is not None,
        )
        self._clock = clock or SystemClock()
        #: What every service child is run by, so that it heals.
        self.supervisor = supervisor or Supervisor(self._clock)
        #: Knows every secret that was read for a plan, and hides it wherever text leaves the server.
        self.redactor = Redactor()
        self.supervisor.hide = self.redactor.text
        self._leave = leave or (_stay if guest else leave_hard)
        self._console = console
        self.notifier = notifier or Notifier()
        self._opened = Event()
        self._stop_asked = Event()
        self._ended = threading.Event()
        #: Loop time until which the stop tries to write what is left; 0 while there is no stop.
        self._deadline = 0.0
        #: There once the store is open and the plans are being loaded.
        self.engine: Engine
        self._booted = False
        self.address = ""
        #: What the process should end with: 0, or 70 if work had to be left behind.
        self.exit_code = ExitCode.OK
        self._folder: DataFolder | None = None
        #: What became of a guest: set when the stop is over, what its storage was lost by, the runs and services that
        #: hang.
        self.gone = Event()
        self.lost: StoreError | None = None
        self.left: list[str] = []
        self.left_services: list[str] = []

    def request_stop(self) -> None:
        """Begin the stop sequence; a second call leaves less grace. Does not wait."""
        if self._stop_asked.is_set() and self._booted:
            self.engine.hurry(HURRIED_GRACE)
            self._write_until(HURRIED_GRACE)
            self.engine.runtime.store.hurry(self._deadline)
            self.engine.runtime.services.hurry(anyio.current_time() + HURRIED_GRACE)
        self._stop_asked.set()

    def _write_until(self, grace: float) -> None:
        end = anyio.current_time() + grace + WRITE_SLACK
        self._deadline = min(self._deadline or end, end)

    async def reload(self) -> None:
        """Load the plans again, if it has started and does not stop; what goes wrong is said in the log."""
        if not self._booted or self._stop_asked.is_set():
            return
        try:
            await self.engine.reload()
        except Exception as error:
            self.engine.runtime.log.error(f"the plans could not be loaded again: {error!r}")

    async def serve(self, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until ``request_stop`` or until the host cancels; ``started`` gives the address.

        Raises:
            StoreError, ConfigError: it could not start; nothing is left behind.
        """
        # root: the one child below; its body only waits, so that a host's cancel becomes a stop, also while it starts
        async with create_task_group() as root:
            root.start_soon(self._tree, name="server")
            try:
                await self._opened.wait()
                task_status.started(self.address)
                await self._stop_asked.wait()
            finally:
                self._stop_asked.set()
                if self._guest:
                    self._guest()

    async def _tree(self) -> None:
        # The shield keeps a host's cancel from ending children out of order. It cannot hang: the stop sequence bounds
        # every wait in it, and the watchdog ends the process otherwise.
        with CancelScope(shield=True):
            try:
                if self._backend is not None:
                    if self._guest:
                        check_folder_safe(self.settings.plans)
                    await self._with_store(self._backend)
                else:
                    await self._with_folder()
            finally:
                self._ended.set()
                self.gone.set()
        if self.exit_code:
            self._leave(self.exit_code)

    async def _with_folder(self) -> None:
        check_folder_safe(self.settings.plans)
        self._folder = folder = DataFolder.open(self.settings.data)
        try:
            self._disk = self._disk or FolderDisk(folder.path)
            self._space = Space(self._disk, self.settings.store.min_free)
            self._space.open()
            await self._with_store(with_failpoints(SqliteBackend(folder.database)))
        finally:
            folder.release()

    async def _with_store(self, backend: StoreBackend) -> None:
        try:
            with sound_records(self.settings.data / DATABASE_NAME):
                runtime = self._boot(backend)
        except BaseException:
            backend.close()
            raise
        # store: its flusher alone; ends when its intake is closed and all is written
        async with create_task_group() as keeping:
            keeping.start_soon(runtime.store.serve, name="store")
            try:
                await self._with_runs(runtime, backend)
            finally:
                self._end_store(runtime)

    def _boot(self, backend: StoreBackend) -> Runtime:
        """Count this start and make what everything else shares."""
        clock = self._clock
        store_id, boot = _count_boot(backend, clock)
        redactor = self.redactor
        journal = Journal(boot, clock, self.settings.logs.ring, redactor=redactor)
        logs = Logs(journal, clock, self.settings.logs.level)
        last_seq, last_cid = last_accepted(backend.execute)
        store = Store(
            backend,
            on_fault=lambda error: runtime.fault("a change was not stored", error),
            on_fatal=lambda error: self._die(store, error),
            on_full=self._space.drop,
        )
        self._space.tell = journal.log
        runtime = Runtime(
            settings=self.settings,
            clock=clock,
            store=store,
            journal=journal,
            logs=logs,
            generations=self._generations,
            redactor=redactor,
            secrets=Secrets(self.providers, redactor, logs.log.warning),
            boot=boot,
            store_id=store_id,
            space=self._space,
            interceptor=self._interceptor,
            last_seq=last_seq,
            last_cid=last_cid,
        )
        return runtime

    def _end_store(self, runtime: Runtime) -> None:
        """Write that this start has ended in order, and close the intake behind it. Harmless the second time."""
        runtime.ledger.close()
        runtime.store.put(end_boot(runtime.boot, self._clock.wall()), site=Site.BOOT_END)
        runtime.store.close(self._deadline)

    def _die(self, store: Store, error: StoreError) -> None:
        """The storage is lost: what is in memory can no longer be made true, so nothing more may be said of it."""
        if self._guest:
            self.lost = self.lost or error
            store.fail_all(error)
            self.request_stop()
            return
        say(str(error))
        self._leave(error.exit_code)

    async def _with_runs(self, runtime: Runtime, backend: StoreBackend) -> None:
        # shared: what plans have opened, each in a child, and what waits to close it; ended by ``Services.close`` in
        # the stop sequence. It is left when none of it hangs.
        # runs: every run and every attempt beside it; each ends by its seal. The group is left last, when none hangs.
        async with create_task_group() as shared, create_task_group() as runs:
            runtime.services.group, runtime.runs = shared, runs
            writer = LogWriter(runtime.journal, lambda lines: _store_lines(runtime, lines))
            runtime.journal.add_sink(writer.put)
            engine = self.engine = Engine(runtime, writer.flush, self.supervisor)
            engine.watchdog.tell = bool if self._guest else say  # stderr is the host's
            engine.watches_plans = self.settings.reload and (self._backend is None or self._guest is not None)
            engine.gate.runner = self._runner
            if self.settings.gated and (self._backend is None or self._guest):  # who tests in a world is not kept back
                home = self.settings.data / "gate"
                engine.gate.runner = self._runner or PytestRunner(home, runtime.boot_tag, runtime.log)
            try:
                with adopting() as able:
                    # services: those of ``_start_services``; cancelled below, when all they serve has ended
                    async with create_task_group() as services:
                        self._start_services(services, engine, writer, reaping=able)
                        await self._take_over(engine, backend)
                        with runtime.logs.capture_stdlib(own_only=self._guest is not None):
                            await self._with_engine(engine, writer)
                        services.cancel_scope.cancel("the server has ended")
            finally:
                engine.close()
            if self.exit_code:  # work hangs: its bodies stay in ``runs``, so the process leaves from here
                self._end_store(runtime)
                await runtime.store.ended.wait()
                self._ended.set()
                self._leave_behind()
                self._leave(self.exit_code)

    def _leave_behind(self) -> None:
        """Let a guest's host go on, though bodies still hang in the group of runs."""
        if self._guest and self._folder is not None:
            self._folder.release()
        self.gone.set()

    def _start_services(self, services: TaskGroup, engine: Engine, writer: LogWriter, *, reaping: bool) -> None:
        wanted: dict[str, Callable[[], Awaitable[None]]] = {"log writer": writer.serve}
        if self._console:
            console = Console()
            engine.journal.add_sink(console.put)
            wanted["console"] = console.serve
        if reaping and (self._backend is None or self._guest):  # in a world, nobody reaps
            wanted["reaper"] = _reap
        if self._backend is None or self._guest:  # in a world, a process that waits would hold the time
            wanted["warm processes"] = Warm(engine.runtime.boot_tag).serve
            wanted["loop watchdog"] = engine.watchdog.serve  # so would its beat
            wanted["folder watcher"] = engine.folders.serve  # and its thread
        if self._backend is None or self._guest:  # in a world, who tests it asks it to look
            wanted["retention"] = engine.retention.serve
        if engine.gate.runner is not None:
            wanted["test gate"] = engine.gate.serve
        if self._disk is not None:  # in a world, only if it was given one
            wanted["disk space"] = self._space.serve
        if self._http:  # whose door alone shows it; in a world, time would never stand still
            wanted["loop lag"] = partial(serve_loop_lag, engine.measures, self._clock)
        if self.notifier.every:
            wanted["keep-alive"] = self.notifier.serve_alive
        for name, serve in wanted.items():
            told = writer.closing if name == "log writer" else None  # the others are cancelled with their group
            services.start_soon(self.supervisor.serve, name, serve, told, name=name)

    async def _take_over(self, engine: Engine, backend: StoreBackend) -> None:
        """Settle what an older boot left: its processes, its runs. Then load the plans and take its queue."""
        runtime = engine.runtime
        for pid in await end_leftovers(runtime.boot_tag.rpartition(".")[0], runtime.boot):
            runtime.log.warning(f"process {pid} of an older start was still there and has been ended")
        with sound_records(self.settings.data / DATABASE_NAME):
            runtime.ledger.take_over(last_why(backend.execute))
            queued = settle_orphans(backend.execute, runtime, self._clock)
            runtime.plan_states.take_over(read_states(backend.execute))
            switches = read_switches(backend.execute)
            engine.triggers.take_over(switches, read_last_fired(backend.execute))
            engine.items.take_over(switches, read_items(backend.execute))
            engine.debounces.take_over(read_debounced(backend.execute))
            engine.expects.take_over(read_expected(backend.execute))
            firings = read_open_firings(backend.execute)
            engine.gate.take_over(read_passed(backend.execute))
        await engine.reload()
        with sound_records(self.settings.data / DATABASE_NAME):
            await engine.take_over(queued, firings)

    async def _with_engine(self, engine: Engine, writer: LogWriter) -> None:
        # engine: its dispatcher and stops; they end by themselves once the engine has been stopped
        async with create_task_group() as engine.children:
            await engine.start()
            # doors: the HTTP server; ends by its stop event, within its grace
            async with create_task_group() as doors:
                closing = Event()
                try:
                    if self._http:
                        self.address = await self._open_http(doors, engine, closing)
                    engine.ready = self._booted = True
                    engine.retention.ready.set()
                    self._opened.set()
                    await self._stop_asked.wait()
                finally:  # also when a door has failed: whatever ends the server, this is how it ends
                    # The shield holds the sequence alone; every wait in it has a bound, and the watchdog stands behind.
                    with CancelScope(shield=True):
                        await self._stop(engine, writer)
                    closing.set()
            self.exit_code = await self._left_behind(engine)

    async def _stop(self, engine: Engine, writer: LogWriter) -> None:
        """Stop accepting, stop what runs, and write the last log lines."""
        if not self._guest:
            self._start_watchdog()
        self.notifier.tell(STOPPING)
        self._write_until(self.settings.server.grace)
        engine.admission.closed = True
        engine.gate.close()
        grace_over = anyio.current_time() + self.settings.server.grace
        await engine.stop("cancel", self.settings.server.grace)
        await engine.runtime.services.close(max(grace_over, anyio.current_time() + LEAST_CLOSE))
        if self._guest:  # what is left running no next start may ever find
            await end_boot_leftovers(engine.runtime.boot_tag)
        writer.close()
        await writer.flush(FLUSH_TIMEOUT)

    async def _left_behind(self, engine: Engine) -> int:
        """Give what is still there its record, and say with what exit code the server has to leave it behind, or 0."""
        store = engine.runtime.store
        if store.blocked:  # some may only wait for their commit; those end by themselves, once it is written
            with anyio.move_on_after(self._deadline - anyio.current_time()):
                await engine.dispatcher.wait_idle()
        self.left = sorted(run.cid for run in engine.left())
        self.left_services = [*map(str, (one.service for one in engine.runtime.services.stuck)), *engine.polls.left]
        return ExitCode.INTERNAL if engine.record_left() or self.left_services else ExitCode.OK

    async def _open_http(self, doors: TaskGroup, engine: Engine, closing: Event) -> str:
        # imported here: only a server with doors pays for them
        from aura.web.app import create_app
        from aura.web.auth import Auth
        from aura.web.server import open_sockets, serve_http

        auth = await Auth.open(self.settings, engine.runtime.store, self._clock)
        sockets, address = open_sockets(self.settings)
        app = create_app(engine, auth, self.settings, closing)
        serve = partial(serve_http, app, sockets, self.supervisor, stop=closing, grace=CONNECTION_GRACE)
        await doors.start(serve, name="doors")
        return address

    def _start_watchdog(self) -> None:
        """End the process if the stop takes longer than it may. A thread, since it is the loop that may hang."""
        seconds = self.settings.server.grace + STOP_SLACK

        def watch() -> None:
            if not self._ended.wait(seconds):
                say(f"the server did not stop within {seconds:g} s and is left as it is")
                self._leave(ExitCode.INTERNAL)

        threading.Thread(target=watch, name="aura stop watchdog", daemon=True).start()


def leave_hard(code: int) -> None:
    """End the process now, without waiting for anything in it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def say(text: str, stream: TextIO | None = None) -> None:
    """Say something beside the log, on stderr if no stream is given: a closed terminal or a full disk ends nothing."""
    with suppress(OSError, ValueError):  # nobody reads it any more
        print(f"aura: {text}", file=stream or sys.stderr, flush=True)


def _stay(code: int) -> None:
    """A guest leaves nothing but its host's hands."""


def _count_boot(backend: StoreBackend, clock: Clock) -> tuple[str, int]:
    counted: list[tuple[str, int]] = []

    def count() -> None:
        counted.append(begin_boot(backend.execute, clock.wall(), aura.__version__, lambda: uuid.uuid4().hex))

    in_one_transaction(backend.execute, Site.BOOT_COUNT, count)
    return counted[0]


async def _store_lines(runtime: Runtime, lines: Sequence[LogEntry]) -> None:
    if runtime.space.log_refusal:
        raise StoreFull(runtime.space.log_refusal)
    unit = insert_logs([log_row(line) for line in lines])
    await runtime.store.put(unit, refusable=True, site=Site.LOGS, certain=True).wait()


async def _reap() -> None:
    """Let go of adopted children that have ended; ends with the group of services."""
    while True:
        await anyio.sleep(REAP_EVERY)
        reap_adopted()
