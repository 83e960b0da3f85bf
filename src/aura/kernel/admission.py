"""Admission: the synchronous decision that a request is accepted, and the undoing of one that could not be stored.

Theory of operation. A request is decided in memory and handed to the store as one unit, without an await in between:
nothing can change between the check and the reservation. The run enters its lane at once, so that its start may ride
in the same batch; its first step waits for that commit anyway. Nobody is shown the run before its own commit.

If the unit fails, the reservation is undone: the run leaves its lane, a start behind it fails its compare-and-set, and
the run ends quietly, its place returned, without a fault. What is refused is a ``RequestError`` and nothing is stored.

What the mode of a task says is decided here as well (``modes``); a run that takes the place of others does so when its
own acceptance is on record.

Admission works while the engine is stopped. What a crash does: a run is a row or was never accepted.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from aura.bus import Offered, joined
from aura.errors import FieldError, KeyTaken, RequestError, StoreClosed, StoreReadOnly
from aura.events import Chain, EventEntry
from aura.failpoints import Site
from aura.kernel.dispatcher import HANDLERS, Dispatcher
from aura.kernel.modes import Modes, is_bounded
from aura.kernel.refusals import Refusals
from aura.loading.generation import Generation
from aura.loading.inputs import check_inputs, secret_pointers
from aura.records.columns import encode
from aura.records.runs import Accepted, accept_run, together
from aura.resources import Slot
from aura.run import MAX_DELAY, MAX_LABEL, MAX_LABELS, OPEN_LANES, PRIORITIES, Cause, Request, clean
from aura.runs.hiding import hidden_request
from aura.runs.liverun import LiveRun
from aura.runs.runtime import Runtime, history_row
from aura.runs.stops import Stops
from aura.store import Ticket, Unit
from aura.task import ModeKind, Task

#: How long a client is asked to wait when a queue is full or the storage cannot be written, in seconds.
RETRY_AFTER = 5.0


class Admitted(msgspec.Struct, frozen=True):
    """An accepted run and the promise that it is stored."""

    run: LiveRun
    ticket: Ticket


class Origin(msgspec.Struct, frozen=True):
    """Where a request comes from that nobody outside has made: the ``run`` whose step asks, or an event.

    ``call``: that run waits for it, and this is which call of its that answers. Such a run is a part of the one that
    asks: it stands in no lane and takes no place. ``chain`` is that of the event; ``is_handler``: it is what an
    interrupt rule starts. Of a start by a trigger ``event`` is what it sees of its event, ``due`` its slot, in Unix
    seconds, and ``lane`` the one of tasks that name none.
    """

    run: LiveRun | None = None
    call: str | None = None
    chain: Chain | None = None
    is_handler: bool = False
    event: Mapping[str, Any] | None = None
    due: float | None = None
    lane: str = "main"

    @property
    def parent(self) -> LiveRun | None:
        """The run that it is to be a part of."""
        return self.run if self.call else None


class Reserved(msgspec.Struct, frozen=True):
    """A run that is reserved in memory: it stands in its lane, and its unit has not been handed over.

    ``replaces``: once it is on record it takes the place of others.
    """

    run: LiveRun
    entry: EventEntry
    unit: Unit
    replaces: bool
    deliveries: Sequence[Offered]


class Admission:
    """Accepts requests or says why not. ``closed`` is set when the server is going."""

    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, stops: Stops, modes: Modes) -> None:
        self._runtime = runtime
        self._modes = modes
        self._dispatcher = dispatcher
        self._stops = stops
        self.refusals = Refusals(runtime)
        self.closed = False

    def request(
        self,
        request: Request,
        cause: Cause,
        also: Callable[[LiveRun], Unit] | None = None,
        origin: Origin | None = None,
    ) -> Admitted:
        """Accept a request and hand it to the store. Does not wait: the run is not on record before the ticket says so.

        ``also`` gives, for the new run, what is written with it or not at all.

        Raises:
            RequestError: it is refused; nothing was stored.
        """
        reserved = self.reserve(request, cause, origin)
        run, unit = reserved.run, reserved.unit
        ticket = self._runtime.store.put(
            unit if also is None else together([unit, also(run)]),
            lambda: self.commit([reserved]),
            lambda error: self.undo(reserved, error),
            refusable=True,
            site=Site.ACCEPT,
        )
        if ticket.error is not None:  # the store's intake is closed: what was reserved is undone
            raise refusal(ticket.error)
        return Admitted(run, ticket)

    def request_all(self, requests: Sequence[Request | RequestError], cause: Cause) -> tuple[list[LiveRun], Ticket]:
        """Accept all of them as one unit, or none.

        Raises:
            RequestError: one of them is refused; its ``errors`` point to it. Nothing was stored.
        """
        runs: list[LiveRun] = []

        def note(accepted: Sequence[LiveRun | RequestError]) -> Unit:
            runs.extend(one for one in accepted if isinstance(one, LiveRun))
            return together([])

        ticket = self.request_together(self.check_all(requests, cause), cause, note)
        return runs, ticket

    def check_all(self, given: Sequence[Request | RequestError], cause: Cause) -> list[Request]:
        """Give them back if all of them can be accepted now.

        Raises:
            RequestError: one of them cannot; its ``errors`` point to it.
        """
        for bad in given:
            if isinstance(bad, RequestError):
                raise bad
        requests = [request for request in given if isinstance(request, Request)]
        with self.refusals.noting(requests, cause):  # of the whole batch: it may be asked again as it is
            self.check_open()
            self.check_space()
        beside: Counter[Slot] = Counter()
        acceptable: list[Accepted] = []
        for index, request in enumerate(requests):
            try:
                acceptable.append(self._check(request, cause, beside=beside)[0])
            except RequestError as refused:
                self.refusals.note(refused, request.plan_name, request.task_name, cause)
                raise _within_batch(refused, index) from None
        with self.refusals.noting(requests, cause):
            self._check_room(acceptable)
        return requests

    def request_together(
        self,
        requests: Sequence[Request | RequestError],
        cause: Cause,
        also: Callable[[Sequence[LiveRun | RequestError]], Unit],
    ) -> Ticket:
        """Accept those that are not refused as one unit, with what ``also`` gives for them: all of it, or nothing.

        Raises:
            RequestError: the store's intake is closed; nothing was stored.
        """
        found = [self._try_reserve(request, cause) for request in requests]
        reserved = [one for one in found if isinstance(one, Reserved)]
        outcomes = [one.run if isinstance(one, Reserved) else one for one in found]

        def undo(error: Exception) -> None:
            for one in reserved:
                self.undo(one, error)

        ticket = self._runtime.store.put(
            together([*(one.unit for one in reserved), also(outcomes)]),
            lambda: self.commit(reserved),
            undo,
            refusable=True,
            site=Site.ACCEPT,
        )
        if ticket.error is not None:  # the store's intake is closed: what was reserved is undone
            raise refusal(ticket.error)
        return ticket

    def _try_reserve(self, request: Request | RequestError, cause: Cause) -> Reserved | RequestError:
        if isinstance(request, RequestError):
            return request
        try:
            return self.reserve(request, cause)
        except RequestError as refused:
            return refused

    def reserve(self, request: Request, cause: Cause, origin: Origin | None = None) -> Reserved:
        """Make the run and put it into its lane. Whoever calls this hands over its unit, in the same turn.

        It says what becomes of that by ``commit`` or ``undo``.

        Raises:
            RequestError: it is refused; nothing is reserved.
        """
        try:
            accepted, generation, task = self._check(request, cause, origin)
        except RequestError as refused:
            self.refusals.note(refused, request.plan_name, request.task_name, cause)
            raise
        run = self._make(accepted)
        run.event = origin.event if origin else None
        entry = self._runtime.stage_event(run, "run.accepted")
        self._runtime.open[run.cid] = run
        if cause.item is not None:
            self._modes.of_items.enter(run)
        if is_bounded(task.mode):
            self._modes.enter(run, generation, task)
        if accepted.call is None:
            self.enter(run, task)
        redactor = self._runtime.redactor
        shown = hidden_request(redactor, accepted) if redactor.knows else accepted
        unit = accept_run(shown, history_row(run.seq, entry))
        deliveries = self._runtime.bus.deliver([entry])
        if deliveries:
            unit = together([unit, *joined(deliveries)])
        return Reserved(run, entry, unit, task.mode.kind is ModeKind.RESTART, deliveries)

    def commit(self, reserved: Sequence[Reserved]) -> None:
        """The acceptances are on record: nobody was told before, and no other run was stopped for one of them."""
        self._runtime.journal.settle([one.entry for one in reserved], True)
        for one in reserved:
            if one.deliveries:
                self._runtime.bus.settle(one.deliveries, True)
            if one.replaces:
                self._modes.replace(one.run)
            if one.run.accepted.cause.item is not None:
                self._modes.of_items.replace(one.run)

    def enter(self, run: LiveRun, task: Task | None = None) -> None:
        """Put a run into its lane, with the timer of its task's ``queue_timeout``."""
        self._dispatcher.enter(run)
        self.begin_queue_timeout(run, task)

    def begin_queue_timeout(self, run: LiveRun, task: Task | None) -> None:
        """Start the timer of a task's ``queue_timeout`` for a run that has just come into its lane."""
        if task is not None and task.queue_timeout is not None and not run.begun:
            self._stops.start_queue_timeout(run, task.queue_timeout)

    # -- deciding

    def _check(
        self, request: Request, cause: Cause, origin: Origin | None = None, beside: Counter[Slot] | None = None
    ) -> tuple[Accepted, Generation, Task]:
        """Say what is accepted, and of which task.

        ``beside`` counts those of one batch that are looked at together, by their slots.
        """
        origin = origin or Origin()
        parent, asked_by = origin.parent, origin.run
        within = parent is not None or origin.is_handler
        self.check_open(within=within)
        if not within:
            self.check_space()
        generation, task = self._runtime.generations.task(request.plan_name, request.task_name)
        inputs = _checked_inputs(task, request)
        encoded = encode(inputs)
        event = encode(origin.event) if origin.event is not None else None
        lane = HANDLERS if origin.is_handler else request.lane or task.lane or origin.lane
        if not within:
            self._check_lane(lane, 1, len(encoded) + len(event or b""))
        labels = {**task.labels, **request.labels}
        slot = self._modes.slot(generation, task, inputs, labels)
        if slot is not None:
            self._modes.check(generation, task, slot, beside[slot] if beside else 0)
            if beside is not None:
                beside[slot] += 1
        now = self._runtime.clock.wall()
        cid = self._runtime.cids.next()
        accepted = Accepted(  # what each run has by its place: by name it takes a struct many times as long
            self._runtime.seq + 1,
            cid,
            request.plan_name,
            request.task_name,
            generation.hash,
            parent.lane if parent else lane,
            parent.priority if parent else task.priority if request.priority is None else request.priority,
            labels,
            task.recovery.value,
            now if origin.due is None else origin.due,
            now + request.delay_s if request.delay_s > 0 else None,
            now,
            cause,
            parent.cid if parent else None,
            asked_by.accepted.root_cid if asked_by else cid,
            _depth(origin),
            self._runtime.boot,
            encoded,
            mode_key=slot.key if slot else None,
            secret_inputs=secret_pointers(task, inputs),
            call=origin.call,
            chain=_chain(origin),
            event=event,
        )
        return accepted, generation, task

    def check_open(self, within: bool = False) -> None:
        """Say whether anything can be asked for that has to be stored. ``within``: it is a part of a run that runs.

        Raises:
            RequestError: ``shutting_down`` or ``storage_unavailable``.
        """
        if self.closed and not within:
            raise RequestError(
                "shutting_down", "the server is shutting down; ask again when it is back", retry_after=RETRY_AFTER
            )
        unavailable = self._runtime.store.unavailable
        if unavailable is not None:
            raise RequestError("storage_unavailable", str(unavailable), retry_after=RETRY_AFTER)

    def check_space(self) -> None:
        """Say whether the disk has room for new work; what was accepted goes on without asking.

        Raises:
            RequestError: ``storage_unavailable``.
        """
        refusal = self._runtime.space.refusal
        if refusal is not None:
            raise RequestError("storage_unavailable", refusal, retry_after=RETRY_AFTER)

    def _check_lane(self, name: str, wanted: int, size: int) -> None:
        if name not in OPEN_LANES:
            known = " or ".join(sorted(OPEN_LANES))
            raise RequestError("invalid", f"there is no lane {name!r}", errors=[FieldError("/lane", f"say {known}")])
        full = self._dispatcher.lanes[name].full(wanted, size)
        if full is not None:
            raise RequestError("queue_full", f"{full}; ask again later", retry_after=RETRY_AFTER)

    def _check_room(self, beside: Sequence[Accepted]) -> None:
        for lane in {one.lane for one in beside}:
            sizes = [len(one.inputs) for one in beside if one.lane == lane]
            self._check_lane(lane, len(sizes), sum(sizes))

    # -- making and undoing

    def _make(self, accepted: Accepted) -> LiveRun:
        self._runtime.seq = accepted.seq
        return self._runtime.live_run(accepted, msgspec.json.decode(accepted.inputs))

    def undo(self, reserved: Reserved, error: Exception) -> None:
        """The acceptance was not stored: the run never was."""
        run = reserved.run
        if not isinstance(error, KeyTaken):  # it is not refused: it is answered as the first time
            self.refusals.note(refusal(error), run.plan_name, run.task_name, run.accepted.cause)
        self._runtime.journal.settle([reserved.entry], False)
        self._runtime.bus.settle(reserved.deliveries, False)
        run.refused = run.sealed = True
        self._modes.leave(run)
        if run.timer:
            run.timer.cancel()
        self._runtime.open.pop(run.cid, None)
        self._dispatcher.leave(run)
        run.end()


