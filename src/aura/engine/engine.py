"""The engine: the work layer as one thing that can be started and stopped, and what the doors may ask of it.

It wires admission, dispatcher, executor, stops and seal together over one ``Runtime``. It can be stopped and started
inside a running server any number of times; accepting goes on while it is stopped, and runs that hang are counted, not
waited for. Doors call nothing of the work layer but this.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import anyio
import msgspec
from anyio.abc import TaskGroup

import aura
from aura.engine.boot import accepted_of
from aura.engine.history import History
from aura.engine.overview import Overview, look
from aura.engine.ownevents import OwnEvents
from aura.engine.planlines import say_load
from aura.engine.priorities import Priorities, Prioritized
from aura.engine.reruns import Reruns
from aura.engine.retention import Retention
from aura.engine.steering import Steering, check_stands_alone
from aura.engine.stuckview import stuck_shown
from aura.engine.supervisor import Supervisor
from aura.engine.watchdog import Watchdog
from aura.engine.whyview import WhyPage, WhyView
from aura.errors import RequestError
from aura.events import EventReceipt
from aura.interrupts.interrupts import Interrupts, Sight
from aura.interrupts.rules import LiveRule
from aura.interrupts.ruleview import dry_run_shown, open_shown, reaches_others, rule_shown
from aura.interrupts.takeovers import Takeovers
from aura.interrupts.triggers import Triggers
from aura.kernel.admission import Admission, Admitted, stored
from aura.kernel.children import Children, adopt, is_unattended
from aura.kernel.claims import Claims
from aura.kernel.dispatcher import Dispatcher
from aura.kernel.emitting import Emitting
from aura.kernel.executor import Executor
from aura.kernel.keys import Key, Keys
from aura.kernel.modes import Modes
from aura.kernel.pausing import Pausing
from aura.lifecycle import RunState, Stop
from aura.loading.generations import PlanStatus, Reading
from aura.polling.polls import Polls
from aura.records.boots import OpenRun
from aura.records.firings import OpenFiring
from aura.records.why import WhyFilter
from aura.run import Cause, Outcomes, PreemptedBy, Receipt, Request
from aura.runs.leaving import Leaving
from aura.runs.liverun import LiveRun
from aura.runs.restoring import inherited_of
from aura.runs.runtime import Runtime
from aura.runs.seal import Seal
from aura.runs.stops import Stops
from aura.runs.waits import Waits
from aura.scheduling.debounce import Debounces
from aura.scheduling.expected import Expects
from aura.scheduling.filetriggers import FileTriggers
from aura.scheduling.heard import Heard
from aura.scheduling.itemmodes import ItemModes
from aura.scheduling.itempolls import ItemPolls
from aura.scheduling.items import Items
from aura.scheduling.scheduler import Scheduler
from aura.scheduling.schedules import Schedules
from aura.scheduling.sources import Source
from aura.scheduling.starts import Starts
from aura.scheduling.webhooks import Webhooks
from aura.watching.folders import Folders
from aura.watching.gate import Gate
from aura.watching.reloader import Reloader
from aura.why import Place

State = Literal["running", "stopping", "stopped"]
ShownState = State | Literal["degraded"]
#: Seconds that a stop waits beyond the graces for what is being marked as stuck.
SLACK = 0.3
#: The same for a stop that is made quicker: on a slow machine what is killed needs a while to be gone.
HURRIED_SLACK = 1.0
#: The child that carries out a stop of the engine alone.
STOP_CHILD = "engine stop"


class Engine:
    """Runs what is asked for. ``children`` is the group of the engine's own children, opened by the server."""

    def __init__(self, runtime: Runtime, flush_logs: Callable[[], Awaitable[object]], supervisor: Supervisor) -> None:
        self.runtime = runtime
        self.supervisor = supervisor
        #: Set by the server once all that an older boot left is settled.
        self.ready = False
        self.settings = runtime.settings
        self.clock = runtime.clock
        self.journal = runtime.journal
        self.generations = runtime.generations
        self.boot = runtime.boot
        self.workdirs = runtime.workdirs
        self.measures = runtime.measures
        self.started_at = runtime.clock.wall()
        self._mono_started = runtime.clock.monotonic()
        self.modes = Modes(runtime)
        self.claims = Claims(runtime, self.modes)
        self.dispatcher = Dispatcher(runtime, runtime.settings.lanes, self.claims)
        self.waits = Waits(runtime, self._enter_again)
        self.seal = Seal(runtime, self.waits, self.dispatcher.release, self._enter_again)
        self.leaving = Leaving(self.seal, self.dispatcher.vacate)
        self.stops = Stops(runtime, self.seal.seal, self.dispatcher.start_at_once)
        self.history = History(runtime, self.dispatcher, self.claims, self.waits, flush_logs)
        self.admission = Admission(runtime, self.dispatcher, self.stops, self.modes)
        self.interrupts = Interrupts(
            runtime,
            self.admission,
            self.dispatcher,
            self.stops,
            self.seal,
            lambda run: self.pausing.find_code(run),
            lambda: self._state == "running",
        )
        self.polls = Polls(runtime)
        self.triggers = Triggers(runtime, self.interrupts, self.admission, self.dispatcher, self.polls)
        self.modes.of_items = self.item_modes = ItemModes(runtime)
        self.item_modes.hold = self.claims.hold_slot
        self.starts = Starts(runtime, self.admission, self.item_modes)
        self.scheduler = Scheduler(runtime, self.starts)
        #: What rings when something in a folder may have changed; served by the server, in a world by nobody.
        self.folders = Folders(runtime.log.warning)
        #: Set by the server: plans are loaded when their files change.
        self.watches_plans = False
        self.reloader = Reloader(runtime, self.folders, self.reload)
        #: Keeps versions of plans back until they are tried; served by the server, in a world by nobody.
        self.gate = runtime.generations.gate = Gate(runtime, self.reload, self.reloader.changing)
        self.webhooks = Webhooks(runtime, self.starts, self.admission)
        self.file_triggers = FileTriggers(runtime, self.starts, self.folders)
        self.debounces = Debounces(runtime, self.starts)
        self.expects = Expects(runtime, self.starts)
        heard = Heard(runtime, self.starts, self.debounces)
        polled = ItemPolls(runtime, self.starts, self.polls)
        by_events: list[Source] = [heard, self.debounces, self.expects, polled]
        self.items = Items(runtime, self.starts, [self.scheduler, self.webhooks, self.file_triggers, *by_events])
        self._why = WhyView(runtime, self.dispatcher, self.items, lambda: self._state == "running")
        self.takeovers = Takeovers(runtime, self.claims, self.dispatcher)
        self.keys = Keys(runtime, self.admission)
        self.schedules = Schedules(runtime, self.items, self.keys, self.polls, self.file_triggers, lambda: self._state)
        self.emitting = runtime.emits = Emitting(runtime, self.admission)
        self.reruns = Reruns(runtime, self.admission, self.history)
        self.priorities = Priorities(runtime, self.dispatcher, self.history)
        self.pausing = Pausing(runtime, self.stops, self.dispatcher, self.claims, self.waits, self._enter_again)
        self.steering = Steering(runtime, self.admission, self.history, self.stops, self.pausing, self.waits)
        self.sub_tasks = Children(runtime, self.admission, self.stops, self.dispatcher, self.pausing)
        runtime.calls = self.sub_tasks
        executor = Executor(
            runtime,
            self.stops,
            self.leaving,
            self.sub_tasks,
            self.claims,
            self.waits,
            self._give_place_back,
        )
        self.modes.cancel = self.item_modes.cancel = self.steering.request_cancel
        self.item_modes.mode_of = self.items.mode_of
        self.waits.cancel = self.sub_tasks.cancel
        self.dispatcher.execute = executor.execute
        self.retention = Retention(runtime)
        self.own_events = OwnEvents(runtime.bus, runtime.boot, lambda: self.reasons)
        runtime.on_fault = supervisor.on_failure = runtime.space.on_short = self.own_events.look
        self.watchdog = Watchdog(runtime, lambda: self.ready, self.own_events.look)
        self.children: TaskGroup
        self._state: State = "stopped"
        #: Counts stops: only the last one may say ``stopped``.
        self._stops_begun = 0
        self._loading = anyio.Lock()
        #: Set to end the waiting of a stop that drains, and to tell the dispatcher, and an older stop, to end. Replaced
        #: by each start and each stop, so that it is the event of whatever began last.
        self._hurry = anyio.Event()
        self._dispatcher_ended = anyio.Event()
        #: The grace of the cancel that follows a drain, if one was given.
        self._cancel_grace: float | None = None
        #: Bounds the wait of the last stop for what it has stopped; a next one may bring its end nearer.
        self._last_wait = anyio.CancelScope()

    def _give_place_back(self, run: LiveRun) -> None:
        """Let others have the place of a run that is stuck, and the handlers that wait for what it holds have that."""
        self.dispatcher.release_stuck(run)
        self.takeovers.look_again()

    # -- starting and stopping

    @property
    def state(self) -> ShownState:
        """``running stopping stopped``, or ``degraded`` while it runs with faults."""
        return "degraded" if self._state == "running" and self.reasons else self._state

    @property
    def reasons(self) -> list[str]:
        """Why it is degraded, or does not take or start work."""
        unavailable = self.runtime.store.unavailable
        left = self.runtime.services.reasons
        storage = [str(unavailable)] if unavailable else self.runtime.space.reasons
        return [*self.runtime.faults, *self.supervisor.reasons, *left, *self.watchdog.reasons, *storage]

    async def start(self) -> ShownState:
        """Begin to start runs. Harmless if it does already.

        Raises:
            RequestError: it is just being stopped, or the server is.
        """
        if self._state == "stopping" or self.admission.closed:
            extra = {"state": self.state}
            raise RequestError("conflict", "the engine is being stopped; start it when it is", extra=extra)
        if self._state == "stopped":
            self._state = "running"
            self._hurry = anyio.Event()
            self._dispatcher_ended = anyio.Event()
            self.dispatcher.allow()
            self.own_events.tell_engine("started")
            # in the engine's group: ends by ``request_stop`` of the dispatcher, or by ``_hurry`` in a pause
            self.children.start_soon(self._serve_dispatcher, self._hurry, self._dispatcher_ended, name="dispatcher")
            self.polls.start()
            self.items.start()
            # in the engine's group: ends in the turn after ``request_stop`` of the scheduler
            serve = self.scheduler.serve
            self.children.start_soon(self.supervisor.serve, "scheduler", serve, self._hurry, name="scheduler")
            if self.watches_plans:
                # in the engine's group: ends in the turns after ``request_stop`` of the reloader
                serve = self.reloader.begin()
                self.children.start_soon(self.supervisor.serve, "plan watcher", serve, self._hurry, name="plan watcher")
            # in the engine's group: ends in the turns after ``request_stop`` of the file triggers
            serve = self.file_triggers.serve
            self.children.start_soon(self.supervisor.serve, "file triggers", serve, self._hurry, name="file triggers")
        return self.state

    async def _serve_dispatcher(self, told: anyio.Event, ended: anyio.Event) -> None:
        try:
            await self.supervisor.serve("dispatcher", self.dispatcher.serve, told)
        finally:
            ended.set()

    async def stop(self, mode: Literal["drain", "cancel"], grace: float) -> ShownState:
        """Start nothing more, let what runs end (``drain``) or stop it at once (``cancel``), and return when it has.

        ``grace`` is in seconds: of a drain how long it waits, of a cancel how long clean-up may take. Runs that hang
        are counted in the status and not waited for.
        """
        return await self._finish_stop(self._begin_stop(), mode, grace)

    def request_stop(self, mode: Literal["drain", "cancel"], grace: float | None = None) -> ShownState:
        """Ask for a stop and do not wait. A ``cancel`` while one is under way ends its draining and a longer grace."""
        seconds = self.settings.server.grace if grace is None else grace
        if self._state == "stopping" and mode == "cancel":
            self._cancel_grace = seconds
            if self._hurry.is_set():
                self._stop_all(seconds)
            self._hurry.set()
        elif self._state == "running":
            # in the engine's group: ends by itself, every wait in it has a bound; a next stop ends its pause
            finish = partial(self._finish_stop, self._begin_stop(), mode, seconds)
            self.children.start_soon(self.supervisor.serve, STOP_CHILD, finish, self._hurry, name=STOP_CHILD)
        return self.state

    def _begin_stop(self) -> int:
        """Start nothing more from this turn on."""
        if self._state != "stopping":
            self.own_events.tell_engine("stopping")
        self._state = "stopping"
        self.reloader.request_stop()
        self.polls.request_stop()
        self.items.request_stop()
        self.dispatcher.request_stop()
        self._hurry.set()  # a stop that is draining does so no longer: this one takes its place
        self._hurry = anyio.Event()
        self._cancel_grace = None
        self._stops_begun += 1
        return self._stops_begun

    async def _finish_stop(self, number: int, mode: Literal["drain", "cancel"], grace: float) -> ShownState:
        if mode == "drain":
            await self._wait_idle(grace)
            grace = self.settings.server.grace if self._cancel_grace is None else self._cancel_grace
        elif self._cancel_grace is not None:  # another cancel came before this one's child began
            grace = min(grace, self._cancel_grace)
        self._hurry.set()
        self._stop_all(grace)
        with anyio.move_on_after(grace + SLACK) as self._last_wait:  # its only child: this wait
            await self.dispatcher.wait_idle()
            await self.polls.wait_idle()
        await self._dispatcher_ended.wait()  # it has been told; it ends in the next turns
        if number == self._stops_begun:
            self._state = "stopped"
            self.own_events.tell_engine("stopped", stuck=len(self.dispatcher.stuck()))
        return self.state

    def hurry(self, grace: float) -> None:
        """Bring the end of every stop that is under way to ``grace`` seconds from now."""
        self._cancel_grace = grace
        self._hurry.set()
        self._stop_all(grace)

    def _stop_all(self, grace: float) -> None:
        end = anyio.current_time() + grace + HURRIED_SLACK
        self._last_wait.deadline = min(self._last_wait.deadline, end)
        self.polls.request_stop(grace)
        self.items.request_stop(grace)
        unattended = [run for run in self.dispatcher.in_place if is_unattended(run)]
        for run in [*self.dispatcher.placed(), *unattended]:
            self.stops.request_stop(run, Stop.SHUTDOWN, "shutdown", grace)

    async def _wait_idle(self, seconds: float) -> None:
        """Return once nothing runs, after ``seconds``, or when told to hurry."""
        # two children: each ends the group when what it waits for has come; the scope bounds both
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as race:

                async def first(wait: Callable[[], Awaitable[object]]) -> None:
                    await wait()
                    race.cancel_scope.cancel("one of them came")

                race.start_soon(first, self.dispatcher.wait_idle, name="wait until idle")
                race.start_soon(first, self._hurry.wait, name="wait for a hurry")

    async def take_over(self, found: Sequence[OpenRun], firings: Sequence[OpenFiring] = ()) -> None:
        """Take the runs of an older boot that may start, and put those that are not held into their lanes again.

        ``firings`` are those that are still open: nothing starts before they are.
        """
        for orphan in found:
            run = self.runtime.live_run(accepted_of(orphan), orphan.record.inputs or {})
            run.attempt, run.crashes = orphan.record.attempt, orphan.crashes
            run.started_at, run.active_s = None, 0.0
            run.preempted_by = msgspec.convert(orphan.record.preempted_by, PreemptedBy | None)
            run.preemptions = orphan.record.preemptions
            run.event = orphan.event
            run.starts = {row[1]: row[4] for row in orphan.steps}
            run.inherited = inherited_of(orphan)
            run.inherited_loops = {row[1]: orphan.loops[row[1]] for row in run.inherited if row[1] in orphan.loops}
            self.runtime.open[run.cid] = run
            if orphan.record.parent_cid is not None:
                adopt(self.runtime.open[orphan.record.parent_cid], run)
            if orphan.record.state in (RunState.WAITING, RunState.PREEMPTED):
                await self.pausing.take_over(run, orphan)
            else:
                self._enter_again(run)
        self.waits.look_at_sub_tasks(list(self.runtime.open.values()))
        open_runs = [self.runtime.open[orphan.record.cid] for orphan in found]
        self.modes.resume(open_runs)
        self.item_modes.resume(open_runs)
        self.interrupts.take_over(firings)

    def _enter_again(self, run: LiveRun) -> None:
        self.admission.enter(run, self._task_of(run))

    def _task_of(self, run: LiveRun) -> Any:
        try:
            return self.generations.task(run.plan_name, run.task_name)[1]
        except RequestError:  # the run says so itself when it is to start
            return None

    def record_left(self) -> int:
        """Give every run whose body is still there its record, at the server's end, and count them."""
        self.leaving.seal_gone()
        left = self.left()
        for run in left:
            self.stops.abandon(run)
            self.seal.seal(run)
        return len(left)

    def left(self) -> list[LiveRun]:
        """All runs that run or hang, a sub-task before its parent."""
        found = {*self.dispatcher.stuck(), *self.dispatcher.placed(), *self.dispatcher.in_place}
        return sorted(found, key=lambda run: -run.seq)

    def close(self) -> None:
        """End what would act after the server's end: timers, and the waiting for runs that it will not see end."""
        self.polls.close()
        self.items.close()
        self.dispatcher.close()
        self.interrupts.close()
        self.waits.close()
        for run in self.runtime.open.values():
            if run.timer:
                run.timer.cancel()
            run.end()

    async def reload(self, read: Reading | None = None) -> list[PlanStatus]:
        """Load the plans folder again. A plan that cannot be served keeps its last good generation; the log says so.

        ``read`` is that of the watcher, which reads what has changed.
        """
        async with self._loading:  # what one load has changed is told before the next begins
            return await self._reload(read)

    async def _reload(self, read: Reading | None) -> list[PlanStatus]:
        before = self.generations.statuses()
        awaited = {plan.name for plan in before if self.generations.is_awaited(plan.name)}
        statuses = await self.generations.reload(read)
        # from here on nothing is awaited: everybody is told of what is served now
        say_load(self.runtime.log, before, statuses, asked=read is None, first=not self.ready)
        self.own_events.tell_plans(before, statuses, first=not self.ready)
        self.runtime.services.reload()
        self.triggers.reload(everything=read is None)
        self.items.reload(everything=read is None)
        self.claims.reload()
        self._resume_awaited({name for name in awaited if not self.generations.is_awaited(name)})
        self.dispatcher.ask_again()
        return statuses

    def _resume_awaited(self, plan_names: Collection[str]) -> None:
        """Let the queued runs of plans go on for which an older boot, or this one, found no version to be served."""
        runs = [run for run in self.runtime.open.values() if run.plan_name in plan_names and not run.sealed]
        if runs:
            self.modes.resume(runs)
            self.item_modes.resume(runs)
            for run in runs:
                if run.waits and run.timer is None:
                    self.admission.begin_queue_timeout(run, self._task_of(run))
            self.dispatcher.start_barred()

    async def wait_tested(self, seconds: float) -> list[PlanStatus]:
        """Give how each plan stands once the tests of new versions have ended, ``seconds`` from now at the latest."""
        with anyio.move_on_after(seconds):  # its only child: this wait
            await self.gate.wait_settled()
        return self.generations.statuses()

    # -- requests

    async def submit(self, request: Request, cause: Cause, key: Key | None = None) -> Receipt:
        """Accept a request; returns once it is stored. With the key of an earlier one it gives that one's receipt.

        Raises:
            RequestError: it is refused, and nothing of it is stored.
        """
        if key is not None:
            return await self.keys.submit(request, cause, key)
        admitted = self.admission.request(request, cause)
        await stored(admitted.ticket)
        return _accepted(admitted.run)

    async def submit_batch(
        self, requests: Sequence[Request | RequestError], cause: Cause, atomic: bool, key: Key | None = None
    ) -> Outcomes:
        """Accept many at once, in one commit; each that is refused says why, or, ``atomic``, all are refused.

        With the key of an earlier batch it gives that one's outcomes.

        Raises:
            RequestError: ``atomic``, and one of them is refused; nothing of them is stored.
        """
        if key is not None:
            return await self.keys.submit_batch(requests, cause, atomic, key)
        if atomic:
            runs, ticket = self.admission.request_all(requests, cause)
            await stored(ticket)
            return Outcomes([_accepted(run) for run in runs])
        admitted = [self._try(request, cause) for request in requests]
        return Outcomes([await _outcome(one) for one in admitted])

    def _try(self, request: Request | RequestError, cause: Cause) -> Admitted | RequestError:
        if isinstance(request, RequestError):
            return request
        try:
            return self.admission.request(request, cause)
        except RequestError as refused:
            return refused

    async def rerun(self, cid: str, from_step: str | None = None, key: Key | None = None) -> Receipt:
        """Ask for a new run of what an ended one did; returns once it is stored. Raises as ``reruns.Reruns`` does.

        With the key of an earlier rerun it gives that one's receipt.
        """
        if key is not None:
            return await self.keys.accept(partial(self.reruns.request, cid, from_step), key)
        admitted = await self.reruns.request(cid, from_step)
        await stored(admitted.ticket)
        return _accepted(admitted.run)

    async def set_priority(self, cid: str, priority: int) -> Prioritized:
        """Give a run another priority; returns once it is on record. Raises as ``priorities.Priorities`` does."""
        if (run := self.runtime.open.get(cid)) is not None:
            check_stands_alone(run, "change the priority of")
        return await self.priorities.change(cid, priority)

    async def emit(self, name: str, payload: Any = None) -> EventReceipt:
        """Emit an event; returns once it is stored, with what it starts or wakes.

        Raises:
            RequestError: ``reserved_event``, ``invalid``, ``events_full``, or it could not be stored; nothing was.
        """
        emitted = await self.emitting.for_client(name, payload)
        return EventReceipt(str(emitted.entry.id), emitted.started, emitted.fired)

    # -- interrupts

    async def fire(self, plan_name: str, rule_name: str, payload: Any = None) -> EventReceipt:
        """Fire a rule by hand; returns once that is stored.

        Raises:
            RequestError: ``unknown_plan``, ``unknown_rule``, or its handler is refused; nothing was stored.
        """
        emitted = self.triggers.fire(self.triggers.find(plan_name, rule_name), payload)
        await stored(emitted.ticket)
        return EventReceipt(str(emitted.entry.id), emitted.started, emitted.fired)

    async def switch_rule(self, plan_name: str, rule_name: str, enabled: bool, by: str) -> LiveRule:
        """Switch a rule on or off; returns it once that is stored. Raises as ``fire`` does."""
        live = self.triggers.find(plan_name, rule_name)
        await stored(self.triggers.switch(live, enabled, by))
        return live

    def rules(self) -> list[dict[str, Any]]:
        """The rules of the plans that are served, as they stand, by ``plan/rule``."""
        return [self._rule_shown(self.triggers.rules[key]) for key in sorted(self.triggers.rules, key="/".join)]

    def rule(self, plan_name: str, rule_name: str) -> dict[str, Any]:
        """One rule as it stands. Raises as ``fire`` does."""
        return self._rule_shown(self.triggers.find(plan_name, rule_name))

    def _rule_shown(self, live: LiveRule) -> dict[str, Any]:
        cross_plan = self.settings.interrupts.cross_plan
        shown = rule_shown(live, self.dispatcher.holds.open, cross_plan, self.clock.monotonic())
        return shown | {"polls": [poll.shown() for poll in self.triggers.polls.of(live)]}

    def dry_run(self, plan_name: str, rule_name: str) -> dict[str, Any]:
        """Whom a rule would stop and spare if it fired now, and what it would keep from starting. Raises as ``fire``.

        While the engine is stopped it would stop nobody.
        """
        live = self.triggers.find(plan_name, rule_name)
        sight = self.triggers.sight(live) if self._state == "running" else Sight([], [], [])
        return dry_run_shown(self.interrupts.terms_of(live), sight, self.dispatcher.queued())

    def plans_that_preempt_others(self) -> set[str]:
        """The plans of which a rule may stop the work of others."""
        cross_plan = self.settings.interrupts.cross_plan
        return {live.plan_name for live in self.triggers.rules.values() if reaches_others(live, cross_plan)}

    # -- steering: each raises as ``steering.Steering`` does

    async def cancel(self, cid: str, reason: str | None = None) -> str:
        """Cancel a run, wherever it is; returns its state once the cancel is on record."""
        return await self.steering.cancel(cid, reason)

    async def pause(self, cid: str, reason: str | None = None) -> str:
        """Pause a run, wherever it is; returns its state, ``stopping`` or ``preempted``, once that is on record."""
        return await self.steering.pause(cid, reason)

    async def resume(self, cid: str) -> str:
        """Let a paused run go on; returns its state, ``preempted`` or ``stopping``, once that is on record."""
        return await self.steering.resume(cid)

    async def answer(
        self, cid: str, step: str, index: int | None, approved: bool, values: Mapping[str, Any], by: str
    ) -> str:
        """Answer a step, or an item of one, that waits for it; returns the run's state once that is on record."""
        return await self.steering.answer(cid, step, index, approved, values, by)

    async def cancel_where(
        self,
        *,
        state: str | None = None,
        plan_name: str | None = None,
        task_name: str | None = None,
        lane: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Cancel every open run that fits all that is given, and name those that were told."""
        return await self.steering.cancel_where(
            state=state, plan_name=plan_name, task_name=task_name, lane=lane, labels=labels
        )

    # -- looking

    async def why(self, wanted: WhyFilter, limit: int, after: Place | None = None) -> WhyPage:
        """What does not begin yet, then what did not start, the newest first, and why; behind the place ``after``."""
        return await self._why.page(wanted, limit, after)

    @property
    def not_started(self) -> Mapping[tuple[str, str | None], int]:
        """How often something did not start since the server began, by the reason and the plan."""
        return self.runtime.ledger.counts

    def status(self) -> dict[str, Any]:
        """What ``GET /api/system/status`` answers."""
        lanes = {
            name: {
                "limit": lane.limit,
                "running": len(lane.placed),
                "queued": lane.waiting,
                "stuck": len(lane.stuck),
            }
            for name, lane in self.dispatcher.lanes.items()
        }
        plans = {"ready": 0, "stale": 0, "broken": 0}
        for plan in self.generations.statuses():
            plans[plan.status] += 1
        store = self.runtime.store
        return {
            "state": self.state,
            "version": aura.__version__,
            "boot": self.boot,
            "started_at": self.started_at,
            "uptime_s": round(self.clock.monotonic() - self._mono_started, 3),
            "lanes": lanes,
            "resources": self.claims.status(),
            "plans": plans,
            "store": {
                "writable": store.unavailable is None and self.runtime.space.refusal is None,
                "pending": store.pending,
                "commits": store.commits,
                "disk_free": self.runtime.space.free.bytes if self.runtime.space.free else None,
            },
            "retention": self.retention.status(),
            "services": self.supervisor.status(),
            "plan_services": self.runtime.services.status(),
            "events": self.runtime.bus.status(),
            "interrupts": open_shown(self.dispatcher.holds.open),
            "schedule": self.schedules.status(),
            "stuck": stuck_shown(self.dispatcher),
            "loop": self.watchdog.status(),
            "reasons": self.reasons,
        }

    def is_service_open(self, plan_name: str, name: str) -> bool:
        """Whether a service is open of the generation of a plan that is served."""
        try:
            return self.runtime.services.is_open(self.generations.current(plan_name), name)
        except RequestError:
            return False

    def queue_overview(self) -> Overview:
        """What is queued and running, and how long runs waited lately, by lane and by plan."""
        return look(self.runtime, self.dispatcher.lanes)

    def queue_list(self, lane: str | None = None) -> list[dict[str, Any]]:
        """The queued runs, in the order in which they would start. Times are Unix seconds.

        ``place`` is where each stands: it stays as it is while others come and go.
        """
        return [
            {
                "cid": run.cid,
                "plan_name": run.plan_name,
                "task_name": run.task_name,
                "lane": run.lane,
                "priority": run.priority,
                "state": run.state.value,
                "accepted_at": run.accepted.accepted_at,
                "not_before": run.not_before,
                "waiting_for": self.history.waiting_for(run),
                "place": self.dispatcher.place_of(run),
            }
            for run in self.dispatcher.queued(lane)
        ]


async def _outcome(admitted: Admitted | RequestError) -> Receipt | RequestError:
    if isinstance(admitted, RequestError):
        return admitted
    try:
        await stored(admitted.ticket)
    except RequestError as refused:
        return refused
    return _accepted(admitted.run)


def _accepted(run: LiveRun) -> Receipt:
    return Receipt(run.cid, RunState.QUEUED.value, run.plan_name, run.task_name)