def _depth(origin: Origin) -> int:
    if origin.run is not None:
        return origin.run.accepted.depth + 1
    return 0 if origin.chain is None else origin.chain.depth


def _chain(origin: Origin) -> Chain | None:
    if origin.run is None or origin.run.chain is None:
        return origin.chain
    return msgspec.structs.replace(origin.run.chain, depth=origin.run.chain.depth + 1)


async def stored(ticket: Ticket) -> None:
    """Return once what was asked for is on record.

    Raises:
        RequestError: it could not be stored.
    """
    try:
        await ticket.wait()
    except Exception as error:
        raise refusal(error) from error


def refusal(error: Exception, kept: str = "nothing of it was kept") -> RequestError:
    """What a client is told when the unit of its request failed; ``kept`` says what that means."""
    if isinstance(error, StoreReadOnly):
        return RequestError("storage_unavailable", str(error), retry_after=RETRY_AFTER)
    if isinstance(error, StoreClosed):
        return RequestError("shutting_down", "the server is shutting down; ask again when it is back")
    return RequestError("internal", f"the request could not be stored; {kept}")


def _checked_inputs(task: Task, request: Request) -> dict[str, Any]:
    """The inputs with their defaults; all that is wrong, with them and with the rest, is said at once."""
    errors = _field_errors(request)
    try:
        inputs = check_inputs(task, request.inputs)
    except RequestError as refused:
        raise RequestError(refused.code, refused.detail, errors=[*refused.errors, *errors]) from None
    if errors:
        raise RequestError("invalid", "the request is not valid", errors=errors)
    return inputs


def _field_errors(request: Request) -> list[FieldError]:
    errors: list[FieldError] = []
    if request.priority is not None and request.priority not in PRIORITIES:
        errors.append(FieldError("/priority", f"{request.priority} is not between -1000 and 1000"))
    if not 0 <= request.delay_s <= MAX_DELAY:
        errors.append(FieldError("/delay_s", f"{request.delay_s:g} is not between 0 and {MAX_DELAY:g} seconds"))
    if request.labels:
        errors += _label_errors(request.labels)
    return errors


def _label_errors(labels: Mapping[str, str]) -> list[FieldError]:
    errors = []
    if len(labels) > MAX_LABELS:
        errors.append(FieldError("/labels", f"there may be {MAX_LABELS} labels at most"))
    rule = f"names and values are Unicode text of at most {MAX_LABEL} characters"
    for name, value in labels.items():
        if len(name) > MAX_LABEL or len(value) > MAX_LABEL or clean(name + value) != name + value:
            errors.append(FieldError(f"/labels/{clean(name[:40])}", rule))
    return errors


def _within_batch(refused: RequestError, index: int) -> RequestError:
    errors = [FieldError(f"/tasks/{index}{e.path}", e.message) for e in refused.errors]
    errors = errors or [FieldError(f"/tasks/{index}", refused.detail)]
    detail = f"task {index} of the batch is refused, so none was stored: {refused.detail}"
    return RequestError("invalid", detail, errors=errors, retry_after=refused.retry_after)
